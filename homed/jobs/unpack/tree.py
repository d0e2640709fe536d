"""The folder that an archive is unpacked into: everything is reached folder by folder, and no link is ever followed."""

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from homed import dirfd
from homed.jobs.unpack.limits import Budget, Limits, shown, unsafe

_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DRIVE = re.compile(r"[A-Za-z]:")
_LONGEST_PART = 255
_PERMISSIONS = 0o777
Parts = tuple[str, ...]


class _Link(NamedTuple):
    parts: Parts
    target: str


def parts_of(name: str, limits: Limits) -> Parts:
    """A member's name, checked; () for the folder itself."""
    if name.startswith("/") or _DRIVE.match(name) or "\\" in name or "\0" in name:
        raise unsafe(f"it holds the name {shown(name)}")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise unsafe(f"it holds the name {shown(name)}, which leads out of it")
    lengths = [len(os.fsencode(part)) for part in parts]
    if len(os.fsencode(name)) > limits.name or max(lengths, default=0) > _LONGEST_PART:
        raise unsafe(f"it holds a name that is too long, {shown(name)}")
    if len(parts) > limits.depth:
        raise unsafe(f"it goes deeper than {limits.depth} folders")
    return parts


class Tree:
    """`finish` makes the links, after which nothing is written any more: so nothing can be written through one."""

    def __init__(self, folder: Path, limits: Limits, budget: Budget):
        self._limits = limits
        self._budget = budget
        self._root = os.open(folder, dirfd.DIRECTORY)
        self._links: list[_Link] = []
        self._targets: dict[Parts, str] = {}
        self._modes: dict[Parts, int] = {}
        self._files: set[Parts] = set()

    def close(self) -> None:
        os.close(self._root)

    def folder(self, name: str, mode: int) -> None:
        parts = parts_of(name, self._limits)
        with self._opened(parts, name):
            # Its owner can always work in it, and remove it.
            self._modes[parts] = mode & _PERMISSIONS | 0o700

    def file(self, name: str, mode: int, data: Iterable[bytes]) -> None:
        parts = parts_of(name, self._limits)
        with self._parent(parts, name) as parent:
            try:
                descriptor = os.open(parts[-1], _FILE, 0o600, dir_fd=parent)
            except FileExistsError as error:
                raise unsafe(f"it holds {shown(name)} twice") from error
        with open(descriptor, "wb") as file:
            for chunk in data:
                self._budget.data(len(chunk))
                file.write(chunk)
            os.fchmod(file.fileno(), mode & _PERMISSIONS)
        self._files.add(parts)

    def link(self, name: str, target: str) -> None:
        """A symbolic one. It may only lead up from where it lies, then down: so a chain of them stays inside too."""
        parts = parts_of(name, self._limits)
        steps = [step for step in target.split("/") if step not in ("", ".")]
        up = next((at for at, step in enumerate(steps) if step != ".."), len(steps))
        outside = target.startswith("/") or up > len(parts) - 1 or ".." in steps[up:]
        if outside or not target or "\0" in target or len(os.fsencode(target)) > self._limits.name:
            raise unsafe(f"its link {shown(name)} points to {shown(target)}")
        self._links.append(_Link(parts, target))
        self._targets[parts] = target

    def hard_link(self, name: str, target: str) -> None:
        """To a file or a link that was unpacked before. A link's twin is one of its own: where it lies decides on what
        it leads to. To itself, as tar has a file that it was told twice, nothing is done.
        """
        parts, source = parts_of(name, self._limits), parts_of(target, self._limits)
        if source in self._targets:
            if parts != source:
                self.link(name, self._targets[source])
            return
        if source not in self._files:
            raise unsafe(f"its link {shown(name)} is to {shown(target)}, which is no file or link before it")
        if parts == source:
            return
        with self._parent(parts, name) as parent, self._parent(source, target) as other:
            try:
                os.link(source[-1], parts[-1], src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
            except FileExistsError as error:
                raise unsafe(f"it holds {shown(name)} twice") from error
        self._files.add(parts)

    def finish(self) -> None:
        for link in self._links:
            name = "/".join(link.parts)
            with self._parent(link.parts, name) as parent:
                try:
                    os.symlink(link.target, link.parts[-1], dir_fd=parent)
                except FileExistsError as error:
                    raise unsafe(f"it holds {shown(name)} twice") from error
        for parts in sorted(self._modes, key=len, reverse=True):
            with self._opened(parts, "/".join(parts)) as folder:
                os.fchmod(folder, self._modes[parts])

    @contextmanager
    def _parent(self, parts: Parts, name: str) -> Iterator[int]:
        if not parts:
            raise unsafe(f"it holds the name {shown(name)}")
        with self._opened(parts[:-1], name) as folder:
            yield folder

    @contextmanager
    def _opened(self, parts: Parts, name: str) -> Iterator[int]:
        """A folder, made where it is not there."""
        current = os.dup(self._root)
        try:
            for part in parts:
                current = _into(current, part, name)
            yield current
        finally:
            os.close(current)


def _into(folder: int, part: str, name: str) -> int:
    """The folder below; the one above is closed, unless that fails."""
    try:
        try:
            below = os.open(part, dirfd.DIRECTORY, dir_fd=folder)
        except FileNotFoundError:
            os.mkdir(part, 0o755, dir_fd=folder)
            below = os.open(part, dirfd.DIRECTORY, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise unsafe(f"{shown(name)} stands below what is no folder") from error
        raise
    os.close(folder)
    return below
