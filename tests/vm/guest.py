"""What runs on the machine: a root shell for the test, and homed's API as its clients reach it."""

import json
import socket
from collections.abc import Callable, Collection, Mapping
from time import monotonic, sleep
from typing import Any, Final, NamedTuple, TypeVar
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from tests.boards.rig.process import RigError

from .qemu import Machine

T = TypeVar("T")

BOOT: Final = 240
"""Seconds from power on to a shell, at most: a machine that is busy with other tests emulates slowly."""

ENDED: Final = frozenset({"good", "rolled_back", "failed", "cancelled"})

_DONE: Final = "shell-ended-with"
_OPEN: Final = build_opener(ProxyHandler({}))


class Answer(NamedTuple):
    status: int
    body: Any


class Guest:
    """The system on a machine, over all its boots."""

    def __init__(self, machine: Machine, key: str) -> None:
        self.machine: Final = machine
        self.boot = ""
        self._key: Final = key

    def shell(self, script: str, timeout: float = 30, check: bool = True) -> str:
        """Run a script as root and return what it wrote; RigError where it fails, or nobody answers."""
        said = self._talk(f"( {script}\n) </dev/null 2>&1; printf '\\n{_DONE} %d' $?; exit\n", timeout)
        output, mark, code = said.rpartition(f"\n{_DONE} ")
        if not mark:
            raise RigError(f"{self.machine.name}: the shell broke off: {said[-500:]!r}")
        if check and int(code):
            raise RigError(f"{self.machine.name}: {script!r} failed ({code}):\n{output[-4000:]}")
        return output

    def has_booted(self) -> bool:
        """Whether the system answers from a boot that was not seen yet; then this is the one that was."""
        found = self.shell("cat /proc/sys/kernel/random/boot_id", timeout=10).strip()
        new, self.boot = found != self.boot, found
        return new

    def wait_for_boot(self, timeout: float = BOOT) -> None:
        """Wait for a boot that was not seen yet."""
        self.wait("a boot", self.has_booted, timeout)

    def slot(self) -> str:
        """A or B, from which the kernel was started."""
        words = self.shell("cat /proc/cmdline").split()
        (slot,) = (word.removeprefix("rauc.slot=") for word in words if word.startswith("rauc.slot="))
        return slot

    def version(self) -> str:
        """Which system this is."""
        return self.shell("cat /etc/board-version").strip()

    def wait_for_homed(self, timeout: float = 120) -> None:
        """Wait until homed serves."""
        # Not /health/ready: there is no Docker Engine here.
        self.wait("homed to serve", lambda: self.call("GET", "/health/live").status == 200, timeout)

    def call(self, method: str, path: str, body: object = None, timeout: float = 60) -> Answer:
        """A request to homed; OSError where it cannot be reached."""
        headers = {"X-API-Key": self._key, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"http://127.0.0.1:{self.machine.api_port}{path}", data, headers, method=method)
        try:
            with _OPEN.open(request, timeout=timeout) as response:
                return Answer(response.status, _parsed(response.read()))
        except HTTPError as error:
            with error:
                return Answer(error.code, _parsed(error.read()))

    def get(self, path: str) -> Any:
        """What homed answers; RigError if it is no success."""
        answer = self.call("GET", path)
        if answer.status != 200:
            raise RigError(f"{self.machine.name}: GET {path}: {answer.status} {answer.body}")
        return answer.body

    def install(self, bundle: str, reboot: str) -> str:
        """Have homed install a bundle, whatever its version; the update's id."""
        wanted = {"bundle_path": bundle, "reboot": reboot, "allow_downgrade": True}
        answer = self.call("POST", "/api/v1/update/install", wanted)
        if answer.status != 200:
            raise RigError(f"{self.machine.name}: {bundle} was refused: {answer.status} {answer.body}")
        return str(answer.body["id"])

    def update(self, identity: str) -> Mapping[str, Any]:
        """An update as homed tells of it."""
        found: Mapping[str, Any] = self.get(f"/api/v1/update/history/{identity}")
        return found

    def wait_for_update(self, identity: str, states: Collection[str], timeout: float) -> Mapping[str, Any]:
        """Wait until an update is in one of some states; RigError at once where it ended in another."""

        def look() -> Mapping[str, Any] | None:
            seen = self.update(identity)
            return seen if seen["state"] in states or seen["state"] in ENDED else None

        found = self.wait(f"update {identity} to be {' or '.join(sorted(states))}", look, timeout)
        if found["state"] not in states:
            raise RigError(f"{self.machine.name}: update {identity} ended as {found['state']}: {found}")
        return found

    def status_of(self, slot: str) -> Mapping[str, Any]:
        """A slot as homed tells of it, once RAUC was asked."""

        def look() -> Mapping[str, Any] | None:
            slots = self.get("/api/v1/update/status")["slots"]
            return next((one for one in slots if one["name"] == slot), None)

        return self.wait(f"what RAUC says of {slot}", look, 60)

    def wait(self, what: str, look: Callable[[], T | None], timeout: float, every: float = 0.5) -> T:
        """The first true value of `look`; that nobody answers is no value. RigError after `timeout` seconds."""
        end = monotonic() + timeout
        last: object = None
        while True:
            try:
                value = look()
                if value:
                    return value
                last = value
            except (OSError, RigError) as error:
                last = error
            self.machine.check()
            if monotonic() > end:
                raise RigError(f"{self.machine.name}: waited {timeout:g} s in vain for {what}; last: {last}")
            sleep(every)

    def _talk(self, text: str, timeout: float) -> str:
        end = monotonic() + timeout
        parts: list[bytes] = []
        with socket.create_connection(("127.0.0.1", self.machine.shell_port), timeout=5) as connection:
            connection.sendall(text.encode())
            while True:
                connection.settimeout(max(0.01, end - monotonic()))
                part = connection.recv(65536)
                if not part:
                    return b"".join(parts).decode(errors="replace")
                parts.append(part)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")
