"""A disk that is cut off: at a chosen change to it the writer is gone, and what a power cut leaves can be looked at.

Every change below a folder is counted. From the chosen one on nothing is changed any more, whatever the dying code
still tries. Then there are three disks: as after a kill; as a disk that keeps the order of its names, but holds no
content that was not synced; and as one that holds nothing at all, names either, that was not synced.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

VARIANTS = ("killed", "without its contents", "only what was synced")
_CHANGES = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "fchmod", "fchown")


class CutError(BaseException):
    """Not an Exception: no code that is being tested may think that it can go on."""


class Disk:
    """`at` is the change, counted from 1, that does not come about any more; 0 for none."""

    def __init__(self, root: Path, at: int):
        self.root = root
        self.changes = 0
        self._at = at
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._folders: set[int] = set()
        self._held: list[int] = []
        for folder, _, files in os.walk(root):
            self._sync(Path(folder))
            for name in files:
                self._sync(Path(folder, name))

    def _change(self) -> None:
        self.changes += 1
        if self._at and self.changes >= self._at:
            raise CutError

    def _sync(self, path: Path) -> None:
        """What is there now is there after a power cut."""
        status = os.stat(path)
        if status.st_ino not in self._contents and status.st_ino not in self._names:
            # Held, so that its number is not given to another.
            self._held.append(os.open(path, os.O_PATH))
        if stat.S_ISDIR(status.st_mode):
            # Asked one by one: a disk of layers says another number in a list.
            found = {name: os.lstat(path / name) for name in os.listdir(path)}
            self._names[status.st_ino] = {name: one.st_ino for name, one in found.items()}
            self._folders |= {one.st_ino for one in found.values() if stat.S_ISDIR(one.st_mode)}
        else:
            self._contents[status.st_ino] = path.read_bytes()

    def close(self) -> None:
        for descriptor in self._held:
            os.close(descriptor)

    def left(self, variant: str, into: Path) -> Path:
        """The folder as the cut has left it."""
        shutil.rmtree(into, ignore_errors=True)
        if variant == "only what was synced":
            self._lay(os.stat(self.root).st_ino, into)
            return into
        shutil.copytree(self.root, into, symlinks=True)
        if variant == "without its contents":
            for folder, _, files in os.walk(self.root):
                for name in files:
                    path = Path(folder, name)
                    (into / path.relative_to(self.root)).write_bytes(self._contents.get(path.stat().st_ino, b""))
        return into

    def _lay(self, number: int, into: Path) -> None:
        into.mkdir()
        for name, below in self._names.get(number, {}).items():
            if below in self._folders:
                self._lay(below, into / name)
            else:
                (into / name).write_bytes(self._contents.get(below, b""))

    def run(self, patch: pytest.MonkeyPatch, act: Callable[..., object], *arguments: object) -> bool:
        """Have it change the disk; whether it came to its end."""
        with patch.context() as patched:
            for call in _CHANGES:
                patched.setattr(os, call, self._counted(getattr(os, call), os.fsync))
            patched.setattr(os, "open", self._opening(os.open))
            try:
                act(*arguments)
            except CutError:
                return False
        return True

    def _counted(self, real: Callable[..., Any], fsync: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any, **options: Any) -> Any:
            self._change()
            result = real(*arguments, **options)
            if real is fsync:
                self._sync(Path(f"/proc/self/fd/{arguments[0]}"))
            return result

        return change

    def _opening(self, real: Callable[..., int]) -> Callable[..., int]:
        def opening(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if flags & (os.O_CREAT | os.O_TRUNC):
                self._change()
            return real(path, flags, mode, dir_fd=dir_fd)

        return opening


@contextmanager
def cut(root: Path, at: int) -> Iterator[Disk]:
    """The disk with a folder on it, cut off at its change number `at`."""
    disk = Disk(root, at)
    try:
        yield disk
    finally:
        disk.close()
