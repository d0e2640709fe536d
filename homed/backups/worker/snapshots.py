"""A snapshot of the restic repository, as a restore sees it."""

from collections.abc import Sequence
from pathlib import Path

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

    def verify(self) -> Backup:
        """Nothing is read for this: restic checks each block against its digest when it is laid out beside."""
        return self._record

    def unpack(self, pieces: Sequence[tuple[Section, Path]]) -> None:
        for section, folder in pieces:
            snapshot = section.snapshot or self._record.snapshot
            if snapshot is None:
                raise ArchiveError(f"it is not known in which snapshot {section.name} is")
            restic.restore(self._repository, snapshot, section.stored, folder, self._work, self._watch)

    def changes(self, trees: Sequence[Tree]) -> list[dict[str, object]]:
        """Trees as a whole: what is in them stands in the repository."""
        return [{"name": tree.section.name, "target": tree.target} for tree in trees if tree.section.kind != "config"]
