"""All targets of a restore are swapped, or none: whatever ends it in between is undone, or finished, afterwards.

What was done to a target is seen from the target itself: which inode stands where, or which folders the holder has.
The journal says what must be known besides, and is written before. So every step may be done twice.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path

import msgspec

from homed.backups.worker import disk, journal, mountpoint, replacing
from homed.backups.worker.journal import Item, Journal, Phase
from homed.backups.worker.staging import BLOCKED, Kind, Place
from homed.errors import BackupConflictError, BackupError, BackupSpaceError

Warn = Callable[[str], None]


class Outcome(StrEnum):
    ROLLED_BACK = "rolled_back"
    COMPLETED = "completed"
    NOTHING = "nothing"


class Swap:
    """The swap of one restore: `begin` it, fill each `place.tree`, `swap`, then `finish` or `undo` it.

    BackupError, BackupSpaceError where it cannot be done. `warn` hears of what was found in the way.
    """

    def __init__(self, work: Path, written: Journal, warn: Warn):
        self._work = work
        self._journal = written
        self._warn = warn
        self._left = False
        self._tidied: set[Path] = set()

    @classmethod
    def begin(cls, work: Path, places: Sequence[Place], id: str, warn: Warn) -> "Swap":
        """Make the folders that are to be filled. Where that fails nothing is left."""
        check(places)
        with _told():
            items = tuple(_item(place) for place in places)
        swap = cls(work, Journal(phase=Phase.STAGING, id=id, items=items), warn)
        journal.save(work, swap._journal)
        try:
            with _told():
                for item in items:
                    _make(item.place)
        except BackupError:
            swap.undo()
            raise
        return swap

    def swap(self) -> None:
        """Put the new trees in place. Where that fails, everything is as it was, and nothing is left."""
        try:
            with _told():
                self._sync()
                items = tuple(_looked(item) for item in self._journal.items)
                self._write(Phase.SWAPPING, items)
                for item in items:
                    _put(item)
                self._sync()
                self._write(Phase.SWAPPED)
        except BackupError as error:
            try:
                self.undo()
            except BackupError as second:
                raise BackupError(f"{error.message}; nor could it be undone yet: {second.message}") from error
            raise

    def undo(self) -> None:
        """Put the old trees back, and remove the new ones. Idempotent; does nothing once `commit` has begun.

        Raises: BackupError, if not all old trees could be put back.
        """
        if self._journal.phase is Phase.FINISHING:
            return
        with _told():
            if self._journal.phase in (Phase.SWAPPING, Phase.SWAPPED):
                for item in reversed(self._journal.items):
                    _take_back(item, self._journal.id, self._warn)
                self._sync()
                self._note_undone()
            self._clean(old=True)

    def commit(self) -> None:
        """Commit the restore: from here on it cannot be undone, so homed must have completed its step.

        Mount point targets are complete afterwards; the old trees of the others still exist beside the new ones.
        """
        try:
            self._write(Phase.FINISHING)
        except BackupError:
            # The next start decides the same, because homed's step is done.
            self._journal = msgspec.structs.replace(self._journal, phase=Phase.FINISHING)
        self._tidy([item for item in self._journal.items if item.place.kind is Kind.INSIDE], old=False)

    def finish(self) -> None:
        """Remove the old trees. Warn of those that fail, and leave them to `clean_up`: the restore is committed."""
        if self._journal.phase is not Phase.FINISHING:
            self.commit()
        self._clean(old=False)

    def _clean(self, *, old: bool) -> None:
        """Remove the holders, then the journal. `old`: the old state is kept.

        The restore is either committed or undone: no error here makes it fail, and nothing waits for it.
        """
        self._tidy(self._journal.items, old=old)
        if old:
            for path in sorted({path for item in self._journal.items for path in item.made}, reverse=True):
                with suppress(OSError), disk.folder(path.parent) as above:
                    disk.unmake((above, path.name))
        self._try(self._sync)
        if self._left:
            with _told():
                journal.leave(self._work)
        else:
            with _told():
                journal.drop(self._work)

    def _tidy(self, items: Iterable[Item], *, old: bool) -> None:
        for item in items:
            holder = item.place.holder
            if holder not in self._tidied and self._try(partial(self._remove, item, old=old)):
                self._tidied.add(holder)

    def _try(self, act: Callable[[], None]) -> bool:
        """Run the action, and retry it once for transient errors. Warn and return False if it fails again."""
        try:
            try:
                act()
            except (BackupError, OSError):
                act()
        except (BackupError, OSError) as error:
            self._left = True
            self._warn(f"what was put aside is still there, and its removal is tried again: {_said(error)}")
            return False
        return True

    def _remove(self, item: Item, *, old: bool) -> None:
        with _holder(item, self._journal.phase) as (base, there):
            try:
                if there:
                    disk.remove((base, item.place.holder.name))
            finally:
                attributes = item.before if old else item.after
                if attributes is not None and self._journal.phase is Phase.STAGING:
                    attributes = mountpoint.later(base, attributes)  # only homed's folder has been in it
                if attributes is not None:
                    mountpoint.apply(base, attributes)

    def _sync(self) -> None:
        done = set()
        for item in self._journal.items:
            with disk.folder(item.place.base) as base:
                if (device := os.fstat(base).st_dev) not in done:
                    done.add(device)
                    disk.sync(base)

    def _write(self, phase: Phase, items: tuple[Item, ...] | None = None) -> None:
        changed = msgspec.structs.replace(self._journal, phase=phase, items=items or self._journal.items)
        journal.save(self._work, changed)
        self._journal = changed

    def _note_undone(self) -> None:
        """Record that the restore is undone. A full disk is no obstacle: the next start decides the same."""
        try:
            self._write(Phase.UNDONE)
        except BackupSpaceError:
            self._journal = msgspec.structs.replace(self._journal, phase=Phase.UNDONE)


def recover(work: Path, applied: bool, warn: Warn) -> Outcome:
    """End what a killed restore has left: all targets are new afterwards where homed had `applied` its side, else old.

    BackupError where that cannot be done yet (a filesystem is not mounted): then it is to be tried again later.
    """
    written = journal.load(work)
    if written is None:
        return Outcome.NOTHING
    swap = Swap(work, written, warn)
    if written.phase is Phase.FINISHING or (written.phase is Phase.SWAPPED and applied):
        swap.finish()
        return Outcome.COMPLETED
    swap.undo()
    return Outcome.ROLLED_BACK


def clean_up(work: Path) -> list[str]:
    """Remove the leftovers of an ended restore; return the reason if that fails again, or an empty string."""
    try:
        written = journal.load_left(work)
    except BackupError as error:
        return [error.message]
    why = []
    for item in () if written is None else written.items:
        try:
            with _holder(item, Phase.FINISHING) as (base, there):
                if there:
                    before = mountpoint.read(base)
                    disk.remove((base, item.place.holder.name))
                    os.utime(base, ns=(before.accessed, before.modified))
        except (BackupError, OSError) as error:
            why.append(_said(error))
    if not why:
        journal.drop_left(work)
    return why


def check(places: Sequence[Place]) -> None:
    """Check that no target contains or equals another. Raises: BackupConflictError (BACKUP_TARGET_BLOCKED)."""
    targets = [place.target for place in places]
    for one in targets:
        for other in targets:
            if one in other.parents or (one == other and targets.count(one) > 1):
                raise BackupConflictError(
                    f"{other} cannot be put back beside {one}, in which it lies",
                    code=BLOCKED,
                    details={"path": str(other)},
                )


def _item(place: Place) -> Item:
    with disk.folder(place.base) as base:
        before = mountpoint.read(base) if place.kind is Kind.INSIDE else None
        return Item(place=place, base=os.fstat(base).st_ino, filesystem=disk.filesystem(base), before=before)


def _make(place: Place) -> None:
    with disk.folder(place.base) as base:
        disk.make((base, place.holder.name))
        with disk.within(base, place.holder.name) as holder:
            disk.make((holder, place.tree.name))


def _looked(item: Item) -> Item:
    """What stands there now is what will be swapped: it may have come, changed or gone since it was staged."""
    with disk.folder(item.place.base) as base, disk.within(base, item.place.holder.name) as holder:
        if item.place.kind is Kind.INSIDE:
            return mountpoint.looked(item, base, holder)
        return replacing.looked(item)


def _put(item: Item) -> None:
    with disk.folder(item.place.base) as base, disk.within(base, item.place.holder.name) as holder:
        if item.place.kind is Kind.INSIDE:
            mountpoint.put(item, base, holder)
        else:
            replacing.put(item, holder)


def _take_back(item: Item, id: str, warn: Warn) -> None:
    with _holder(item, Phase.SWAPPING) as (base, there):
        if not there:
            return  # it was undone before
        with disk.within(base, item.place.holder.name) as holder:
            if item.place.kind is Kind.INSIDE:
                mountpoint.take_back(item, base, holder)
            else:
                replacing.take_back(item, holder, id, warn)


@contextmanager
def _holder(item: Item, phase: Phase) -> Iterator[tuple[int, bool]]:
    """The folder that has the holder, and whether it has. BackupError where it is not the one that had it."""
    missing = BackupError(f"{item.place.base} is not what it was: is its filesystem mounted? The restore is not ended")
    try:
        with disk.folder(item.place.base) as base:
            there = disk.number((base, item.place.holder.name)) is not None
            same = item.base == os.fstat(base).st_ino and item.filesystem == disk.filesystem(base)
            if not there and not same and phase is not Phase.STAGING:
                raise missing
            yield base, there
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing from error


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _raised(error) from error


def _raised(error: OSError) -> BackupError:
    kind = BackupSpaceError if error.errno in journal.FULL else BackupError
    return kind(f"the data could not be put in place: {_said(error)}")


def _said(error: BackupError | OSError) -> str:
    if isinstance(error, BackupError):
        return error.message
    names = " → ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{error.strerror}{f' ({names})' if names else ''}"
