"""What a swap has written down before it does it, so that the next start of homed can end it either way."""

import errno
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from homed import atomic
from homed.backups.worker.staging import Place
from homed.backups.workplaces import JOURNAL, LEFT
from homed.errors import BackupError, BackupSpaceError

_NAME, _LEFT = JOURNAL, LEFT
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Phase(StrEnum):
    """`staging`: no target was touched. `swapping`: some may be new. `swapped`: all are. `undone`: all are old again.
    `finishing`: all are new, and of the old ones some may be gone.
    """

    STAGING = "staging"
    SWAPPING = "swapping"
    SWAPPED = "swapped"
    UNDONE = "undone"
    FINISHING = "finishing"


class Attributes(msgspec.Struct, frozen=True):
    """Of a folder that cannot be renamed, as it is a mount point. Times in nanoseconds."""

    mode: int
    uid: int
    gid: int
    accessed: int
    modified: int
    xattrs: Mapping[str, bytes] = {}


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One target. `old` and `new` are the inodes' numbers of what stood there (None: nothing) and of what comes.

    `base` and `filesystem` tell whether the folder of the staged tree is the one that it was: its inode's number, and
    that of its filesystem. `made` are the folders above the target that the swap makes. The times (nanoseconds) are
    kept as XFS changes those of a folder that moves to another one.
    """

    place: Place
    base: int
    filesystem: int
    old: int | None = None
    new: int | None = None
    old_times: tuple[int, int] = (0, 0)
    new_times: tuple[int, int] = (0, 0)
    made: tuple[Path, ...] = ()
    before: Attributes | None = None
    after: Attributes | None = None


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    phase: Phase
    id: str
    items: tuple[Item, ...]


def save(work: Path, journal: Journal) -> None:
    try:
        data = msgspec.json.encode(journal, enc_hook=str)
    except UnicodeEncodeError as error:
        raise BackupError("a path is not UTF-8, and cannot be written down") from error
    try:
        atomic.write(work / _NAME, data)
    except OSError as error:
        kind = BackupSpaceError if error.errno in FULL else BackupError
        raise kind(f"the journal of the restore cannot be written: {error.strerror}") from error


def load(work: Path) -> Journal | None:
    """None where nothing was begun. BackupError where it cannot be read."""
    return _load(work / _NAME)


def load_left(work: Path) -> Journal | None:
    """Read the journal of an ended restore with directories that could not be removed. None if there are none."""
    return _load(work / _LEFT)


def left_behind(work: Path) -> list[Path]:
    """Return the directories that an ended restore could not remove."""
    try:
        written = load_left(work)
    except BackupError:
        return []
    return [] if written is None else [item.place.holder for item in written.items if item.place.holder.exists()]


def _load(path: Path) -> Journal | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BackupError(f"the journal of a restore cannot be read: {error.strerror}") from error
    try:
        return msgspec.json.decode(data, type=Journal, dec_hook=lambda kind, text: kind(text))
    except (ValueError, RecursionError) as error:
        raise BackupError(f"the journal of a restore, {path}, is damaged: {error}") from error


def leave(work: Path) -> None:
    """Record that the restore has ended, except for directories to remove later."""
    os.rename(work / _NAME, work / _LEFT)
    atomic.sync_folder(work)


def drop_left(work: Path) -> None:
    (work / _LEFT).unlink(missing_ok=True)


def drop(work: Path) -> None:
    """The last step of every swap."""
    (work / _NAME).unlink(missing_ok=True)
    atomic.sync_folder(work)
