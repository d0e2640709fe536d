"""A board of the model with homed's parts of updates on it, its disk in memory."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.board_model import Board, Bootloader, UBoot
from tests.support.update_world import MakeWorld, World


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeWorld]:
    """Makes a board as delivered, with this bootloader and these settings of `updates`."""
    memory = Path("/dev/shm")
    home = Path(tempfile.mkdtemp(prefix="homed-test-", dir=memory if memory.is_dir() else tmp_path))
    made = 0

    def world(bootloader: Callable[[], Bootloader] = UBoot, **config: object) -> World:
        nonlocal made
        made += 1
        folder = home / str(made)
        folder.mkdir()
        return World(folder, Board(bootloader()), monkeypatch, **config)

    yield world
    shutil.rmtree(home)


@pytest.fixture
def world(make: MakeWorld) -> World:
    return make()
