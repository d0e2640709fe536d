"""homed on a board, driven as its owner drives it: by systemctl, by files, and over its address from outside."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from .rig.board import Board
from .rig.cache import REPOSITORY
from .rig.images import IMAGE
from .rig.install import HOME, install_wheel
from .rig.process import until

UNIT: Final = "homed.service"
STATE: Final = "/var/lib/homed"
CONFIG: Final = "/etc/homed/homed.toml"
# Ends at once when it is told to: process 1 of a container heeds only the signals that it asks for.
WORK: Final = ("sh", "-c", "trap exit TERM; sleep 1000000 & wait")

_PORT: Final = 8080
_DROP_INS: Final = "/run/systemd/system/homed.service.d"
_OPEN: Final = build_opener(ProxyHandler({}))
_OUTSIDE: Final = """\
[api]
host = "0.0.0.0"
[api.limits]
enabled = false
[containers]
settle_time = 0.1
"""


class Answer(NamedTuple):
    status: int
    body: Any
    headers: Mapping[str, str]


class Container(NamedTuple):
    """`pid` is 0 where it does not run; `started` is a time that can be compared as text."""

    id: str
    pid: int
    started: str


class Homed:
    """homed, installed as units/README.md says, and a key to it."""

    def __init__(self, board: Board, wheel: Path) -> None:
        self.board: Final = board
        install_wheel(board, wheel)
        board.push(REPOSITORY / "units", "/tmp/homed/units")
        board.run("sh", "-euc", f"cd /tmp/homed\n{installation()}")
        board.run("systemctl", "enable", UNIT)
        self.key: Final = self.make_key("operator")
        self._as_usual = False

    def as_usual(self) -> None:
        """Running, reachable from outside, without services; cheap where it is so already."""
        if not self._as_usual or self.state() != "active":
            self.board.run("rm", "-rf", _DROP_INS)
            self.board.run("systemctl", "daemon-reload")
            self.configure(_OUTSIDE)
            self.restart()
            self._as_usual = True
        until("homed to be ready", lambda: self.call("GET", "/health/ready").status == 200, timeout=30)
        until("its services to go", self._without_services, timeout=60)

    def unusual(self) -> None:
        """To be said before the board's files or units are changed: the next test finds all as usual again."""
        self._as_usual = False

    @contextmanager
    def other_state(self, size: str | None = None) -> Iterator[None]:
        """homed is stopped and its state set aside: there is none, or an empty disk of its own of that size."""
        run = self.board.run
        self.unusual()
        run("systemctl", "stop", UNIT)
        run("mv", STATE, f"{STATE}.aside")
        if size is not None:
            run("mkdir", STATE)
            run("mount", "-t", "tmpfs", "-o", f"size={size}", "homed", STATE)
        try:
            yield
        finally:
            run("systemctl", "stop", UNIT)
            if size is not None:
                run("umount", STATE)
            run("rm", "-rf", STATE)
            run("mv", f"{STATE}.aside", STATE)

    def configure(self, text: str) -> None:
        self.board.write(CONFIG, text)

    def drop_in(self, text: str) -> None:
        """Change the unit until the test is over."""
        self.board.write(f"{_DROP_INS}/test.conf", text)
        self.board.run("systemctl", "daemon-reload")

    def make_key(self, name: str, scope: str = "admin") -> str:
        """A running homed sees it within a second."""
        return self.board.run("homed", "key", "create", name, "--scope", scope).stdout.strip()

    def restart(self) -> None:
        self.board.run("systemctl", "restart", UNIT)

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.board.run("systemctl", "show", "--value", f"--property={name}", UNIT).stdout.strip()

    def state(self) -> str:
        return self.show("ActiveState")

    def pid(self) -> int:
        return int(self.show("MainPID"))

    def wait_for_successor(self, of: int) -> None:
        """Wait until another process than `of` is homed and is ready."""
        until("homed to come back", lambda: self.state() == "active" and self.pid() not in (0, of), timeout=60)

    def messages(self, *options: str) -> list[str]:
        """What the journal has of the unit: homed's words and systemd's, oldest first."""
        return [str(entry["MESSAGE"]) for entry in self.board.journal(UNIT, *options)]

    def cursor(self) -> str:
        """The journal's end, as an option: what comes after it is new."""
        said = self.board.run("journalctl", "--quiet", "--lines=0", "--show-cursor").stdout
        return "--after-cursor=" + said.partition("cursor: ")[2].strip()

    def wait_for_message(self, pattern: str, *options: str, timeout: float = 20) -> str:
        """The first message that fits."""
        found: list[str] = []

        def look() -> bool:
            found[:] = [message for message in self.messages(*options) if re.search(pattern, message)]
            return bool(found)

        until(f"the journal to say {pattern!r}", look, timeout)
        return found[0]

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = "",
        headers: Mapping[str, str] = {},
        timeout: float = 70,
    ) -> Answer:
        """A request from the machine to the board's address, with the operator's key; None sends none."""
        sent = dict(headers)
        if key is not None:
            sent["X-API-Key"] = key or self.key
        data = None
        if body is not None:
            data, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = Request(f"http://{self.board.address}:{_PORT}{path}", data, sent, method=method)
        try:
            with _OPEN.open(request, timeout=timeout) as response:
                return Answer(response.status, _parsed(response.read()), dict(response.headers))
        except HTTPError as error:
            with error:
                return Answer(error.code, _parsed(error.read()), dict(error.headers))

    def create(self, name: str, **fields: object) -> None:
        """A service that does nothing, for ever."""
        answer = self.call("POST", "/api/v1/services", service(name, **fields))
        assert answer.status == 201, answer

    def status(self, name: str) -> str:
        return str(self.call("GET", f"/api/v1/services/{name}").body["status"])

    def wait_for(self, name: str, status: str = "running") -> None:
        until(f"{name} to be {status}", lambda: self.status(name) == status, timeout=60)

    def container(self, name: str) -> Container:
        form = "{{.Id}} {{.State.Pid}} {{.State.StartedAt}}"
        identity, pid, started = self.board.run("docker", "inspect", f"--format={form}", name).stdout.split()
        return Container(identity, int(pid), started)

    def _without_services(self) -> bool:
        """Delete what can be deleted; whether nothing is left. What another one depends on goes after it."""
        gone = True
        for name in names(self.call("GET", "/api/v1/services").body["services"]):
            gone &= self.call("DELETE", f"/api/v1/services/{name}").status == 200
        return gone

    def curl(self, *arguments: str, check: bool = True) -> str:
        """What is answered to a request from the board itself."""
        return self.board.run("curl", "--silent", "--show-error", "--fail", *arguments, check=check).stdout


def service(name: str, **fields: object) -> dict[str, object]:
    """What is sent to make a service; without other fields it does nothing, for ever."""
    return {"name": name, "image": IMAGE, "command": WORK, **fields}


def build_wheel(folder: Path) -> Path:
    """The wheel of the repository as it is."""
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY))
    subprocess.run([sys.executable, *build], check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    return wheel


def installation() -> str:
    """Return the second block of commands in units/README.md: it installs the files beside it."""
    text = (REPOSITORY / "units" / "README.md").read_text()
    packages, commands, *_ = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    assert HOME in packages and HOME in commands
    return str(commands)


def names(services: Sequence[Mapping[str, Any]]) -> set[str]:
    return {str(service["name"]) for service in services}


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")
