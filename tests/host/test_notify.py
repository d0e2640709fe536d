import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from homed.host.notify import Notifier, listen_sockets

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = f"@homed-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        listener.settimeout(2)
        yield listener, name


def test_systemd_hears_each_message(systemd: tuple[socket.socket, str]) -> None:
    listener, name = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name})
    assert notifier.ready("3 services up")
    assert listener.recv(4096) == b"READY=1\nSTATUS=3 services up"
    assert notifier.status("pulling")
    assert listener.recv(4096) == b"STATUS=pulling"
    assert notifier.stopping()
    assert listener.recv(4096) == b"STOPPING=1"
    assert notifier.watchdog()
    assert listener.recv(4096) == b"WATCHDOG=1"


def test_reloading_says_when_it_began(systemd: tuple[socket.socket, str]) -> None:
    listener, name = systemd
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    Notifier({"NOTIFY_SOCKET": name}).reloading()
    first, second = listener.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(1) // 1000


def test_a_status_of_two_lines_is_no_second_assignment(systemd: tuple[socket.socket, str]) -> None:
    listener, name = systemd
    Notifier({"NOTIFY_SOCKET": name}).status("pulled\nREADY=1")
    assert listener.recv(4096) == b"STATUS=pulled READY=1"


def test_outside_systemd_nothing_is_said() -> None:
    notifier = Notifier({})
    assert not any([notifier.ready("x"), notifier.status("x"), notifier.reloading(), notifier.watchdog()])
    assert notifier.watchdog_interval() is None


def test_a_systemd_that_does_not_listen_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("up")
    assert "READY=1" in caplog.text


def test_a_full_queue_does_not_hold_homed_up(tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name)
        notifier = Notifier({"NOTIFY_SOCKET": name})
        started = time.monotonic()
        # The kernel takes net.unix.max_dgram_qlen messages that nobody reads.
        while notifier.watchdog():
            pass
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(environment: dict[str, str], interval: float | None) -> None:
    assert Notifier(environment).watchdog_interval() == interval


LISTENER = """
import os
from homed.host.notify import listen_sockets
for each in listen_sockets():
    print(each.name, each.socket.getsockname()[1], each.socket.family.name, each.socket.getblocking())
print("LISTEN_FDS" in os.environ, len(listen_sockets()))
"""


def activate(code: str, names: str = "http:metrics", python: tuple[str, ...] = ()) -> tuple[str, list[int]]:
    """Hand two sockets over as systemd does: from descriptor 3 on, with LISTEN_PID the program's own."""
    pytest.importorskip("systemd.daemon")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        script = (
            f'exec 3<&{one.fileno()} 4<&{two.fileno()}; LISTEN_PID=$$ exec "$@"'
            if min(one.fileno(), two.fileno()) > 4
            else pytest.skip("descriptors 3 and 4 are taken by the sockets themselves")
        )
        ran = subprocess.run(
            ["bash", "-c", script, "bash", sys.executable, *python, "-c", code],
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": names},
            pass_fds=[one.fileno(), two.fileno()],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        return ran.stdout, [one.getsockname()[1], two.getsockname()[1]]


def test_sockets_that_systemd_passed_are_taken_once_with_their_names() -> None:
    said, (one, two) = activate(LISTENER)
    assert said.splitlines() == [f"http {one} AF_INET False", f"metrics {two} AF_INET False", "False 0"]


def test_without_systemd_python_sockets_that_were_passed_are_an_error() -> None:
    code = (
        "import sys; sys.modules['systemd'] = None\n"
        "from homed.host.notify import listen_sockets\n"
        "try: listen_sockets()\nexcept RuntimeError as error: print(error)"
    )
    said, _ = activate(code)
    assert said == "systemd passed sockets to homed, but systemd-python is not installed\n"


def test_sockets_meant_for_another_process_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "2")
    assert listen_sockets() == []
