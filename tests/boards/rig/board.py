"""A board as a test sees it: a machine that boots, runs commands, reboots and loses power."""

import json
import os
import re
import shlex
import signal
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Final, Self

from .cache import remove
from .machine import Machine
from .network import Network
from .process import RigError, until
from .workspace import Workspace

Done = subprocess.CompletedProcess[str]

# A board's own, and nothing of the environment that the tests run in.
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
}

_AS_UNIT: Final = ("systemd-run", "--quiet", "--collect", "--pipe", "--wait", "--")


class Board:
    """A machine with Debian on it. It keeps its disk from power-on to power-on, until it is closed."""

    def __init__(self, name: str, layers: Sequence[Path], workspace: Workspace, network: Network) -> None:
        self.name: Final = name
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,11}", name):
            # It names a host, and with three letters before it a link, which has 15 at most.
            raise RigError(f"{name!r} names no board: a letter, then up to 11 letters, digits and hyphens do")
        self._path: Final = workspace.path / name
        if self._path.exists():
            raise RigError(f"there is a board {name} already")
        interface = network.join()
        self.address: Final = interface.partition("/")[0]
        self._machine = Machine(name, layers, self._path, workspace.cgroup / name, network)
        self._install("etc/hostname", f"{name}\n")
        self._install("etc/hosts", f"127.0.0.1\tlocalhost\n::1\tlocalhost\n{self.address}\t{name}\n")
        self._install("etc/board-network", f"ADDRESS={interface}\n")

    @property
    def leader(self) -> int:
        """The number that the board's process 1 has on this machine."""
        leader = self._machine.leader
        if leader is None:
            raise RigError(f"{self.name} is not running")
        return leader

    @property
    def on(self) -> bool:
        """Whether it has power: a board that has shut itself down has none."""
        return self._machine.on

    @property
    def disk(self) -> Path:
        """What it has written to its root, as a directory of this machine; change it only while it is off."""
        return self._machine.disk

    def start(self, wait: bool = True) -> None:
        """Switch it on and, unless told otherwise, wait until it has booted."""
        self._machine.power_on()
        if wait:
            self.wait_running()

    def stop(self, timeout: float = 90) -> None:
        """Shut it down in its own order."""
        self._machine.power_off(timeout)

    def reboot(self, timeout: float = 90) -> None:
        """Shut it down in its own order, let it start again, and wait until it has booted."""
        with self.rebooting(timeout):
            self._machine.reset()

    @contextmanager
    def rebooting(self, timeout: float = 90) -> Iterator[None]:
        """For what makes the board reboot itself, as an update does; it ends when that has booted again."""
        before = self.leader
        yield
        until(f"{self.name} to reboot", lambda: self._machine.leader not in (None, before), timeout)
        self.wait_running()

    def cut_power(self) -> None:
        """End all that runs in it in one instant. What it wrote is on its disk, synced or not."""
        self._machine.cut_power()

    def close(self) -> None:
        """Switch it off without ado and throw it away."""
        self._machine.discard()
        remove(self._path)

    def wait_running(self, timeout: float = 60) -> tuple[str, ...]:
        """Wait until it has booted, and return the units that failed to."""
        try:
            until(f"{self.name} to boot", lambda: self._booted(timeout), timeout)
        except RigError as error:
            raise RigError(f"{error}; its console:\n{self._machine.last_words()}") from None
        return self.failed_units()

    def failed_units(self) -> tuple[str, ...]:
        """The names of the units that are in state failed."""
        listed = json.loads(self.run("systemctl", "list-units", "--failed", "--output=json").stdout)
        return tuple(unit["unit"] for unit in listed)

    def run(self, *argv: str, check: bool = True, timeout: float = 60, input: str | bytes | None = None) -> Done:
        """Run a command as root, in a clean environment; RigError if it is too slow or, with check, fails."""
        return self._enter(argv, check, timeout, input)

    def run_unit(self, *argv: str, check: bool = True, timeout: float = 60, input: str | bytes | None = None) -> Done:
        """Run a command as a service of the board's systemd: in a control group of its own."""
        return self._enter((*_AS_UNIT, *argv), check, timeout, input)

    def shell(self) -> int:
        """Give whoever sits at the terminal a shell in the board."""
        terminal = {"TERM": os.environ.get("TERM", "dumb")}
        return subprocess.call([*self._nsenter(), "bash", "--login"], env=_ENVIRONMENT | terminal)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file in the board, and the directories that it needs."""
        data = text.encode()
        entry = tarfile.TarInfo(PurePosixPath(path).name)
        entry.size, entry.mode = len(data), mode
        packed = BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.addfile(entry, BytesIO(data))
        self._unpack(packed.getvalue(), str(PurePosixPath(path).parent))

    def push(self, local: Path, path: str) -> None:
        """Copy a file or a directory of this machine to `path` in the board."""
        packed = BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(local, arcname=PurePosixPath(path).name, filter=_as_root)
        self._unpack(packed.getvalue(), str(PurePosixPath(path).parent))

    def read(self, path: str) -> str:
        """The text of a file in the board."""
        return self.run("cat", path).stdout

    def journal(self, unit: str | None = None, *options: str) -> list[dict[str, Any]]:
        """The journal's entries for a unit, or for all, from all boots, oldest first."""
        selected = () if unit is None else (f"--unit={unit}",)
        done = self.run("journalctl", "--quiet", "--no-pager", "--output=json", *selected, *options)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _booted(self, timeout: float) -> bool:
        if not self._machine.on:
            raise RigError(f"{self.name} switched itself off while booting")
        if self._machine.leader is None:
            return False
        asked = self.run("systemctl", "is-system-running", "--wait", check=False, timeout=timeout)
        return asked.stdout.strip() in ("running", "degraded")

    def _install(self, path: str, text: str) -> None:
        """Write a file on the disk before the board is switched on."""
        target = self.disk / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def _unpack(self, archive: bytes, directory: str) -> None:
        self.run("mkdir", "-p", directory)
        self.run("tar", "--extract", "--no-same-owner", f"--directory={directory}", input=archive)

    def _nsenter(self) -> tuple[str, ...]:
        return ("nsenter", f"--target={self.leader}", "--all", "--")

    def _enter(self, argv: Sequence[str], check: bool, timeout: float, input: str | bytes | None) -> Done:
        data = input.encode() if isinstance(input, str) else input or b""
        # A session of its own, so that with the command all that it started can be ended when the time is up.
        process = subprocess.Popen(
            [*self._nsenter(), *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
            start_new_session=True,
        )
        with process:
            try:
                out, err = process.communicate(data, timeout)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise RigError(f"{self.name}: {shlex.join(argv)} did not end in {timeout:g} s") from None
                raise
        texts = (data.decode(errors="replace") for data in (out, err))
        done = Done(list(argv), process.returncode, *texts)
        if check and done.returncode:
            printed = f"{done.stdout}{done.stderr}".strip()[-4000:]
            raise RigError(f"{self.name}: {shlex.join(argv)} failed ({done.returncode}):\n{printed}")
        return done


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
