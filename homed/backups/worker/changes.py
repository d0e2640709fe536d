"""What a restore would change: each member of a backup against what stands at its place now."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from homed.backups.archive.verify import Member
from homed.backups.records import Section
from homed.backups.worker.messages import Tree

_SHOWN = 50
_NANOSECONDS = 2_000  # what a clock's fraction may lose on its way through text


class Changes:
    """Fed with the members as the archive is read. Files are compared by size and time, as rsync does."""

    def __init__(self, trees: Sequence[Tree]):
        self._counts = {tree.section.prefix: _Count(tree) for tree in trees if tree.section.kind != "config"}

    def visit(self, section: Section, member: Member) -> None:
        count = self._counts.get(section.prefix)
        if count is not None:
            count.visit(member)

    def told(self) -> list[dict[str, object]]:
        return [count.told() for count in self._counts.values()]


class _Count:
    def __init__(self, tree: Tree):
        self._tree = tree
        self._target = Path(tree.target) if tree.target else None
        self._added = self._changed = self._same = 0
        self._names: list[str] = []

    def visit(self, member: Member) -> None:
        if member.kind == "dir":
            return
        there = None
        if self._target is not None:
            path = self._target if self._tree.section.single else self._target / member.name
            try:
                there = os.lstat(path)
            except OSError:
                there = None
        if there is None:
            self._added += 1
        elif _is_same(member, there):
            self._same += 1
            return
        else:
            self._changed += 1
        if len(self._names) < _SHOWN:
            self._names.append(member.name or self._tree.section.name)

    def told(self) -> dict[str, object]:
        there = 0 if self._target is None or self._tree.section.single else _files_in(self._target)
        return {
            "name": self._tree.section.name,
            "target": self._tree.target,
            "added": self._added,
            "changed": self._changed,
            "unchanged": self._same,
            "removed": max(0, there - self._changed - self._same),
            "first": self._names,
        }


def _is_same(member: Member, there: os.stat_result) -> bool:
    if member.kind in ("file", "sparse"):
        return (
            stat.S_ISREG(there.st_mode)
            and there.st_size == member.size
            and abs(there.st_mtime - member.mtime) * 1e9 < _NANOSECONDS
        )
    if member.kind == "symlink":
        return stat.S_ISLNK(there.st_mode)
    return not stat.S_ISDIR(there.st_mode)


def _files_in(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))
