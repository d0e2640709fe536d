"""Putting a backup back: verified to its end, staged beside what it replaces, swapped in by renames, or not at all."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from homed.backups import boardstate
from homed.backups.archive import unpack, verify
from homed.backups.records import Backup, Section
from homed.backups.worker import staging, swap
from homed.backups.worker.channel import Channel
from homed.backups.worker.changes import Changes
from homed.backups.worker.context import Watch
from homed.backups.worker.messages import Plan, Recover, Restore, Tree
from homed.backups.worker.snapshots import Snapshots
from homed.errors import ArchiveError, BackupSpaceError

OWN = "own"  # where in the operation's folder homed's own state is unpacked, for homed to read


def restore(request: Restore, channel: Channel) -> Mapping[str, object]:
    """Returns what was put back, or for a dry run what would change. On any error the board is as it was."""
    watch, work = channel.context, Path(request.work)
    held = Snapshots(request, watch) if request.repository is not None else Archive(request, watch)
    backup = held.verify()
    own = work / OWN
    own.mkdir(mode=0o700)
    held.unpack([(_state_of(backup), own)])
    plan = msgspec.convert(
        channel.ask("plan", backup=msgspec.to_builtins(backup)).data, Plan, str_keys=True
    )
    if plan.dry_run:
        return {"changes": held.changes(plan.trees)}
    return _swap_in(held, plan, own, channel, work, request.reserve)


class Archive:
    """A full backup's archive, as a restore sees it."""

    def __init__(self, request: Restore, watch: Watch):
        self._path = Path(request.path)
        self._spool = Path(request.work) / "manifest"
        self._unlock = request.unlock
        self._watch = watch
        self._backup: Backup | None = None

    def verify(self) -> Backup:
        self._watch.phase("verifying", total=self._path.stat().st_size)
        self._backup = verify.verify(self._path, self._spool, self._unlock, self._watch)
        return self._backup

    def unpack(self, pieces: Sequence[tuple[Section, Path]]) -> None:
        unpack.unpack(self._path, self._unlock, pieces, self._watch)

    def changes(self, trees: Sequence[Tree]) -> list[dict[str, object]]:
        self._watch.phase("comparing", total=self._path.stat().st_size)
        changes = Changes(trees)
        verify.verify(self._path, self._spool, self._unlock, self._watch, visit=changes.visit)
        return changes.told()


def _state_of(backup: Backup) -> Section:
    for section in backup.sections:
        if section.kind == "state":
            return section
    raise ArchiveError("the backup holds no state of homed's")


def _swap_in(
    held: "Archive | Snapshots", plan: Plan, own: Path, channel: Channel, work: Path, reserve: int
) -> Mapping[str, object]:
    watch = channel.context
    with swap.Journal(work) as journal:
        places = [journal.place(Path(tree.target), single=tree.section.single) for tree in plan.trees]
        _check_space(plan.trees, reserve)
        watch.phase("staging", total=sum(tree.section.size for tree in plan.trees))
        held.unpack(
            [(tree.section, place.staged) for tree, place in zip(plan.trees, places, strict=True) if tree.section.kind != "config"]
        )
        for tree, place in zip(plan.trees, places, strict=True):
            if tree.section.kind == "config":
                shutil.copy2(own / boardstate.CONFIG, place.staged / swap.FILE)
        journal.staged()
        channel.ask("stop")
        with watch.shielded():
            watch.phase("swapping")
            journal.swap()
            channel.ask("apply")
            journal.finish()
    return {"trees": [tree.section.name for tree in plan.trees]}


def _check_space(trees: Sequence[Tree], reserve: int) -> None:
    """Beside what is there now: both are there until the end."""
    needed: dict[int, tuple[int, str]] = {}
    for tree in trees:
        folder = _nearest(Path(tree.target))
        device = folder.stat().st_dev
        needed[device] = (needed.get(device, (0, ""))[0] + tree.section.size, str(folder))
    for size, folder in needed.values():
        free = os.statvfs(folder)
        room = free.f_bavail * free.f_frsize - reserve
        if size > room:
            raise BackupSpaceError(
                f"it needs {size} bytes beside {folder}, and {max(0, room)} are free",
                details={"needed": size, "free": max(0, room), "path": folder},
            )


def _nearest(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def recover(request: Recover, channel: Channel) -> Mapping[str, object]:
    """End what a killed restore has left: undone, or, where all was swapped already, brought to its end."""
    outcome = swap.recover(Path(request.work), lambda: channel.ask("apply"))
    return {"outcome": str(outcome)}
