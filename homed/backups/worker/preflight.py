"""Preflight checks before data is read or services are stopped: is each target replaceable, with enough space?"""

import fcntl
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from homed.backups.worker import staging, swap
from homed.backups.worker.messages import Tree
from homed.backups.worker.staging import BLOCKED, Place
from homed.errors import BackupConflictError, BackupError, BackupSpaceError

_BLOCK = 4096
_GETFLAGS = 0x80006601 | struct.calcsize("l") << 16  # FS_IOC_GETFLAGS, whose size is that of a long
_FLAGS: Mapping[int, str] = {0x10: "immutable", 0x20: "append-only"}


def places(trees: Sequence[Tree], id: str, writable: Sequence[str]) -> list[Place]:
    """Return the staging directory of each tree. Nothing is changed.

    Raises: BackupConflictError (BACKUP_TARGET_BLOCKED), if a target cannot be replaced; ArchiveError (BACKUP_UNSAFE),
    if a target is reached through a link that others could have made.
    """
    folders = [Path(path) for path in writable]
    found = [staging.place(Path(tree.target), id, single=tree.section.single, writable=folders) for tree in trees]
    swap.check(found)
    for place in found:
        _check(place)
    return found


def _check(place: Place) -> None:
    target = place.target
    if os.statvfs(place.base).f_flag & os.ST_RDONLY:
        raise blocked(target, "its filesystem is read-only")
    # Renaming a directory writes to it and to its parent.
    for path in dict.fromkeys((target, target.parent, place.base)):
        if path.exists() and (word := _flag(path)):
            what = "it" if path == target else f"{path}, in which it lies,"
            raise blocked(target, f"{what} is {word} (see lsattr)")


def blocked(target: Path, why: str) -> BackupConflictError:
    return BackupConflictError(
        f"{target} cannot be put back: {why}", code=BLOCKED, details={"path": str(target), "reason": why}
    )


def _flag(path: Path) -> str:
    """Return the name of the attribute that prevents replacing a file; empty if there is none, or it is unknown."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        flags = struct.unpack_from("i", fcntl.ioctl(descriptor, _GETFLAGS, bytes(8)))[0]
    except OSError:
        return ""  # the filesystem has no attributes
    finally:
        os.close(descriptor)
    return next((word for bit, word in _FLAGS.items() if flags & bit), "")


def check_space(needs: Sequence[tuple[Tree, int]], reserve: int) -> None:
    """Check the space for each tree beside the current one, because both exist until the end. Sizes are in bytes."""
    needed: dict[int, tuple[int, int, str]] = {}
    for tree, own in needs:
        folder = _nearest(Path(tree.target))
        device = folder.stat().st_dev
        size, members, _ = needed.get(device, (0, 0, ""))
        # One additional block for each member, for rounding; almost none needs more.
        size += own + tree.section.members * _BLOCK
        needed[device] = (size, members + tree.section.members, str(folder))
    for size, members, where in needed.values():
        free = os.statvfs(where)
        room = free.f_bavail * free.f_frsize - reserve
        if free.f_files and members > free.f_favail:
            raise BackupSpaceError(
                f"it needs {members} files beside {where}, and {free.f_favail} more can be made",
                details={"needed_files": members, "free_files": free.f_favail, "path": where},
            )
        if size > room:
            raise BackupSpaceError(
                f"it needs {size} bytes beside {where}, and {max(0, room)} are free",
                details={"needed": size, "free": max(0, room), "path": where},
            )


def _nearest(path: Path) -> Path:
    while not path.exists():
        if path == path.parent:
            raise BackupError(f"{path} is not there")
        path = path.parent
    return path
