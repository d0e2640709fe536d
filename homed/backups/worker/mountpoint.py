"""One target of a swap that is a mount point: what is in it is moved out, then the new in.

The holder's folders tell how far that is. `out`: whatever is in the target is old. `old`: all that was old is out, and
whatever is in the target is new. A rename makes the one of the other, and needs no space.
"""

import os
import stat
from contextlib import suppress

import msgspec

from homed.backups.worker import disk
from homed.backups.worker.journal import Attributes, Item

_OUT, _OLD = "out", "old"
# Of the filesystem, not of the data: it stays where it is.
_NOT_DATA = frozenset({"lost+found"})


def looked(item: Item, base: int, holder: int) -> Item:
    """With the attributes of the target's root, as they are and as they will be."""
    assert item.before is not None
    with disk.within(holder, item.place.tree.name) as tree:
        return msgspec.structs.replace(item, before=later(base, item.before), after=read(tree))


def put(item: Item, base: int, holder: int) -> None:
    disk.make((holder, _OUT))
    with disk.within(holder, _OUT) as out:
        _move_all(item, base, out)
        disk.sync(base)
        disk.move((holder, _OUT), (holder, _OLD))
    disk.sync(base)
    with disk.within(holder, item.place.tree.name) as tree:
        _move_all(item, tree, base)
    if item.after is not None:
        apply(base, item.after)


def take_back(item: Item, base: int, holder: int) -> None:
    if disk.number((holder, _OLD)) is not None:
        with disk.within(holder, item.place.tree.name) as tree:
            _move_all(item, base, tree)
        disk.sync(base)
        disk.move((holder, _OLD), (holder, _OUT))
        disk.sync(base)
    if disk.number((holder, _OUT)) is not None:
        with disk.within(holder, _OUT) as out:
            _move_all(item, out, base)


def _move_all(item: Item, source: int, target: int) -> None:
    for name in disk.children(source):
        if name != item.place.holder.name and name not in _NOT_DATA:
            disk.move((source, name), (target, name))


def read(folder: int) -> Attributes:
    status = os.fstat(folder)
    return Attributes(
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        accessed=status.st_atime_ns,
        modified=status.st_mtime_ns,
        xattrs=_xattrs(folder),
    )


def later(folder: int, before: Attributes) -> Attributes:
    """As they are now, but for the times, which homed's own folder in it has changed since."""
    return msgspec.structs.replace(read(folder), accessed=before.accessed, modified=before.modified)


def apply(folder: int, wanted: Attributes) -> None:
    os.fchown(folder, wanted.uid, wanted.gid)
    os.fchmod(folder, wanted.mode)
    there = _xattrs(folder)
    for name in there.keys() - wanted.xattrs.keys():
        os.removexattr(folder, name)
    for name, value in wanted.xattrs.items():
        if there.get(name) != value:
            os.setxattr(folder, name, value)
    os.utime(folder, ns=(wanted.accessed, wanted.modified))


def _xattrs(folder: int) -> dict[str, bytes]:
    found = {}
    with suppress(OSError):  # a filesystem without
        for name in os.listxattr(folder):
            found[name] = os.getxattr(folder, name)
    return found
