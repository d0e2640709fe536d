"""Putting a backup back: verified to its end, staged beside what it replaces, swapped in by renames, or not at all."""

import contextlib
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from homed.backups.archive import state, unlocking, unpack, verify
from homed.backups.archive.follow import show, unsafe
from homed.backups.records import Backup, Section
from homed.backups.worker import journal, preflight, swap
from homed.backups.worker.changes import Changes
from homed.backups.worker.channel import Channel, Gone
from homed.backups.worker.context import Stopped, Watch
from homed.backups.worker.messages import Plan, Recover, Restore, Tree
from homed.backups.worker.snapshots import Snapshots
from homed.backups.worker.staging import Place
from homed.backups.worker.swap import Swap
from homed.errors import BackupError, HomedError

_CONFIG_MODE = 0o644  # as the package installs it: it has no secrets, only the names of their files
OWN = "own"  # where in the operation's folder lies what homed reads of its own state


def restore(request: Restore, channel: Channel) -> Mapping[str, object]:
    """Returns what was put back, or for a dry run what would change. On any error the board is as it was."""
    watch, work = channel.context, Path(request.work)
    held: Archive | Snapshots
    if request.repository is not None and request.record is not None:
        held = Snapshots(request.repository, request.record, work, watch)
    else:
        held = Archive(request, watch)
    # The record is checked first, because reading the whole backup may take an hour.
    early = msgspec.convert(channel.ask("targets").data, Plan, str_keys=True)
    _preflight(held, early, work, request.reserve)
    backup = held.verify()
    own = work / OWN
    own.mkdir(mode=0o700)
    held.unpack_state(state.section_of(backup), own)
    _check_own(own)
    plan = msgspec.convert(channel.ask("plan", backup=msgspec.to_builtins(backup)).data, Plan, str_keys=True)
    places = _preflight(held, plan, work, request.reserve)
    if plan.dry_run:
        return {"changes": held.changes(plan.trees)}
    return _swap_in(held, plan, places, own, channel, work)


def _preflight(held: "Archive | Snapshots", plan: Plan, work: Path, reserve: int) -> list[Place]:
    trees = [tree for tree in plan.trees if tree.target]  # a dry run makes no volumes, so some have no target yet
    places = preflight.places(trees, work.name, plan.writable)
    preflight.check_space([(tree, held.needs(tree.section)) for tree in trees], reserve)
    return places


class Archive:
    """A full backup's archive, as a restore sees it."""

    def __init__(self, request: Restore, watch: Watch):
        self._path = Path(request.path)
        self._spool = Path(request.work) / "manifest"
        self._unlock = request.unlock
        self._watch = watch
        self._backup: Backup | None = None

    def verify(self) -> Backup:
        self._unlock = unlocking.unlocked(self._path, self._unlock, self._watch)
        self._watch.phase("verifying", total=self._path.stat().st_size)
        self._backup = verify.verify(self._path, self._spool, self._unlock, self._watch)
        return self._backup

    def needs(self, section: Section) -> int:
        """Return the size on disk in bytes after extraction: tar restores holes."""
        return section.size

    def unpack(self, pieces: Sequence[tuple[Section, Path]]) -> None:
        unpack.unpack(self._path, self._unlock, pieces, self._watch)

    def unpack_state(self, section: Section, folder: Path) -> None:
        unpack.unpack_state(self._path, self._unlock, section, folder, self._watch)

    def changes(self, trees: Sequence[Tree]) -> list[dict[str, object]]:
        self._watch.phase("comparing", total=self._path.stat().st_size)
        changes = Changes(trees)
        verify.verify(self._path, self._spool, self._unlock, self._watch, visit=changes.visit)
        return changes.told()


def _check_own(own: Path) -> None:
    """ArchiveError if it is not plain files of a fit size: homed reads them, with more rights than who sent them."""
    for path in own.iterdir():
        there = path.lstat()
        if not stat.S_ISREG(there.st_mode) or there.st_nlink != 1:
            raise unsafe(f"its state holds '{show(os.fsencode(path.name))}', which is no plain file")
        fault = state.fault(path.name, "file", there.st_size)
        if fault is not None:
            raise unsafe(fault)


def _swap_in(
    held: "Archive | Snapshots", plan: Plan, places: Sequence[Place], own: Path, channel: Channel, work: Path
) -> Mapping[str, object]:
    watch = channel.context
    swapping = Swap.begin(work, places, work.name, watch.warn)
    try:
        exposed = any(place.exposed for place in places)
        if exposed:
            channel.ask("stop")
        watch.phase("staging", total=sum(tree.section.size for tree in plan.trees))
        _stage(held, plan.trees, places, own)
        if not exposed:
            channel.ask("stop")
        with watch.shielded():
            watch.phase("swapping")
            swapping.swap()
            _apply(channel)
            _finish(swapping, channel)
    except _Undecided:
        raise
    except BaseException:
        swapping.undo()
        raise
    return {"trees": [tree.section.name for tree in plan.trees]}


class _Undecided(Stopped):
    """homed went away while it did its part: at its next start it says which way the restore is ended."""


def _apply(channel: Channel) -> None:
    try:
        channel.ask("apply")
    except Gone as gone:
        raise _Undecided from gone


def _finish(swapping: Swap, channel: Channel) -> None:
    """Clean up after a committed restore: no error here makes it fail, and no service waits for it."""
    watch = channel.context
    try:
        swapping.commit()
        with contextlib.suppress(BackupError, Gone):
            channel.ask("release")  # removing the replaced data may take long, and needs no stopped services
        watch.phase("removing")
        swapping.finish()
    except (BackupError, OSError) as error:
        watch.warn(f"all is restored, but the restore cannot be brought to its end yet: {error}")


def _stage(held: "Archive | Snapshots", trees: Sequence[Tree], places: Sequence[Place], own: Path) -> None:
    pieces = []
    for tree, place in zip(trees, places, strict=True):
        if tree.section.kind == "config":
            _stage_config(own / state.CONFIG, place)
        else:
            pieces.append((tree.section, place.tree))
    held.unpack(pieces)


def _stage_config(source: Path, place: Place) -> None:
    """Stage the configuration file with the mode, owner and attributes of the file that it replaces."""
    shutil.copyfile(source, place.item)
    try:
        there = place.target.stat()
        os.chown(place.item, there.st_uid, there.st_gid)
        shutil.copystat(place.target, place.item)
    except FileNotFoundError:
        place.item.chmod(_CONFIG_MODE)
    os.utime(place.item)


def recover(request: Recover, channel: Channel) -> Mapping[str, object]:
    """End what a killed restore has left: undone, or, where all was swapped already, brought to its end."""
    work, warn = Path(request.work), channel.context.warn
    written = journal.load(work)
    applied = False
    if written is not None and written.phase is journal.Phase.SWAPPED:
        try:
            channel.ask("apply")
            applied = True
        except HomedError as error:
            warn(f"it is undone, as homed's part of it failed: {error.message}")
    return {"outcome": str(swap.recover(work, applied, warn))}
