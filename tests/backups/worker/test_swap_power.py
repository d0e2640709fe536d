"""The power is cut in the middle of a restore: what the disks hold at that moment is mounted again, and recovered."""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from homed.backups.worker.swap import Outcome
from tests.support import filesystems
from tests.support.swap_world import World, is_killed, killed_at


class Disks:
    """Two disks, one with homed's state and one with the data. The images are what a cut leaves of them."""

    def __init__(self, folder: Path, kind: str):
        self._folder = folder
        self._mounts = ExitStack()
        size = {"ext4": 6, "btrfs": 128, "xfs": 320}[kind]
        self._fresh = [filesystems.make(kind, folder / f"{name}.fresh", size) for name in ("state", "data")]

    def fresh(self) -> World:
        for image in self._fresh:
            copy(image, image.with_suffix(".image"))
        self._mount(".image")
        (self._folder / "data" / "board").mkdir()
        world = World(self._folder / "data" / "board", self._folder / "state" / "work", mount=False)
        os.sync()
        return world

    def cut(self) -> None:
        """The order is that of homed's promises: what the journal says is on the data's disk already."""
        for image in self._fresh:
            copy(image.with_suffix(".image"), image.with_suffix(".cut"))
        self.close()
        self._mount(".cut")

    def close(self) -> None:
        self._mounts.close()

    def _mount(self, suffix: str) -> None:
        for image in self._fresh:
            point = self._folder / image.stem
            self._mounts.enter_context(filesystems.mounted(image.with_suffix(suffix), point))


def copy(source: Path, target: Path) -> None:
    """With its holes."""
    with source.open("rb") as reader, target.open("wb") as writer:
        size, at = os.fstat(reader.fileno()).st_size, 0
        writer.truncate(size)
        while at < size:
            try:
                at = os.lseek(reader.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            until = os.lseek(reader.fileno(), at, os.SEEK_HOLE)
            os.lseek(writer.fileno(), at, os.SEEK_SET)
            while at < until:
                at += os.sendfile(writer.fileno(), reader.fileno(), at, until - at)


@pytest.mark.parametrize("kind", ["ext4", "btrfs", "xfs"])
@pytest.mark.timeout(240)
def test_a_power_cut_at_any_step_leaves_all_old_or_all_new(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filesystems.needs_root()
    disks = Disks(tmp_path, kind)
    try:
        world = disks.fresh()
        with killed_at(0, monkeypatch, sync=True) as steps:
            world.restore()
        new = world.new()
        outcomes = set()
        for last in range(2, steps.count + 1, 1 if kind == "ext4" else 5):
            disks.close()
            world = disks.fresh()
            with killed_at(last, monkeypatch, sync=True):
                assert is_killed(world.restore)
            disks.cut()
            outcome = world.recover(True) if world.work.exists() else Outcome.NOTHING
            outcomes.add(outcome)
            assert world.is_old() if outcome is not Outcome.COMPLETED else world.new() == new, last
            assert not world.work.exists() or list(world.work.iterdir()) == []
        assert {Outcome.ROLLED_BACK, Outcome.COMPLETED} <= outcomes
    finally:
        disks.close()
        for image in tmp_path.glob("*.*"):
            image.unlink() if image.is_file() else shutil.rmtree(image)
