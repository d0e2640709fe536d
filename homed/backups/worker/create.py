"""Making a backup: each group of trees captured in its turn, written down, and named only when it is whole."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from homed import atomic
from homed.backups import catalog
from homed.backups.archive import seal
from homed.backups.archive.pack import Packer
from homed.backups.records import Backup, Section
from homed.backups.worker import clone
from homed.backups.worker.channel import Channel
from homed.backups.worker.context import Watch
from homed.backups.worker.messages import Create, Group
from homed.errors import BackupError

Pack = Callable[[Section, Path], Section]


def full(request: Create, channel: Channel) -> Backup:
    """An archive of its own. Nothing of it is left where this fails."""
    folder, started = Path(request.folder), time.monotonic()
    partial = folder / f"{catalog.PARTIAL}{Path(request.work).name}"
    watch = channel.context
    try:
        with Packer(
            partial, Path(request.work) / "manifest", request.draft, level=request.level, seal=request.seal, watch=watch
        ) as packer:
            packer.add(state_section(), Path(request.state))

            def pack(section: Section, tree: Path) -> Section:
                watch.phase("capturing", total=None, service=", ".join(section.users) or None)
                return packer.add(section, tree, exclude=request.exclude)

            for group in request.groups:
                capture(group, Path(request.work).name, channel, pack)
            backup = packer.finish()
        _check_sealed(request, partial)
        watch.check()
        backup = msgspec.structs.replace(backup, duration=round(time.monotonic() - started, 3))
        publish(folder, partial, backup)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return backup


def state_section() -> Section:
    return Section(kind="state", name="state", prefix="state")


def publish(folder: Path, partial: Path, backup: Backup) -> None:
    """The record first: the archive's name is what makes it a backup."""
    catalog.write(folder, backup)
    os.rename(partial, folder / backup.name)
    atomic.sync_folder(folder)


def capture(group: Group, id: str, channel: Channel, pack: Pack) -> list[Section]:
    """Capture a group: from clones where the filesystem makes them, so that its services may go on at once."""
    if group.asks:
        channel.ask("begin", services=group.services)
    trees = [Path(section.stored) for section in group.sections]
    with _cloned(trees, f"{clone.PREFIX}{id}", channel.context) as clones:
        if group.asks and clones:
            channel.ask("end", services=group.services)
        packed = []
        for i, section in enumerate(group.sections):
            shown = msgspec.structs.replace(section, cloned=bool(clones))
            packed.append(pack(shown, clones[i] if clones else trees[i]))
        if group.asks and not clones:
            channel.ask("end", services=group.services)
    return packed


@contextlib.contextmanager
def _cloned(trees: Sequence[Path], name: str, watch: Watch) -> Iterator[list[Path]]:
    """A clone of each tree, all or none; none where it cannot be had."""
    clones: list[Path] = []
    try:
        for tree in trees:
            made = clone.clone(tree, name, watch)
            if made is None:
                _remove(clones)
                break
            clones.append(made)
        yield clones
    finally:
        _remove(clones)


def _remove(clones: list[Path]) -> None:
    for made in clones:
        clone.remove(made)
    clones.clear()


def _check_sealed(request: Create, partial: Path) -> None:
    """What was to be sealed and is not must never get a name."""
    if request.must_seal and (request.seal is None or not seal.is_sealed(partial)):
        raise BackupError("the backup was to be encrypted and is not: it was thrown away")
