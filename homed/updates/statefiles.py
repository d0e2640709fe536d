"""Which files homed's state is, and how such files are copied: whole, synced, with their mode and owner."""

import contextlib
import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from homed import atomic
from homed.errors import HomedError, NoSpaceError, StoreError
from homed.store import snapshot

DATABASE: Final = "homed.db"
# What SQLite keeps beside the database: of no use without the one that it belongs to.
BESIDE: Final = tuple(f"{DATABASE}{end}" for end in ("-wal", "-shm", "-journal"))
STAMP: Final = "stamp.json"
OTHERS: Final = ("config.json", "tls/certificate.pem", "tls/key.pem", STAMP)
_LONGEST: Final = 64 * 1024

T = TypeVar("T", bound=msgspec.Struct)


def read(path: Path, kind: type[T]) -> T | None:
    """What a small file of JSON holds; None where it is missing or damaged."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_LONGEST), type=kind)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError):
        return None


def copy_file(source: Path, target: Path) -> None:
    """Make `target`, which is not there yet, and the folders above it. Its folder is not synced."""
    make_folder(target.parent)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with source.open("rb") as reader, os.fdopen(descriptor, "wb") as writer:
        shutil.copyfileobj(reader, writer)
    adopt(target, os.stat(source))


def adopt(path: Path, like: os.stat_result) -> None:
    """Give a new file another one's mode and owner, and sync it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        now = os.fstat(descriptor)
        if (now.st_uid, now.st_gid) != (like.st_uid, like.st_gid):
            # homed's unit may not give files away, and it reads its own whoever has owned them.
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, like.st_mode & 0o777)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, durably."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    atomic.sync_folder(path.parent)


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, where there is one."""
    if folder.exists():
        shutil.rmtree(folder)


def size(path: Path) -> int:
    """0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_room(folder: Path, needed: int, reserve: int) -> None:
    """NoSpaceError where the disk of `folder` does not take `needed` bytes and have `reserve` left."""
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free < needed + reserve:
        raise NoSpaceError(f"{folder} needs {needed + reserve} bytes of room and has {free}")


def explained(what: str, error: OSError | HomedError) -> HomedError:
    """The error to raise for one of the disk's; one of homed's own says enough, but for a full disk."""
    if isinstance(error, HomedError):
        return NoSpaceError(f"{what}: the disk is full") if error.code == snapshot.FULL else error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(f"{what}: the disk is full")
    return StoreError(f"{what}: {error}")
