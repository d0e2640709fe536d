"""Making a backup: each group of trees captured in its turn, written down, and named only when it is whole."""

import contextlib
import hashlib
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

_PIECE = 1 << 20
Pack = Callable[[Section, Path], Section]


def full(request: Create, channel: Channel) -> Backup:
    """An archive of its own. Nothing of it is left where this fails."""
    folder, started = Path(request.folder), time.monotonic()
    partial = folder / f"{catalog.PARTIAL}{Path(request.work).name}"
    watch = channel.context
    capturing = Capturing(request, channel)
    try:
        with Packer(
            partial, Path(request.work) / "manifest", request.draft, level=request.level, seal=request.seal, watch=watch
        ) as packer:
            watch.phase("capturing", total=request.expected)
            packer.add(state_section(), Path(request.state))

            def pack(section: Section, tree: Path) -> Section:
                watch.phase("capturing", total=request.expected, service=", ".join(section.users) or None)
                return packer.add(section, tree, exclude=request.exclude)

            for group in request.groups:
                capturing.capture(group, pack)
            backup = packer.finish()
        _check_sealed(request, partial)
        if request.seal is not None:
            watch.phase("verifying", total=backup.size)
            backup = msgspec.structs.replace(backup, digest=digest(partial, watch))
        watch.check()
        backup = msgspec.structs.replace(backup, duration=round(time.monotonic() - started, 3))
        publish(folder, partial, backup)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return backup


def digest(path: Path, watch: Watch) -> str:
    """The SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            watch.check()
            watch.advance(bytes=len(piece))
            found.update(piece)
    return found.hexdigest()


def state_section() -> Section:
    return Section(kind="state", name="state", prefix="state")


def publish(folder: Path, partial: Path, backup: Backup) -> None:
    """The record first: the archive's name is what makes it a backup."""
    catalog.write(folder, backup)
    try:
        os.rename(partial, folder / backup.name)
    except OSError:
        (folder / f"{backup.name}{catalog.RECORD}").unlink(missing_ok=True)
        raise
    atomic.sync_folder(folder)


class Capturing:
    """Captures group by group: from clones where the filesystem makes them, so that its services may go on at once."""

    def __init__(self, request: Create, channel: Channel, name: str = ""):
        self._channel = channel
        self._watch = channel.context
        self._name = f"{clone.PREFIX}{name or Path(request.work).name}"
        self._writable = [Path(section.stored) for group in request.groups for section in group.sections]
        clone.sweep(self._writable, writable=self._writable)

    def capture(self, group: Group, pack: Pack) -> None:
        with self.captured(group) as trees:
            for section, tree in trees:
                pack(section, tree)

    @contextlib.contextmanager
    def captured(self, group: Group) -> Iterator[list[tuple[Section, Path]]]:
        """The group's sections, and where each can be read now."""
        services = list(group.services)
        if group.asks:
            self._channel.ask("begin", services=services)
        trees = [Path(section.stored) for section in group.sections]
        # Not of what runs on: `cp` follows names, and a container could put a link in the place of a folder meanwhile.
        # tar does not follow them.
        with self.cloned(trees if group.asks else []) as clones:
            if clones:
                self._channel.ask("end", services=services)
            shown = [msgspec.structs.replace(section, cloned=bool(clones)) for section in group.sections]
            yield list(zip(shown, clones or trees, strict=True))
            if group.asks and not clones:
                self._channel.ask("end", services=services)

    @contextlib.contextmanager
    def cloned(self, trees: Sequence[Path]) -> Iterator[list[Path]]:
        """A clone of each tree, all or none; none where it cannot be had."""
        clones: list[Path] = []
        try:
            for tree in trees:
                made = clone.clone(tree, self._name, self._watch, writable=self._writable)
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
