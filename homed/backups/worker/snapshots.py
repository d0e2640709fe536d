"""A snapshot of the restic repository, as a restore sees it."""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from homed.backups.archive import state
from homed.backups.archive.follow import unsafe
from homed.backups.records import Backup, Section
from homed.backups.worker import restic
from homed.backups.worker.context import Watch
from homed.backups.worker.messages import Repository, Tree
from homed.errors import ArchiveError


class Snapshots:
    """`record` is what homed knows of the backup."""

    def __init__(self, repository: Repository, record: Backup, work: Path, watch: Watch):
        self._repository = repository
        self._record = record
        self._work = work
        self._watch = watch
        self._holes: bool | None = None

    def verify(self) -> Backup:
        """Return the record with each section as its snapshot holds it. Raises: ArchiveError, if one is missing.

        File contents are not read here: restic checks each block against its digest when it extracts the tree.
        """
        self._watch.phase("verifying")
        found: dict[str, Section] = {}
        for snapshot in dict.fromkeys(self._snapshot_of(section) for section in self._record.sections):
            sections = [one for one in self._record.sections if self._snapshot_of(one) == snapshot]
            held = described(self._repository, snapshot, sections, self._work, self._watch)
            found.update({section.prefix: section for section in held})
        sections = [found[section.prefix] for section in self._record.sections]
        return msgspec.structs.replace(self._record, sections=tuple(sections))

    def _snapshot_of(self, section: Section) -> str:
        snapshot = section.snapshot or self._record.snapshot
        if snapshot is None:
            raise ArchiveError(f"it is not known in which snapshot {section.name} is")
        return snapshot

    def needs(self, section: Section) -> int:
        """Return the size on disk in bytes after extraction, including holes if restic fills them."""
        return section.size if self._keeps_holes() else max(section.size, section.apparent_size)

    def _keeps_holes(self) -> bool:
        if self._holes is None:
            self._holes = restic.keeps_holes(self._repository, self._work, self._watch)
        return self._holes

    def unpack(self, pieces: Sequence[tuple[Section, Path]]) -> None:
        for section, folder in pieces:
            snapshot = self._snapshot_of(section)
            restic.restore(self._repository, snapshot, section.stored, folder, self._work, self._watch)
            if devices := _without_devices(folder):
                self._watch.warn(f"{section.name}: device nodes are not restored ({devices})")

    def unpack_state(self, section: Section, folder: Path) -> None:
        """Restore the files of homed's own state that a restore reads, and nothing else of it."""
        snapshot = self._snapshot_of(section)
        restic.restore(
            self._repository, snapshot, section.stored, folder, self._work, self._watch, only=tuple(state.MAX_BYTES)
        )

    def changes(self, trees: Sequence[Tree]) -> list[dict[str, object]]:
        """Trees as a whole: what is in them stands in the repository."""
        return [{"name": tree.section.name, "target": tree.target} for tree in trees if tree.section.kind != "config"]


def described(
    repository: Repository, snapshot: str, sections: Sequence[Section], work: Path, watch: Watch
) -> list[Section]:
    """Return the sections as a snapshot holds them: their type, and members and size if the record lacks them.

    Raises: ArchiveError: BACKUP_DAMAGED, if one is not in the snapshot, or neither a file nor a directory;
    BACKUP_UNSAFE, if a restore would refuse a file of homed's own state.
    """
    whole = any(not section.members for section in sections)
    roots = {section.stored: _Root() for section in sections}
    own = next((section.stored for section in sections if section.kind == "state"), None)
    read: dict[str, str | None] = {}  # of homed's own state: what would be refused of each file

    def take(node: Mapping[str, Any]) -> None:
        path, kind, size = str(node.get("path")), str(node.get("type")), int(node.get("size", 0))
        if (root := roots.get(path)) is not None:
            root.kind = kind
        above, _, file = path.rpartition("/")
        if above == own and file in state.MAX_BYTES:
            read[file] = state.fault(file, kind, size)
        for above in _and_above(path) if whole else ():
            if (root := roots.get(above)) is not None:
                root.members += 1
                root.size += size

    folders = {str(Path(path).parent) for path in roots} | ({own} if own is not None else set())
    restic.listed(repository, snapshot, None if whole else folders, work, watch, take)
    found = []
    for section in sections:
        root = roots[section.stored]
        if root.kind not in ("file", "dir"):
            raise ArchiveError(f"the snapshot {snapshot} does not hold {section.name} as a file or a folder")
        changed = msgspec.structs.replace(section, single=root.kind == "file")
        if not section.members:
            changed = msgspec.structs.replace(changed, members=root.members, size=root.size, apparent_size=root.size)
        found.append(changed)
    _check_state(snapshot, own, read)
    return found


def _check_state(snapshot: str, own: str | None, read: Mapping[str, str | None]) -> None:
    fault = next((fault for fault in read.values() if fault is not None), None)
    if fault is not None:
        raise unsafe(fault)
    if own is not None and state.RECORDS not in read:
        raise ArchiveError(f"the snapshot {snapshot} holds no {state.RECORDS} of homed's state")


class _Root:
    """A section's root in a snapshot, and the counts below it."""

    def __init__(self) -> None:
        self.kind = ""
        self.members = self.size = 0


def _and_above(path: str) -> Iterable[str]:
    while True:
        yield path
        above = path.rpartition("/")[0]
        if not above or above == path:
            return
        path = above


def _without_devices(folder: Path) -> int:
    """Remove device nodes from the extracted tree: restored by root, they would give access to the board's disks.

    The directories that held them keep their times.
    """
    removed = 0
    for above, _, files in os.walk(os.fsencode(folder)):
        devices = [name for name in files if _is_device(os.lstat(above + b"/" + name).st_mode)]
        if not devices:
            continue
        before = os.lstat(above)
        for name in devices:
            os.unlink(above + b"/" + name)
        os.utime(above, ns=(before.st_atime_ns, before.st_mtime_ns))
        removed += len(devices)
    return removed


def _is_device(mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
