"""Making an incremental backup: a snapshot of what is read live, and one for each group that stands still for it."""

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from homed.backups import catalog
from homed.backups.archive import state
from homed.backups.records import Backup, Section
from homed.backups.worker import restic, snapshots, survey
from homed.backups.worker.capture import Capturing, state_section
from homed.backups.worker.channel import Channel
from homed.backups.worker.messages import Create, Group, Repository
from homed.errors import ArchiveError, BackupError, HomedError

log = logging.getLogger(__name__)
# The same each time, so that restic finds what it has read before.
_CLONES = "restic"
_MANY_HOLES = 64 << 20


def create(request: Create, repository: Repository, channel: Channel) -> Backup:
    """The record, which is on the disk. Where this fails, no snapshot of it stays in the repository."""
    making = _Making(request, repository, channel)
    try:
        backup = making.run()
        catalog.write(Path(request.folder), backup)
    except BaseException:
        making.take_back()
        raise
    return backup


class _Making:
    def __init__(self, request: Create, repository: Repository, channel: Channel):
        self._request = request
        self._repository = repository
        self._channel = channel
        self._watch = channel.context
        self._work = Path(request.work)
        self._sections: list[Section] = []
        self._saved: list[restic.Saved] = []
        self._started = time.monotonic()

    def run(self) -> Backup:
        capturing = Capturing(self._request, self._channel, _CLONES)
        live: list[Section] = []
        for group in self._request.groups:
            if group.asks:
                self._still(capturing, group)
            else:
                live += group.sections
        return self._rest(live)

    def _still(self, capturing: Capturing, group: Group) -> None:
        trees: list[tuple[Section, Path]] = []
        measured: list[Section] = []
        with capturing.captured(group) as read:
            trees += self._located(read)
            if not trees:
                return
            self._watch.phase("capturing", service=", ".join(group.services))
            cloned = any(section.cloned for section, _ in trees)
            saved = self._save([tree for _, tree in trees], cloned=cloned)
            if cloned:  # without a clone it is not measured while the services are stopped
                measured = [self._measured(section) for section, _ in trees]
        measured = measured or [self._measured(section) for section, _ in trees]
        self._sections += self._checked(saved, measured)

    def _located(self, trees: Iterable[tuple[Section, Path]]) -> list[tuple[Section, Path]]:
        """Return the sections that a backup can include, with the real path of each; warn of the others."""
        found = []
        for section, tree in trees:
            located = survey.locate(tree)
            if isinstance(located, str):
                self._watch.warn(f"{section.name} {located}")
                continue
            described = msgspec.structs.replace(section, stored=str(located.path), single=located.single)
            found.append((described, located.path))
        return found

    def _measured(self, section: Section) -> Section:
        """Return the section with its sizes and counts, measured in the tree that was just saved."""
        found = survey.measure(survey.Located(Path(section.stored), section.single), self._excluded(), self._watch)
        if found.devices:
            self._watch.warn(f"{section.name}: device nodes are not part of the backup ({found.devices})")
        return msgspec.structs.replace(
            section, members=found.members, size=found.size, apparent_size=found.apparent_size
        )

    def _checked(self, saved: restic.Saved, sections: Sequence[Section]) -> list[Section]:
        """Check that the snapshot holds each section with its type, and so can be restored. Raises: BackupError."""
        described = [msgspec.structs.replace(section, snapshot=saved.snapshot) for section in sections]
        try:
            return snapshots.described(self._repository, saved.snapshot, described, self._work, self._watch)
        except ArchiveError as error:
            raise BackupError(f"the backup was thrown away, as it could not be restored: {error.message}") from error

    def _rest(self, live: list[Section]) -> Backup:
        """Everything else, and the record by which another board can find it all."""
        own = msgspec.structs.replace(state_section(), stored=self._request.state)
        there = [section for section, _ in self._located([(one, Path(one.stored)) for one in [own, *live]])]
        there = [self._measured(section) for section in there]
        self._sections = [*there[:1], *self._sections, *there[1:]]
        draft = msgspec.structs.replace(
            self._request.draft, sections=tuple(self._sections), repository=self._repository.url
        )
        state.check_made(draft)
        record = Path(self._request.state).with_name(restic.RECORD)
        catalog.write_record(record, draft)
        self._watch.phase("capturing")
        self._warn_of_holes()
        saved = self._save([record, *(Path(section.stored) for section in there)], main=True)
        self._checked(saved, there)
        return msgspec.structs.replace(
            draft,
            snapshot=saved.snapshot,
            size=sum(one.added for one in self._saved),
            data_size=sum(one.size for one in self._saved),
            members=sum(one.files for one in self._saved),
            duration=round(time.monotonic() - self._started, 3),
        )

    def _save(self, paths: list[Path], *, main: bool = False, cloned: bool = False) -> restic.Saved:
        saved = restic.backup(
            self._repository,
            paths,
            self._work,
            self._watch,
            tags=[self._request.draft.name],
            parent=self._request.parent if main else None,
            exclude=self._excluded(),
            cloned=cloned,
            known=self._request.parent is not None,
        )
        self._saved.append(saved)
        if saved.unread_count:
            self._watch.warn(f"{saved.unread_count} files could not be read: {', '.join(saved.unread[:5])}")
        return saved

    def _warn_of_holes(self) -> None:
        """Warn that Debian 12's restic fills holes on restore, before a restore runs out of space."""
        more = sum(section.apparent_size - section.size for section in self._sections)
        if more >= _MANY_HOLES and not restic.keeps_holes(self._repository, self._work, self._watch):
            self._watch.warn(
                f"restic before 0.15 does not restore the holes of sparse files: a restore takes {more >> 20} MiB more "
                "than the data has now; a full backup keeps them"
            )

    def _excluded(self) -> list[str]:
        """But for the folder in which homed's own state is to be read."""
        return [path for path in self._request.exclude if not Path(self._request.state).is_relative_to(path)]

    def take_back(self) -> None:
        """Nobody would ever find them: they have no record."""
        try:
            ids = [saved.snapshot for saved in self._saved]
            restic.forget(self._repository, ids, self._work, self._watch)
        except (HomedError, OSError) as error:
            log.warning("Snapshots of a backup that failed stay in the repository: %s", error)
