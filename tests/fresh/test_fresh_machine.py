"""What the documents tell a newcomer to do, done on a Debian that nothing was installed on by hand."""

import os
import re
import subprocess

import pytest

from tests.boards.rig.cache import REPOSITORY

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="a fresh Debian is booted, which only root can"),
    pytest.mark.parametrize("release", ["bookworm", "trixie"]),
]

_SERVED = """
    until curl --silent --fail http://127.0.0.1:8080/health >/dev/null 2>&1; do
        sleep 1
        tries=$((${tries:-0} + 1))
        [ "$tries" -lt 600 ] || { echo "homed does not answer"; exit 1; }
    done
"""
_PAGES = """
    for page in /docs /redoc /openapi.json; do
        curl --silent --show-error --fail --location --output /dev/null http://127.0.0.1:8080$page
    done
"""


def run(release: str, script: str, timeout: int) -> str:
    """Run a script with tools/fresh and return what it printed."""
    command = [str(REPOSITORY / "tools/fresh"), release, f"set -euo pipefail\n{script}"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def commands(document: str) -> list[str]:
    """Return the blocks of shell commands in a document."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    return [str(block) for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]


def test_make_run_serves_and_the_five_minutes_of_the_readme_work(release: str) -> None:
    (quickstart,) = commands("README.md")
    said = run(
        release,
        f"""
        apt-get update -qq
        make run >/root/run.log 2>&1 &
        homed=$!
        trap 'tail -n 20 /root/run.log' EXIT
        {_SERVED}
        {_PAGES}
        {quickstart}
        kill $homed
        """,
        timeout=1200,
    )
    assert '"status":"running"' in said
    assert said.count("hello\n") >= 3


def test_the_tests_without_root_parts_pass(release: str) -> None:
    said = run(release, "make test BOARDS=0", timeout=3500)
    assert re.search(r"\d+ passed", said)


def test_a_board_is_installed_as_the_units_readme_says(release: str) -> None:
    packages, files = commands("units/README.md")
    said = run(
        release,
        f"""
        apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-venv >/dev/null
        make wheel
        mkdir /root/board && cp -r dist/homed-*.whl units requirements /root/board && cd /root/board
        {packages}
        {files}
        systemctl enable --now homed
        {_SERVED}
        {_PAGES}
        systemctl is-active homed
        journalctl -u homed --no-pager -o cat
        """,
        timeout=1800,
    )
    assert "\nactive\n" in said
    assert "credential" not in said, "systemd complains about credentials that nobody gave"
