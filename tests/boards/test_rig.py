"""The rig keeps its promises: boards boot, meet, persist, lose power, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Self
from urllib.request import ProxyHandler, build_opener

import pytest

from .rig.board import Board
from .rig.cache import REPOSITORY
from .rig.images import IMAGE, busybox_image, load_image
from .rig.install import HOME, LOCKS, dependencies, install_wheel
from .rig.network import Network
from .rig.process import RigError, until
from .rig.rack import Rack
from .rig.workspace import Workspace

# The first test of a cold run builds the root as well.
pytestmark = pytest.mark.timeout(300)


def test_board_boots_with_every_unit_running(boards: Rack) -> None:
    board = boards("one")

    assert board.run("systemctl", "is-system-running").stdout.strip() == "running"
    assert board.failed_units() == ()
    assert board.run("hostname").stdout.strip() == "one"


def test_boards_and_machine_reach_each_other(boards: Rack, board_network: Network) -> None:
    one, two = boards.together(("one", "two"))
    for board in (one, two):
        board.write("/srv/index.html", f"I am {board.name}")
        board.run("systemd-run", "--unit=web", "busybox", "httpd", "-f", "-p", "80", "-h", "/srv")
        until("its web server", lambda: _listens(board, 80), timeout=10)  # noqa: B023

    assert fetch(one, 80) == "I am one"
    assert fetch(two, 80) == "I am two"
    assert one.run("curl", "-sf", f"http://{two.address}/").stdout == "I am two"
    assert two.run("curl", "-sf", f"http://{one.address}/").stdout == "I am one"
    with _machines_web(board_network.host_address) as port:
        url = f"http://{board_network.host_address}:{port}/"
        assert one.run("curl", "-sf", url).stdout == "I am the machine"


def test_docker_runs_and_publishes_a_container_of_a_local_image(board: Board, board_root: Path) -> None:
    load_image(board, busybox_image(board_root))

    said = board.run("docker", "run", "--rm", IMAGE, "echo", "hello").stdout
    board.run("docker", "run", "-d", "-p", "8080:80", IMAGE, "httpd", "-f", "-h", "/www")
    until("the container's web server", lambda: _listens(board, 8080), timeout=10)

    assert said == "hello\n"
    assert fetch(board, 8080) == "busybox\n"


def test_reboot_keeps_disk_and_journal(boards: Rack, board_root: Path) -> None:
    board = boards("one")
    board.write("/var/lib/kept", "still here")
    load_image(board, busybox_image(board_root))
    before = board.leader

    board.reboot()

    assert board.leader != before
    assert board.read("/var/lib/kept") == "still here"
    assert board.run("docker", "images", "--quiet", IMAGE).stdout.strip()
    assert len({entry["_BOOT_ID"] for entry in board.journal("docker.service")}) == 2


def test_board_that_reboots_itself_comes_back(boards: Rack) -> None:
    board = boards("one")

    with board.rebooting():
        board.run("systemctl", "reboot")

    assert board.run("journalctl", "--list-boots", "--quiet").stdout.count("\n") >= 2


def test_orderly_stop_lets_units_finish(boards: Rack) -> None:
    board = boards("one")
    stop = "ExecStop=sh -c 'sleep 1; touch /var/lib/finished'"
    board.run("systemd-run", "--unit=slow", f"--property={stop}", "sleep", "infinity")

    board.stop()

    assert not board.on
    assert (board.disk / "var/lib/finished").exists()


def test_power_cut_keeps_what_was_synced_and_board_boots_again(boards: Rack, board_root: Path) -> None:
    board = boards("one")
    load_image(board, busybox_image(board_root))
    board.run("docker", "run", "--detach", "--restart=always", "--name=lasting", IMAGE, "sleep", "infinity")
    board.run("sh", "-c", "echo kept > /var/lib/kept; sync /var/lib/kept")
    stop = "ExecStop=touch /var/lib/finished"
    board.run("systemd-run", "--unit=slow", f"--property={stop}", "sleep", "infinity")

    board.cut_power()
    assert not board.on
    board.start()

    assert board.read("/var/lib/kept") == "kept\n"
    assert not (board.disk / "var/lib/finished").exists()
    assert board.failed_units() == ()
    state = ("docker", "inspect", "--format={{.State.Running}}", "lasting")
    until("the container", lambda: board.run(*state).stdout == "true\n", timeout=20)


def test_unit_runs_apart_and_returns_what_it_says(board: Board) -> None:
    done = board.run_unit("sh", "-c", "cat; echo oops >&2; cat /proc/self/cgroup; exit 3", input="in\n", check=False)

    assert done.returncode == 3
    assert done.stdout.startswith("in\n")
    assert "0::/system.slice/" in done.stdout
    assert done.stderr == "oops\n"


def test_command_that_fails_says_what_it_printed(board: Board) -> None:
    with pytest.raises(RigError, match=r"board: cat /nowhere failed \(1\):\ncat: /nowhere: No such file"):
        board.run("cat", "/nowhere")


def test_command_that_takes_too_long_is_ended_with_its_children(board: Board) -> None:
    with pytest.raises(RigError, match=r"did not end in 0\.5 s"):
        board.run("sh", "-c", "sleep 12345 & sleep 12345", timeout=0.5)

    until("its end", lambda: board.run("pgrep", "-f", "sleep 12345", check=False).returncode == 1, timeout=5)


def test_files_and_trees_arrive(board: Board, tmp_path: Path) -> None:
    (tmp_path / "tree/deep").mkdir(parents=True)
    (tmp_path / "tree/deep/leaf").write_text("green")

    board.push(tmp_path / "tree", "/opt/new/forest")
    board.write("/opt/new/run", "#!/bin/sh\necho ran\n", mode=0o755)

    assert board.read("/opt/new/forest/deep/leaf") == "green"
    assert board.run("stat", "--format=%U", "/opt/new/forest/deep/leaf").stdout == "root\n"
    assert board.run("/opt/new/run").stdout == "ran\n"


def test_environment_of_the_tests_does_not_reach_a_board(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS_ALONE", "1")

    assert "OURS_ALONE" not in board.run("env").stdout


def test_wheel_is_installed_over_the_layer_of_its_dependencies(
    boards: Rack, board_root: Path, tiny_wheel: Path
) -> None:
    board = boards("one", layers=[dependencies(board_root, *LOCKS)])

    install_wheel(board, tiny_wheel)

    program = "import aiohttp, systemd.journal, tiny; print(tiny.__file__)"
    assert board.run(f"{HOME}/bin/python", "-c", program).stdout.startswith(HOME)


def test_wheel_is_installed_from_a_wheelhouse(boards: Rack, tiny_wheel: Path, tmp_path: Path) -> None:
    board = boards("one")

    install_wheel(board, tiny_wheel, tmp_path)

    assert board.run(f"{HOME}/bin/python", "-c", "import tiny, systemd.journal").stdout == ""


def test_closed_boards_leave_nothing_behind(board_root: Path) -> None:
    with Workspace() as workspace, Network() as network, Rack(board_root, workspace, network) as rack:
        board = rack("one")
        load_image(board, busybox_image(board_root))
        board.run("docker", "run", "--detach", IMAGE, "sleep", "infinity")
        traces = Traces.of(workspace, network, board)
        assert len(traces.left()) > 5

    until("everything to be gone", lambda: traces.left() == [], timeout=10)


def test_boards_of_a_killed_process_die_and_are_swept_away(board_root: Path) -> None:
    program = (
        "import os\n"
        "from dataclasses import astuple\n"
        "from tests.boards.test_rig import *\n"
        "workspace, network = Workspace(), Network()\n"
        f"board = Rack(Path({str(board_root)!r}), workspace, network)('one')\n"
        "print(*astuple(Traces.of(workspace, network, board)), flush=True)\n"
        f"os.kill(os.getpid(), {signal.SIGKILL:d})\n"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    traces = Traces(*done.stdout.split())

    # What the kernel removes by itself, and what only the next run can.
    until("its board to die", lambda: {*traces.left()} <= {traces.cgroup, traces.directory}, timeout=10)
    Workspace().close()
    assert traces.left() == []


@pytest.fixture
def tiny_wheel(tmp_path: Path) -> Path:
    """A wheel with one empty module."""
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny.py", "")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    return path


def fetch(board: Board, port: int) -> str:
    """What a board answers to the machine over HTTP."""
    opener = build_opener(ProxyHandler({}))
    with opener.open(f"http://{board.address}:{port}/", timeout=10) as answer:
        return str(answer.read().decode())


def _listens(board: Board, port: int) -> bool:
    return bool(board.run("ss", "-Htln", f"sport = :{port}").stdout)


@contextmanager
def _machines_web(address: str) -> Iterator[int]:
    """A web server on the machine, at the port that is yielded."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"I am the machine")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer((address, 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@dataclass(frozen=True, slots=True)
class Traces:
    """By what a run's boards can be found on the machine."""

    cgroup: str
    directory: str
    link: str
    bridges_network: str
    boards_network: str

    @classmethod
    def of(cls, workspace: Workspace, network: Network, board: Board) -> Self:
        bridge = network.enter[1].removeprefix("--net=")
        link = f"/sys/class/net/{network.link}"
        namespaces = (os.readlink(bridge), os.readlink(f"/proc/{board.leader}/ns/net"))
        return cls(str(workspace.cgroup), str(workspace.path), link, *namespaces)

    def left(self) -> list[str]:
        """Those of its paths, mounts and processes that are there."""
        paths = [path for path in (self.cgroup, self.directory, self.link) if Path(path).exists()]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        processes = (path for path in Path("/proc").iterdir() if path.name.isdigit())
        return [
            *paths,
            *(mount for mount in mounts if self.directory in mount),
            *(path.name for path in processes if self._has(path)),
        ]

    def _has(self, process: Path) -> bool:
        try:
            network = os.readlink(process / "ns/net")
            return network in (self.bridges_network, self.boards_network) or (
                Path(self.cgroup).name in (process / "cgroup").read_text()
            )
        except OSError:
            return False
