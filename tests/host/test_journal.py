import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from homed.host.journal import LogSink, configure, is_under_systemd

ROOT = Path(__file__).parents[2]
log = logging.getLogger("homed.test")


@pytest.fixture
def start() -> Iterator[Callable[..., LogSink]]:
    """`configure`, closed when the test ends."""
    sinks: list[LogSink] = []

    def begin(level: str = "info", **how: Any) -> LogSink:
        sinks.append(configure(level, **how))
        return sinks[-1]

    yield begin
    for sink in reversed(sinks):
        sink.close(1)


Start = Callable[..., LogSink]


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class Slow:
    """A journal that takes nothing until it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.sent: list[dict[str, str]] = []

    def __call__(self, *fields: str) -> None:
        self.let.wait(10)
        self.sent.append(dict(field.split("=", 1) for field in fields))


def test_json_goes_to_the_stream(start: Start) -> None:
    stream = io.StringIO()
    sink = start(stream=stream)
    log.info("pulled %s", "web", extra={"fields": {"service": "web"}})
    assert sink.flush(2)
    (line,) = lines(stream)
    assert (line["message"], line["service"], line["level"]) == ("pulled web", "web", "INFO")


def test_the_journal_gets_fields_under_systemd(start: Start) -> None:
    journal = Slow()
    journal.let.set()
    sink = start(under_systemd=True, send=journal)
    log.warning("slow", extra={"fields": {"duration_ms": 5000}})
    assert sink.flush(2)
    (sent,) = journal.sent
    assert (sent["MESSAGE"], sent["PRIORITY"], sent["DURATION_MS"]) == ("slow", "4", "5000")
    assert sent["CODE_FILE"] == __file__
    assert sent["CODE_FUNC"] == "test_the_journal_gets_fields_under_systemd"


def test_logging_does_not_wait_for_a_journal_that_hangs(start: Start) -> None:
    journal = Slow()
    sink = start(under_systemd=True, send=journal, capacity=100)
    started = time.monotonic()
    for number in range(300):
        log.info("%d", number)
    assert time.monotonic() - started < 1
    assert sink.dropped in {199, 200}  # one more where the thread holds a record already
    assert not sink.flush(0.05)
    journal.let.set()
    assert sink.flush(5)


def test_new_records_are_dropped_and_how_many_is_said(start: Start) -> None:
    journal = Slow()
    sink = start(under_systemd=True, send=journal, capacity=100)
    for number in range(300):
        log.info("%d", number)
    dropped = sink.dropped
    journal.let.set()
    assert sink.flush(5)
    kept = [sent["MESSAGE"] for sent in journal.sent if sent["LOGGER"] == "homed.test"]
    assert kept[:100] == [str(number) for number in range(100)]
    assert len(kept) == 300 - dropped
    told = [sent for sent in journal.sent if "DROPPED" in sent]
    assert sum(int(sent["DROPPED"]) for sent in told) == dropped
    assert told[-1]["MESSAGE"] == f"{told[-1]['DROPPED']} log records were dropped: too many at once"


def test_how_many_were_dropped_is_said_without_another_record(start: Start) -> None:
    journal = Slow()
    start(under_systemd=True, send=journal, capacity=10)
    for _ in range(30):
        log.info("x")
    journal.let.set()
    until = time.monotonic() + 5
    while not any("DROPPED" in sent for sent in journal.sent) and time.monotonic() < until:
        time.sleep(0.01)
    assert any("DROPPED" in sent for sent in journal.sent)


def test_close_writes_what_is_queued(start: Start) -> None:
    stream = io.StringIO()
    sink = start(stream=stream)
    for number in range(1000):
        log.info("%d", number)
    assert sink.close(5)
    assert [line["message"] for line in lines(stream)] == [str(number) for number in range(1000)]
    log.info("after")
    assert len(lines(stream)) == 1000


def test_close_gives_up_on_a_journal_that_hangs(start: Start) -> None:
    journal = Slow()
    sink = start(under_systemd=True, send=journal)
    log.info("x")
    started = time.monotonic()
    assert not sink.close(0.1)
    assert time.monotonic() - started < 1
    journal.let.set()


def test_a_write_that_fails_is_counted_and_the_next_succeeds(start: Start) -> None:
    sent: list[str] = []

    def fails_once(*fields: str) -> None:
        sent.append(fields[0])
        if len(sent) == 1:
            raise OSError(28, "No space left on device")

    sink = start(under_systemd=True, send=fails_once)
    log.info("one")
    log.info("two")
    assert sink.flush(2)
    assert sent == ["MESSAGE=one", "MESSAGE=two"]
    assert sink.failed == 1


def test_the_level_changes_live(start: Start) -> None:
    stream = io.StringIO()
    sink = start("warning", stream=stream)
    log.info("unheard")
    sink.set_level("DEBUG")
    log.debug("heard")
    sink.flush(2)
    assert [line["message"] for line in lines(stream)] == ["heard"]


@pytest.mark.parametrize("name", ["loud", "", "notset", "20"])
def test_a_level_that_is_none_is_refused_and_nothing_begun(name: str) -> None:
    handlers, threads = list(logging.getLogger().handlers), threading.active_count()
    with pytest.raises(ValueError, match="no log level"):
        configure(name, stream=io.StringIO())
    assert (logging.getLogger().handlers, threading.active_count()) == (handlers, threads)


def test_close_leaves_everything_as_it_was() -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), sys.excepthook, threading.excepthook, warnings.showwarning)
    sink = configure("debug", stream=io.StringIO())
    assert sink.close()
    after = (root.level, list(root.handlers), sys.excepthook, threading.excepthook, warnings.showwarning)
    assert after == before


def test_an_exception_that_no_thread_caught_is_logged(start: Start) -> None:
    stream = io.StringIO()
    sink = start(stream=stream)

    def fail() -> None:
        raise LookupError("password=hunter2")

    thread = threading.Thread(target=fail, name="puller")
    thread.start()
    thread.join()
    sink.flush(2)
    (line,) = lines(stream)
    assert (line["level"], line["message"]) == ("CRITICAL", "uncaught exception in thread puller")
    assert line["exception"].endswith("LookupError: password=***")


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_an_exception_that_ends_the_program_is_logged_before_it_ends() -> None:
    ran = run("from homed.host.journal import configure; configure('info'); 1 / 0")
    assert ran.returncode == 1
    (line,) = [json.loads(line) for line in ran.stderr.splitlines()]
    assert (line["message"], line["level"]) == ("uncaught exception", "CRITICAL")
    assert line["exception"].endswith("ZeroDivisionError: division by zero")


def test_a_warning_is_a_log_line_too() -> None:
    code = (
        "import warnings; from homed.host.journal import configure\n"
        "sink = configure('info'); warnings.warn('old'); sink.close()"
    )
    (line,) = [json.loads(line) for line in run(code).stderr.splitlines()]
    assert (line["logger"], line["level"]) == ("py.warnings", "WARNING")


def test_without_systemd_python_the_log_is_json_and_says_so() -> None:
    code = (
        "import sys; sys.modules['systemd'] = None\n"
        "from homed.host.journal import configure; configure('info', under_systemd=True).close()"
    )
    (line,) = [json.loads(line) for line in run(code).stderr.splitlines()]
    assert line["message"].startswith("systemd-python is missing")


def test_the_journal_is_known_by_its_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "stderr").open("w") as stream, (tmp_path / "other").open("w") as other:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert is_under_systemd(stream)
        assert not is_under_systemd(other)
        assert not is_under_systemd(io.StringIO())
        monkeypatch.setenv("JOURNAL_STREAM", "nonsense")
        assert not is_under_systemd(stream)
        monkeypatch.delenv("JOURNAL_STREAM")
        assert not is_under_systemd(stream)


JOURNALD = """
import logging, os, socket
from homed.host.journal import configure
os.mkdir("/run/systemd/journal")
journald = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journald.bind("/run/systemd/journal/socket")
journald.settimeout(5)
sink = configure("info", under_systemd=True)
logging.getLogger("homed.test").error("two\\nlines", extra={"fields": {"request_id": "r1", "nul": "a\\0b"}})
print(journald.recv(65536))
"""


def test_libsystemd_sends_what_was_logged() -> None:
    """The socket's path is fixed: it is bound on a tmpfs that only the test's own mount namespace sees."""
    pytest.importorskip("systemd.journal")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace needs root")
    if not Path("/run/systemd").is_dir():
        pytest.skip("there is no /run/systemd to mount over")
    inside = 'mount -t tmpfs tmpfs /run/systemd && exec "$@"'
    ran = subprocess.run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            inside,
            "sh",
            sys.executable,
            "-c",
            JOURNALD,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    sent = ran.stdout
    assert r"MESSAGE\n\t\x00\x00\x00\x00\x00\x00\x00two\nlines\n" in sent
    assert r"PRIORITY=3\nSYSLOG_IDENTIFIER=homed\nLOGGER=homed.test\n" in sent
    assert r"CODE_FILE=<string>\n" in sent
    assert r"REQUEST_ID=r1\n" in sent
    assert r"a\x00b" in sent
    assert len(re.findall("SYSLOG_IDENTIFIER", sent)) == 1
