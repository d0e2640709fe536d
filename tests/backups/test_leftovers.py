"""After a restore is decided nothing but the new data counts: what cannot be removed is left, told, and tried again."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from homed.backups import leftovers
from homed.backups.leftovers import Leftovers
from homed.backups.workplaces import LEFT
from homed.errors import BackupError
from tests.support.backup_board import BackupBoard
from tests.support.filesystems import in_memory


@pytest.fixture
async def board(tmp_path: Path) -> AsyncIterator[BackupBoard]:
    one = _board(tmp_path)
    async with one:
        yield one


def _board(root: Path) -> BackupBoard:
    (root / "data").mkdir(exist_ok=True)
    (root / "data" / "page").write_text("old")
    one = BackupBoard(root)
    one.services.add("web", root / "data")
    return one


@pytest.fixture
def fixed(tmp_path: Path) -> Iterator[Path]:
    """A file that nobody can remove, in the data that a restore replaces."""
    path = tmp_path / "data" / "fixed"
    path.parent.mkdir(exist_ok=True)
    path.write_text("for ever")
    if subprocess.run(["chattr", "+i", path], capture_output=True, check=False).returncode:
        pytest.skip("files cannot be made immutable here")
    yield path
    for one in tmp_path.rglob("fixed"):
        subprocess.run(["chattr", "-i", one], check=True)


def _let_go(root: Path) -> None:
    for one in root.rglob("fixed"):
        subprocess.run(["chattr", "-i", one], check=True)


async def test_what_cannot_be_removed_keeps_no_service_and_no_operation_waiting(
    tmp_path: Path, board: BackupBoard, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(leftovers, "_FIRST_DELAY", 0.0)
    name = (await board.create()).backup
    fixed = request.getfixturevalue("fixed")
    (tmp_path / "data" / "page").write_text("newer")

    operation = await board.restore(name, config=False)

    assert operation.failure is None
    assert (tmp_path / "data" / "page").read_text() == "old"
    assert not fixed.exists()
    assert board.services.held == set()
    assert any("immutable" in warning for warning in operation.warnings)
    assert (await board.create()).failure is None  # no 409
    again = await board.restore(name, config=False)
    assert again.failure is None
    async with asyncio.timeout(30):
        while "immutable" not in (board.parts.tell().message or ""):
            await asyncio.sleep(0.05)
    _let_go(tmp_path)
    board.parts._broken_off.set()
    async with asyncio.timeout(30):
        while board.parts.tell().message:
            await asyncio.sleep(0.05)
    assert not list(tmp_path.glob(".homed-*"))
    assert list((board.state / "backup-work").glob(f"*/{LEFT}")) == []


async def test_a_restart_keeps_what_was_left_in_mind(tmp_path: Path, fixed: Path) -> None:
    async with _board(tmp_path) as board:
        _let_go(tmp_path)
        name = (await board.create()).backup
        subprocess.run(["chattr", "+i", fixed], check=True)
        assert (await board.restore(name, config=False)).failure is None
    async with _board(tmp_path) as later:
        assert later.services.held == set()
        async with asyncio.timeout(30):
            while "immutable" not in (later.parts.tell().message or ""):
                await asyncio.sleep(0.05)
        assert (await later.create()).failure is None


@pytest.mark.thorough
async def test_what_was_left_is_no_part_of_a_later_backup(tmp_path: Path) -> None:
    """Of a mount point the old data is put aside in itself."""
    disk = tmp_path / "data"
    with in_memory(disk, 128):
        board = _board(tmp_path)
        async with board:
            name = (await board.create()).backup
            (disk / "old").mkdir()
            (disk / "old" / "fixed").touch()
            with _undeletable(disk / "old" / "fixed"):
                operation = await board.restore(name, config=False)
                assert operation.failure is None, operation.failure
                assert operation.warnings
                assert board.services.held == set()
                assert [path.name for path in disk.iterdir() if path.name.startswith(".homed-new-")]
                second = board.backups.get((await board.create()).backup)
                assert [one.members for one in second.sections if one.kind == "path"] == [2]


class _undeletable:
    """A file that cannot be removed for the time; nor can the folder that it lies in."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None:
        if subprocess.run(["chattr", "+i", self._path], capture_output=True, check=False).returncode:
            pytest.skip("files cannot be made immutable here")

    def __exit__(self, *_: object) -> None:
        for one in self._path.parent.rglob(self._path.name):
            subprocess.run(["chattr", "-i", one], check=True)


def _left(root: Path, name: str = "one") -> Path:
    work = root / name
    work.mkdir(parents=True)
    (work / LEFT).write_text("{}")
    return work


async def test_the_tries_become_seldom_and_are_put_off_while_something_runs(tmp_path: Path) -> None:
    now, busy = 0.0, True
    tries: list[float] = []

    async def clean(work: Path) -> list[str]:
        tries.append(now)
        if now < 1000:
            raise BackupError("it is immutable")
        shutil.rmtree(work)
        return []

    left = Leftovers(tmp_path, clean, lambda: busy, lambda: now)
    await left.look()
    assert left.message == ""
    _left(tmp_path)
    await left.look()
    assert not tries
    assert "no other operation runs" in left.message
    busy = False
    for _ in range(200):
        await left.look()
        now += 30.0
    assert tries == [0.0, 60.0, 180.0, 420.0, 900.0, 1860.0]
    assert left.message == ""


async def test_a_removal_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_CLEAN_TIMEOUT", 0.01)

    async def hangs(work: Path) -> list[str]:
        await asyncio.Event().wait()
        return []

    left = Leftovers(tmp_path, hangs, lambda: False)
    _left(tmp_path)
    await left.look()
    assert "did not end" in left.message
    assert os.listdir(tmp_path) == ["one"]
