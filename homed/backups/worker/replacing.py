"""One target of a swap that can be renamed, or is not there: what stands where is told by the inodes' numbers."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from homed.backups.worker import disk
from homed.backups.worker.disk import Name
from homed.backups.worker.journal import Item
from homed.errors import BackupError

_OLD = "old"


def looked(item: Item) -> Item:
    """With what stands there now, and what is to come; and which folders above it are missing."""
    place = item.place
    relative = place.item.relative_to(place.holder)
    with disk.folder(place.holder / relative.parent) as above:
        staged = (above, relative.name)
        new = disk.number(staged)
        if new is None:
            raise BackupError(f"there is nothing to be put at {place.target}")
        item = msgspec.structs.replace(item, new=new, new_times=disk.times(staged), old=None, made=())
    made = tuple(path for path in reversed(place.target.parents) if not path.exists())
    if made:
        return msgspec.structs.replace(item, made=made)
    with disk.folder(place.target.parent) as parent:
        there = (parent, place.target.name)
        old = disk.number(there)
        return item if old is None else msgspec.structs.replace(item, old=old, old_times=disk.times(there))


def put(item: Item, holder: int) -> None:
    target = item.place.target
    for path in item.made:
        with disk.folder(path.parent) as above, suppress(FileExistsError):  # another target's, just made
            disk.make((above, path.name), 0o755)
    with disk.folder(target.parent) as parent, disk.folder(item.place.item.parent) as above:
        new, there, aside = (above, item.place.item.name), (parent, target.name), (holder, _OLD)
        if disk.number(there) != item.old:
            raise BackupError(f"{target} was replaced while it was being put back")
        if item.old is None:
            disk.move(new, there)
        elif not disk.exchange(new, there):
            disk.move(there, aside)
            disk.move(new, there)
        disk.set_times(there, item.new_times)


def take_back(item: Item, holder: int, id: str, warn: Callable[[str], None]) -> None:
    """Have the old one stand there again, from whatever state it is in."""
    target = item.place.target
    try:
        with disk.folder(target.parent) as parent, disk.folder(item.place.item.parent) as above:
            there = (parent, target.name)
            _take_back(item, (above, item.place.item.name), there, (holder, _OLD), id, warn)
            if item.old is not None and disk.number(there) == item.old:
                disk.set_times(there, item.old_times)
    except FileNotFoundError:
        if target.parent.exists():
            raise  # else the folders above it were not made yet


def _take_back(item: Item, new: Name, there: Name, aside: Name, id: str, warn: Callable[[str], None]) -> None:
    now = disk.number(there)
    if now == item.old:
        return
    if item.old is None:
        if now == item.new:
            disk.move(there, new)
        return
    if item.old not in (disk.number(new), disk.number(aside)):
        warn(f"what was at {item.place.target} before the restore is gone: what stands there now is left")
        return
    if disk.number(new) == item.old:
        if now == item.new and disk.exchange(new, there):
            return
        disk.move(new, aside)
    if now == item.new:
        disk.move(there, new)
    elif now is not None:
        _set_aside(item.place.target, there, id, warn)
    disk.move(aside, there)


def _set_aside(target: Path, there: Name, id: str, warn: Callable[[str], None]) -> None:
    """Somebody put something there in the meantime (Docker makes what it finds missing)."""
    with suppress(OSError):
        os.rmdir(there[1], dir_fd=there[0])
        return
    kept = f".homed-found-{id}-{there[1]}"[:255]
    disk.move(there, (there[0], kept))
    warn(f"something stood at {target} when the restore was undone: it is {target.with_name(kept)} now")
