"""What a run stood on, and what it left out: printed at its end, so that nothing is left out in silence."""

import os
import platform
import shutil
import subprocess
from collections import Counter

import pytest
from hypothesis import settings

# CI looks at the same examples each time, so that what it says of a change is about the change; by hand each run looks
# further.
# No deadline: on a busy machine it would be the machine that fails.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("by hand", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "by hand")

_PARTS = (
    ("Docker Engine", ("dockerd", "--version")),
    ("systemd-nspawn", ("systemd-nspawn", "--version")),
    ("mmdebstrap", ("mmdebstrap", "--version")),
    ("Chromium", ("chromium", "--version")),
    ("RAUC", ("rauc", "--version")),
)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reporter = terminalreporter
    reporter.section("what this ran on")
    reporter.write_line(f"Python {platform.python_version()} on {platform.machine()}, kernel {platform.release()}")
    reporter.write_line("as root" if os.geteuid() == 0 else "not as root")
    for name, command in _PARTS:
        reporter.write_line(f"{name}: {_version(command)}")
    used = Counter(
        str(report.nodeid).split("::")[0] for report in reporter.stats.get("passed", ()) if report.when == "call"
    )
    boards = sum(count for path, count in used.items() if path.startswith("tests/boards/"))
    engine = sum(count for path, count in used.items() if path.startswith("tests/engine/"))
    reporter.write_line(f"on booted boards: {boards} tests; on a Docker Engine of their own: {engine} tests")
    reporter.section("what was left out")
    reasons = Counter(str(report.longrepr[2]) for report in reporter.stats.get("skipped", ()))
    for reason, count in reasons.most_common():
        reporter.write_line(f"{count} tests: {reason.removeprefix('Skipped: ')}")
    if not reasons:
        reporter.write_line("nothing")


def _version(command: tuple[str, ...]) -> str:
    if shutil.which(command[0]) is None:
        return "not installed"
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return "installed"
    return (said.stdout or said.stderr).partition("\n")[0].strip()
