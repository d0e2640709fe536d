"""All targets of a restore are swapped, or none: whatever ends it in between is undone, or finished, afterwards.

What was done to a target is seen from the target itself: which inode stands where, or which folders the holder has.
The journal says what must be known besides, and is written before. So every step may be done twice.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path

import msgspec

from homed.backups.worker import disk, journal, mountpoint, replacing
from homed.backups.worker.journal import Item, Journal, Phase
from homed.backups.worker.staging import Kind, Place
from homed.errors import BackupError, BackupSpaceError

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

    @classmethod
    def begin(cls, work: Path, places: Sequence[Place], id: str, warn: Warn) -> "Swap":
        """Make the folders that are to be filled. Where that fails nothing is left."""
        _check(places)
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
        """Have the old trees back, and remove the new ones. It may be done again. After `finish` began: nothing."""
        if self._journal.phase is Phase.FINISHING:
            return
        with _told():
            if self._journal.phase in (Phase.SWAPPING, Phase.SWAPPED):
                for item in reversed(self._journal.items):
                    _take_back(item, self._journal.id, self._warn)
                self._sync()
                self._note(Phase.UNDONE)
            self._clean(old=True)

    def finish(self) -> None:
        """Remove the old trees. From here on there is no way back, so it must be known that homed did its side.

        BackupError where they cannot be removed: all is new nevertheless, and `recover` tries it again.
        """
        with _told():
            self._note(Phase.FINISHING)
            self._clean(old=False)

    def _clean(self, *, old: bool) -> None:
        """Remove the holders, then the journal. `old`: it is the old state that stays."""
        for item in self._journal.items:
            with _holder(item, self._journal.phase) as (base, there):
                if there:
                    disk.remove((base, item.place.holder.name))
                attributes = item.before if old else item.after
                if attributes is not None and self._journal.phase is Phase.STAGING:
                    attributes = mountpoint.later(base, attributes)  # only homed's folder has been in it
                if attributes is not None:
                    mountpoint.apply(base, attributes)
        if old:
            for path in sorted({path for item in self._journal.items for path in item.made}, reverse=True):
                with suppress(FileNotFoundError, NotADirectoryError), disk.folder(path.parent) as above:
                    disk.unmake((above, path.name))
        self._sync()
        journal.drop(self._work)

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

    def _note(self, phase: Phase) -> None:
        """As `_write`; but on a full disk it is gone on: the same is decided again at the next start."""
        try:
            self._write(phase)
        except BackupSpaceError:
            self._journal = msgspec.structs.replace(self._journal, phase=phase)


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


def _check(places: Sequence[Place]) -> None:
    targets = [place.target for place in places]
    for one in targets:
        for other in targets:
            if one in other.parents or (one == other and targets.count(one) > 1):
                raise BackupError(f"{other} cannot be put back beside {one}, in which it lies")


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
    names = " → ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    kind = BackupSpaceError if error.errno in journal.FULL else BackupError
    return kind(f"the data could not be put in place: {error.strerror}{f' ({names})' if names else ''}")
