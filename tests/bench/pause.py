"""How long a paused service stands still for its backup, where its filesystem shares blocks between files."""

import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.bench import trees
from tests.bench.backups import back_up, mount
from tests.bench.bed import Bed, Served
from tests.bench.figures import Figure, at_most
from tests.boards.rig.process import command
from tests.support.engine import DockerEngine, why_no_engine

_SIZE: Final = 10**9
_DISK: Final = 8 * 10**9
_ROUNDS: Final = 3
_HOW: Final[Mapping[str, tuple[str, ...]]] = {
    "btrfs": ("mkfs.btrfs", "--quiet"),
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
}


def why_not() -> str | None:
    missing = [how[0] for how in _HOW.values() if shutil.which(how[0]) is None]
    return why_no_engine() or (f"{', '.join(missing)} is not installed" if missing else None)


def run(bed: Bed) -> Iterator[Figure]:
    for kind in _HOW:
        # An engine of its own: it sees what was mounted before it was started.
        with _mounted(bed.folder / kind, kind) as folder, Bed(bed.scale) as own, own.homed() as homed:
            yield _measure(own.engine, homed, folder, kind, int(_SIZE * bed.scale))


def _measure(engine: DockerEngine, homed: Served, folder: Path, kind: str, size: int) -> Figure:
    tree = trees.mixed(folder / "data", size)
    mount(homed, tree, labels={"io.homed.backup": "paused"})
    pauses = []
    with _Events(engine) as events:
        for _ in range(_ROUNDS):
            os.sync()
            back_up(homed)
            pauses.append(events.pause())
    note = f"{tree.files:,} files, {tree.size / 1e6:,.0f} MB"
    return at_most(f"pause of a paused service on {kind}", 1, pauses, "s", note=note)


class _Events:
    """Docker Engine's word of when it paused a container, and when no more."""

    def __init__(self, engine: DockerEngine):
        self._stream = engine.client.events(decode=True, filters={"event": ["pause", "unpause"]})
        self._seen: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "_Events":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def pause(self) -> float:
        """Seconds of the pause that just was."""
        end = time.monotonic() + 10
        while len(self._seen) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        found, self._seen = self._seen, []
        if [one["Action"] for one in found] != ["pause", "unpause"]:
            raise RuntimeError(f"not one pause: {found}")
        return float(found[1]["timeNano"] - found[0]["timeNano"]) / 1e9

    def _follow(self) -> None:
        for event in self._stream:
            self._seen.append(event)


@contextmanager
def _mounted(folder: Path, kind: str) -> Iterator[Path]:
    """A filesystem on a loop device, gone afterwards."""
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(_DISK)
    command(*_HOW[kind], image)
    folder.mkdir()
    command("mount", "-o", "loop", image, folder)
    try:
        yield folder
    finally:
        command("umount", "--lazy", folder)
        image.unlink()
