"""What this process's boards keep while it runs, and the removal of what a killed one left."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Self

from .cache import cache, locked, remove
from .process import RigError, until


class Workspace:
    """A directory and a control group of this process's own, in which each board gets one.

    Boards die with the process that made them (see `process.spawn`), and their mounts and network with their
    namespaces. Directories and control groups do not: a workspace whose lock is free belonged to a process
    that was killed, and the next one to start removes it.
    """

    def __init__(self) -> None:
        runs = cache() / "run"
        runs.mkdir(exist_ok=True)
        with locked(cache() / "run.lock"):
            _sweep(runs)
            self.path = Path(mkdtemp(prefix=f"{os.getpid()}-", dir=runs))
            self._lock = (self.path / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.cgroup = _cgroup_of(self.path)

    def close(self) -> None:
        """Kill what still runs in it and remove it."""
        with locked(cache() / "run.lock"):
            discard_cgroup(self.cgroup)
            remove(self.path)
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def kill_cgroup(cgroup: Path) -> None:
    """Kill every process in a control group and below it, all at once, and wait until they are gone."""
    with suppress(FileNotFoundError):
        (cgroup / "cgroup.kill").write_text("1")
    until(f"the processes in {cgroup.name} to die", lambda: not populated(cgroup), timeout=30, every=0.01)


def discard_cgroup(cgroup: Path) -> None:
    """Kill what is in a control group and remove it with all below it."""
    if not cgroup.exists():
        return
    kill_cgroup(cgroup)
    for directory, _, _ in os.walk(cgroup, topdown=False):
        Path(directory).rmdir()


def populated(cgroup: Path) -> bool:
    """Whether a process lives in a control group or below it."""
    try:
        return "populated 1" in (cgroup / "cgroup.events").read_text()
    except FileNotFoundError:
        return False


def _sweep(runs: Path) -> None:
    for path in runs.iterdir():
        if _abandoned(path):
            discard_cgroup(_cgroup_of(path))
            remove(path)


def _abandoned(path: Path) -> bool:
    with (path / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _cgroup_of(path: Path) -> Path:
    return _hierarchy() / f"homed-boards-{path.name}"


def _hierarchy() -> Path:
    """Where cgroup v2 is mounted: beside v1 on some machines, alone on most."""
    for point, kind in _mounts():
        if kind == "cgroup2":
            return Path(point)
    raise RigError("cgroup v2 is not mounted on this machine")


def _mounts() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        yield before.split()[4], after.split()[0]
