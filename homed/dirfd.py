"""Work below directories that others may write to: by descriptors, so that no name is looked up twice.

Whoever can write in a directory can put a symbolic link in the place of what is in it, between a check and the act that
follows. So each step is taken from a descriptor, follows no link, and what it acts on is what it has opened.
"""

import contextlib
import os
import stat
from collections.abc import Iterator

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def opened(name: str, at: int | None = None) -> Iterator[int]:
    """Open a directory that is no link. OSError."""
    descriptor = os.open(name, DIRECTORY, dir_fd=at)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def parent(path: str) -> Iterator[tuple[int, str]]:
    """Open the directory that a path lies in, and give the path's last name. OSError."""
    above, name = os.path.split(path)
    if name in ("", ".", ".."):
        raise OSError(22, "no name", path)
    with opened(above or ".") as descriptor:
        yield descriptor, name


@contextlib.contextmanager
def made(name: str, at: int, mode: int = 0o700) -> Iterator[int]:
    """Make a directory and open the very one: ours, and empty. OSError, also if it was exchanged meanwhile."""
    os.mkdir(name, mode, dir_fd=at)
    with opened(name, at) as descriptor:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or found.st_dev != os.fstat(at).st_dev or os.listdir(descriptor):
            raise OSError(17, "exchanged by somebody else", name)
        yield descriptor


def write(name: str, at: int, content: bytes, mode: int) -> int:
    """Make a file with this content and return its descriptor, open for reading and at its beginning. OSError."""
    descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=at)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fchmod(descriptor, mode)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_directory(name: str, at: int) -> bool:
    """Return whether it is a directory, and not a link to one. Raises: OSError, if it does not exist."""
    return stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
