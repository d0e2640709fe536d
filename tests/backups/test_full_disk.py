"""A disk that is full, at any moment: nothing is left behind, the old backups stay, the board is as it was."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from homed.backups.archive.verify import verify
from homed.backups.records import State
from homed.errors import BackupSpaceError
from tests.support.archives import Told, snapshot
from tests.support.backup_board import BackupBoard
from tests.support.filesystems import full, in_memory, make, mounted
from tests.support.nursery import NursedStart, Nursery

# What stays free, in KiB: none, less than a page of the database, less than its log, less than the archive.
LEFT = (0, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048)
FILES = 40


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    with Nursery(tmp_path) as made:
        yield made


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path / "board" / "state", 16) as folder:
        yield folder


@asynccontextmanager
async def started(tmp_path: Path, nursery: Nursery) -> AsyncIterator[BackupBoard]:
    root = tmp_path / "board"
    board = BackupBoard(root, start=NursedStart(nursery.socket, root))
    data = root / "data" / "web"
    if not data.exists():
        data.mkdir(parents=True)
        for i in range(FILES):
            (data / str(i)).write_bytes(os.urandom(75_000))
    board.services.add("web", data)
    board.settings.file.write_text('name = "one"\n')
    async with board:
        yield board


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def attempt(board: BackupBoard, name: str | None = None, **wish: object) -> str:
    """Create, or restore what is named: the failure's code, empty where there was none."""
    try:
        operation = await (board.create() if name is None else board.restore(name, **wish))
    except BackupSpaceError as error:
        return error.code
    return operation.failure.code if operation.failure else ""


async def test_a_backup_that_does_not_fit_leaves_nothing(tmp_path: Path, nursery: Nursery, disk: Path) -> None:
    async with started(tmp_path, nursery) as board:
        before = (await board.create()).backup
        there = files(board.folder)
        for left in LEFT:
            with full(disk, left):
                failure = await attempt(board)

                assert failure == "BACKUP_NO_SPACE", left
                assert files(board.folder) == there, left
                assert not files(disk / "backup-work"), left
        verify(board.backups.path(before), tmp_path / "spool", None, Told().context)
        assert [backup.name for backup in board.backups.all()] == [before]

        assert (await board.create()).state is State.SUCCEEDED


async def test_without_an_inode_for_it_a_backup_leaves_nothing(tmp_path: Path, nursery: Nursery, disk: Path) -> None:
    async with started(tmp_path, nursery) as board:
        await board.create()
        there = files(board.folder)
        failed = 0
        for more in range(24):
            with inodes(disk, more):
                failure = await attempt(board)
            if not failure:
                break
            failed += 1
            assert failure == "BACKUP_NO_SPACE", more
            assert files(board.folder) == there, more
            assert not files(disk / "backup-work"), more
        assert 5 < failed < 24


@contextmanager
def inodes(folder: Path, left: int) -> Iterator[None]:
    """Room for so many more files; their content finds room."""
    now = os.statvfs(folder)
    _remount(folder, now.f_files - now.f_ffree + left)
    try:
        yield
    finally:
        _remount(folder, 100_000)


def _remount(folder: Path, count: int) -> None:
    subprocess.run(["mount", "-o", f"remount,nr_inodes={count}", str(folder)], check=True, timeout=10)


async def test_a_restore_for_which_the_state_has_no_room_changes_nothing(
    tmp_path: Path, nursery: Nursery, disk: Path
) -> None:
    async with started(tmp_path, nursery) as board:
        name = (await board.create()).backup
        data = tmp_path / "board" / "data"
        (data / "web" / "0").write_text("changed")
        before, there = trees_in(data), files(board.folder)
        for left in LEFT:
            with full(disk, left):
                failure = await attempt(board, name, config=False)

                if not failure:
                    break
                assert failure == "BACKUP_NO_SPACE", left
                assert trees_in(data) == before, left
                assert board.services.held == set()
                assert files(board.folder) == there
                assert not files(disk / "backup-work"), left
        else:
            raise AssertionError("there was never room enough")
        assert (data / "web" / "0").stat().st_size == 75_000


def trees_in(folder: Path) -> dict[bytes, tuple[object, ...]]:
    """All in it, without itself: that something was staged beside the trees for a moment changes its time."""
    found = snapshot(folder)
    del found[b"."]
    return found


async def test_a_restore_that_runs_out_of_inodes_leaves_the_data_as_it_was(tmp_path: Path, nursery: Nursery) -> None:
    """At each file that it lays out, and each folder that it makes."""
    with in_memory(tmp_path / "board" / "data", 128) as disk:
        async with started(tmp_path, nursery) as board:
            name = (await board.create()).backup
            (disk / "web" / "0").write_text("changed")
            before = snapshot(disk / "web")
            for more in (0, 1, 2, 3, 4, 5, 10, FILES, FILES + 1):
                with inodes(disk, more):
                    failure = await attempt(board, name, config=False)

                assert failure == "BACKUP_NO_SPACE", more
                assert snapshot(disk / "web") == before, more
                assert files(disk) == {"web"}
                assert board.services.held == set()
            with inodes(disk, FILES + 3):
                failure = await attempt(board, name, config=False)
            assert failure == ""
            assert (disk / "web" / "0").stat().st_size == 75_000


async def test_what_does_not_fit_beside_the_data_is_not_begun(tmp_path: Path, nursery: Nursery) -> None:
    """On a disk (ext4), where small files take more than they hold."""
    image = make("ext4", tmp_path / "image", 192)
    with mounted(image, tmp_path / "board" / "data") as disk:
        async with started(tmp_path, nursery) as board:
            small = disk / "web" / "small"
            small.mkdir()
            for i in range(3000):
                (small / str(i)).write_bytes(b"x")
            operation = await board.create()
            assert operation.failure is None
            board.services.acts.clear()
            before = snapshot(disk / "web")
            for left in (0, 1024, 8 << 10, 69 << 10):  # of which 64 MiB are to stay free
                with full(disk, left):
                    assert await attempt(board, operation.backup, config=False) == "BACKUP_NO_SPACE", left
                    assert board.services.acts == [], left
            assert snapshot(disk / "web") == before
            with full(disk, 84 << 10):
                assert await attempt(board, operation.backup, config=False) == ""


async def test_on_a_full_disk_backups_can_be_deleted(tmp_path: Path, nursery: Nursery, disk: Path) -> None:
    """It is what makes room."""
    async with started(tmp_path, nursery) as board:
        name = (await board.create()).backup
        with full(disk, 0):
            operation = await board.backups.wait((await board.backups.delete(name)).id)

            assert operation.failure is None
            assert files(board.folder) == set()
        assert board.backups.all() == []


async def test_an_upload_for_which_there_is_no_room_leaves_nothing(
    tmp_path: Path, nursery: Nursery, disk: Path
) -> None:
    async with started(tmp_path, nursery) as board:
        name = (await board.create()).backup
        data = board.backups.path(name).read_bytes()
        await board.backups.wait((await board.backups.delete(name)).id)

        async def chunks() -> AsyncIterator[bytes]:
            for at in range(0, len(data), 65536):
                yield data[at : at + 65536]
                await asyncio.sleep(0)

        for left in (0, 100, 1024, 8 << 10):
            with full(disk, left), pytest.raises(BackupSpaceError):
                await board.backups.receive(name, chunks())
            assert files(board.folder) == set()
