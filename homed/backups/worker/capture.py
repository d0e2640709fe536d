"""Each group of trees captured in its turn: still where its services want that, from a clone where one can be had."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from homed.backups.records import Section
from homed.backups.worker import clone, disk
from homed.backups.worker.channel import Channel
from homed.backups.worker.context import Watch
from homed.backups.worker.messages import Create, Group
from homed.errors import BackupError

Pack = Callable[[Section, Path], Section]


def state_section() -> Section:
    return Section(kind="state", name="state", prefix="state")


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
        trees = [Path(section.stored) for section in group.sections]
        if group.asks:
            _flush(trees)
            self._channel.ask("begin", services=services)
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
                    _remove(clones, self._watch)
                    break
                clones.append(made)
            yield clones
        finally:
            _remove(clones, self._watch)


def _remove(clones: list[Path], watch: Watch) -> None:
    """Remove the clones. The next backup removes those that fail; this backup is not affected."""
    for made in clones:
        try:
            clone.remove(made)
        except BackupError as error:
            watch.warn(f"a clone is left behind until the next backup: {error.message}")
    clones.clear()


def _flush(trees: Sequence[Path]) -> None:
    """Before anything stands still: a clone waits until what it shares is written."""
    for tree in trees:
        with contextlib.suppress(OSError), disk.folder(tree if tree.is_dir() else tree.parent) as folder:
            disk.sync(folder)
