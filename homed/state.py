"""The state directory before anything in it is read: held by one homed, and fit to be read by this one."""

import contextlib
import fcntl
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from homed import __version__
from homed.errors import HomedError, StoreError
from homed.store import migrations
from homed.updates import putback, statecopy, statefiles
from homed.updates.statecopy import Act, Settled, Stamp

log = logging.getLogger(__name__)


class StateDirectory:
    """Held for as long as the block lasts; StoreError where another homed holds it.

    What a newer homed has written in a system that was rolled back makes room for the copy from before that update.
    """

    def __init__(self, path: Path):
        # What works for homed begins elsewhere: a relative path is none to it.
        self.path = path.absolute()
        self.settled: Settled | None = None
        self._file: Lock | None = None

    @property
    def updates(self) -> Path:
        return self.path / "updates"

    @property
    def restored_for(self) -> str | None:
        """The id of the update whose copy was put back at this start."""
        done = self.settled.put_back if self.settled is not None else None
        return done.copy.parent.name if done is not None else None

    def __enter__(self) -> Self:
        self._file = lock(self.path)
        try:
            self.settled = statecopy.settle(self.path, __version__, max(migrations.steps()), self.updates)
        except BaseException:
            self._file.close()
            raise
        if self.settled.act is not Act.KEEP:
            log.warning("%s", self.settled.reason)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def sign(self) -> None:
        """Say that this homed writes here from now on; not where it may not, which the store then says."""
        mine = Stamp(__version__, max(migrations.steps()))
        if statecopy.read_stamp(self.path / statefiles.STAMP) == mine:
            return
        if self.settled is not None and self.settled.act is Act.REFUSE:
            return
        try:
            statecopy.write_stamp(self.path, mine.homed, mine.schema)
        except HomedError as error:
            # A full disk must not keep homed from its containers; nothing else can be written there either.
            log.error("%s", error.message)  # noqa: TRY400  its message says all

    def copy(self, update: Path) -> None:
        """Copy the state into the folder of an update."""
        statecopy.copy(self.path, update / "state", __version__)


def require_whole(state: Path) -> None:
    """StoreError where a copy is half put back: what is opened now would be taken for the state."""
    if putback.is_under_way(state):
        raise StoreError("a copy of the state is being put back: start homed, which ends it")


class Lock:
    """The state directory, held as long as this is open."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def lock(state: Path) -> Lock:
    """Hold the state directory until the lock is closed. StoreError where another homed does."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = _open_lock(state)
    except OSError as error:
        raise StoreError(f"the state directory {state} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreError(f"another homed uses {state}") from error
    return Lock(descriptor)


def _open_lock(state: Path) -> int:
    """Open the file `lock`, or the directory if the filesystem is read-only or full. Raises: OSError."""
    file = state / "lock"
    for path, flags in ((file, os.O_RDWR | os.O_CREAT), (file, os.O_RDONLY)):
        with contextlib.suppress(OSError):
            return os.open(path, flags | os.O_CLOEXEC, 0o600)
    return os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
