"""Names on the disk, changed by way of open folders: no link is followed on the way, nothing is written over."""

import ctypes
import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from homed.errors import BackupError

_libc = ctypes.CDLL(None, use_errno=True)
_NOREPLACE, _EXCHANGE = 1, 2
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_KNOWN = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
Name = tuple[int, str]


@contextmanager
def folder(path: Path) -> Iterator[int]:
    """An absolute path, opened step by step. NotADirectoryError where a part of it is a link or no folder."""
    descriptor = os.open("/", _FOLDER)
    try:
        for part in path.parts[1:]:
            below = os.open(part, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def within(above: int, name: str) -> Iterator[int]:
    descriptor = os.open(name, _FOLDER, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def number(name: Name) -> int | None:
    """The inode's; None where there is nothing of that name."""
    try:
        return os.stat(name[1], dir_fd=name[0], follow_symlinks=False).st_ino
    except FileNotFoundError:
        return None


def times(name: Name) -> tuple[int, int]:
    """When it was read and changed, in nanoseconds."""
    status = os.stat(name[1], dir_fd=name[0], follow_symlinks=False)
    return status.st_atime_ns, status.st_mtime_ns


def set_times(name: Name, wanted: tuple[int, int]) -> None:
    os.utime(name[1], ns=wanted, dir_fd=name[0], follow_symlinks=False)


def make(name: Name, mode: int = 0o700) -> None:
    os.mkdir(name[1], mode, dir_fd=name[0])


def unmake(name: Name) -> None:
    """Remove a folder if it is there and empty."""
    try:
        os.rmdir(name[1], dir_fd=name[0])
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
            raise


def move(source: Name, target: Name) -> None:
    """Rename. FileExistsError where the new name is taken."""
    try:
        _rename(source, target, _NOREPLACE)
    except OSError as error:
        if error.errno not in _NOT_KNOWN:
            raise
        if number(target) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target[1]) from error
        os.rename(source[1], target[1], src_dir_fd=source[0], dst_dir_fd=target[0])


def exchange(one: Name, other: Name) -> bool:
    """Both names change places in one moment. False where the filesystem cannot do that."""
    try:
        _rename(one, other, _EXCHANGE)
    except OSError as error:
        if error.errno in _NOT_KNOWN:
            return False
        raise
    return True


def _rename(source: Name, target: Name, flags: int) -> None:
    old, new = os.fsencode(source[1]), os.fsencode(target[1])
    if _libc.renameat2(source[0], old, target[0], new, flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), source[1], None, target[1])


def sync(descriptor: int) -> None:
    """The whole filesystem of an open folder: contents and names."""
    if _libc.syncfs(descriptor) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def mount_of(descriptor: int) -> int:
    """The number of the mount in which it lies: two mounts of one filesystem have two."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise BackupError("the kernel does not tell in which mount a folder lies")


def mounts_below(path: Path) -> list[Path]:
    """What is mounted in a folder, itself not counted."""
    found = []
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            point = Path(os.fsdecode(_unescape(line.split()[4])))
            if path in point.parents:
                found.append(point)
    return found


def _unescape(field: bytes) -> bytes:
    for code in (b"\\040", b"\\011", b"\\012", b"\\134"):
        field = field.replace(code, bytes([int(code[1:], 8)]))
    return field


def remove(name: Name) -> None:
    """A tree, whatever it is and however deep. It may be broken off at any moment, and done again.

    It stays where something is mounted in it: BackupError, as where it cannot be removed.
    """
    if number(name) is None:
        return
    path = Path(os.readlink(f"/proc/self/fd/{name[0]}"), name[1])
    if mounts := mounts_below(path):
        raise BackupError(f"{path} cannot be removed: {mounts[0]} is mounted in it")
    # Not by its path, which others may change; `rm` descends by open folders too, and without a bound to the depth.
    process = subprocess.run(
        ["rm", "-rf", "--one-file-system", "--", name[1]],
        cwd=f"/proc/self/fd/{name[0]}",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    if process.returncode != 0:
        said = process.stderr.decode(errors="replace").strip().partition("\n")[0]
        hint = " (immutable? see lsattr, and chattr -i)" if os.strerror(errno.EPERM) in said else ""
        raise BackupError(f"{path} cannot be removed: {said}{hint}")


def children(descriptor: int) -> list[str]:
    return sorted(os.listdir(descriptor))


def filesystem(descriptor: int) -> int:
    """A number that most filesystems keep over a restart."""
    with suppress(OSError):
        return os.fstatvfs(descriptor).f_fsid
    return 0
