"""Removes what a job has left: however deep it is, and with folders that are closed to their owner."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from homed import dirfd


def remove(folder: Path) -> bool:
    """Blocking. Whether it is gone; what cannot be removed stays. No link is followed.

    Neither depth nor the length of a path bounds it: what lies in a folder's folders is moved up before they go.
    """
    with contextlib.suppress(OSError), _opened(os.fspath(folder)) as top:
        stuck: set[str] = set()
        while inner := _clear(top, stuck):
            for name in inner:
                try:
                    with _opened(name, top) as below:
                        for one in _clear(below, set()):
                            _make_ours(one, below)
                            os.rename(one, os.urandom(12).hex(), src_dir_fd=below, dst_dir_fd=top)
                    os.rmdir(name, dir_fd=top)
                except OSError:
                    stuck.add(name)
    with contextlib.suppress(OSError):
        os.rmdir(folder)
    return not os.path.lexists(folder)


def _clear(folder: int, stuck: set[str]) -> list[str]:
    """Remove what is no folder; the names of those that are, but the stuck."""
    inner = []
    for name in os.listdir(folder):
        try:
            if dirfd.is_directory(name, folder):
                inner.append(name)
            else:
                os.unlink(name, dir_fd=folder)
        except OSError:
            continue
    return [name for name in inner if name not in stuck]


@contextlib.contextmanager
def _opened(name: str, at: int | None = None) -> Iterator[int]:
    _make_ours(name, at)
    with dirfd.opened(name, at) as descriptor:
        yield descriptor


def _make_ours(name: str, at: int | None) -> None:
    """To look into it, and to move it, it must be open to us."""
    if os.geteuid() == 0:
        return
    mode = os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
        # A directory that may not be read can be opened for nothing but this.
        descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", 0o700)
        finally:
            os.close(descriptor)
