"""What makes a restore impossible is found before the backup is read or anything stops, and in a dry run too."""

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from homed.backups.records import Failure, Type
from homed.backups.worker import preflight, restic
from homed.backups.worker.messages import Tree
from homed.backups.worker.preflight import check_space
from homed.config.backups import BackupRepository
from homed.config.backups import Backups as Config
from homed.errors import BackupSpaceError
from tests.support.archives import VOLUME
from tests.support.backup_board import BackupBoard
from tests.support.filesystems import full, in_memory
from tests.support.restic import put_on_path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of its own with the services' data in it, which is no mount point itself."""
    with in_memory(tmp_path / "disk", 128) as disk:
        (disk / "data" / "sub").mkdir(parents=True)
        (disk / "data" / "page").write_bytes(bytes(8 << 20))
        yield disk


@pytest.fixture
async def board(tmp_path: Path, disk: Path) -> AsyncIterator[BackupBoard]:
    one = BackupBoard(tmp_path)
    one.services.add("web", disk / "data")
    async with one:
        yield one


@contextmanager
def _attribute(path: Path, flag: str) -> Iterator[None]:
    if subprocess.run(["chattr", f"+{flag}", path], capture_output=True, check=False).returncode:
        pytest.skip("files cannot be made immutable here")
    try:
        yield
    finally:
        subprocess.run(["chattr", f"-{flag}", path], check=True)


@contextmanager
def _read_only(disk: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


_ALWAYS = {"a mount in it", "an immutable folder"}
_BLOCKED: dict[str, tuple[Callable[[Path], AbstractContextManager[object]], str]] = {
    "a mount in it": (lambda disk: in_memory(disk / "data" / "sub", 1), "sub is mounted in it"),
    "a read-only filesystem": (_read_only, "its filesystem is read-only"),
    "an immutable folder": (lambda disk: _attribute(disk / "data", "i"), "it is immutable"),
    "an append-only folder": (lambda disk: _attribute(disk / "data", "a"), "it is append-only"),
    "an immutable folder above it": (lambda disk: _attribute(disk, "i"), "in which it lies, is immutable"),
}


@pytest.mark.parametrize(
    ("block", "said"),
    [
        pytest.param(*one, id=name, marks=[] if name in _ALWAYS else [pytest.mark.thorough])
        for name, one in _BLOCKED.items()
    ],
)
async def test_a_target_that_cannot_be_replaced_is_found_first(
    board: BackupBoard, disk: Path, block: Callable[[Path], AbstractContextManager[object]], said: str
) -> None:
    name = (await board.create()).backup
    _spoil(board.backups.path(name))
    board.services.acts.clear()
    with block(disk):
        for dry_run in (True, False):
            failure = (await board.restore(name, config=False, dry_run=dry_run)).failure
            assert failure is not None
            assert failure.code == "BACKUP_TARGET_BLOCKED"
            assert said in failure.message
    assert board.services.acts == []
    # It is what keeps the restore from being begun: without it the archive is read.
    assert _code((await board.restore(name, config=False)).failure) == "BACKUP_DAMAGED"


def _spoil(archive: Path) -> None:
    """Nobody reads it without noticing."""
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    archive.write_bytes(data)


def _code(failure: Failure | None) -> str:
    return "" if failure is None else failure.code


@pytest.mark.parametrize("dry_run", [True, False])
async def test_room_for_both_is_needed_before_the_archive_is_read(
    board: BackupBoard, disk: Path, dry_run: bool
) -> None:
    name = (await board.create()).backup
    _spoil(board.backups.path(name))
    board.services.acts.clear()
    with full(disk, 2048):
        assert _code((await board.restore(name, config=False, dry_run=dry_run)).failure) == "BACKUP_NO_SPACE"
    assert board.services.acts == []


async def test_with_a_restic_that_fills_holes_their_room_is_needed(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(monkeypatch)
    os.truncate(disk / "data" / "page", 100 << 20)
    one = BackupBoard(tmp_path, Config(repository=BackupRepository(url=str(tmp_path / "repository"))))
    one.services.add("web", disk / "data")
    async with one:
        await one.quiet()
        made = await one.create(type=Type.INCREMENTAL)
        (section,) = [one for one in one.backups.get(made.backup).sections if one.kind == "path"]
        assert (section.size, section.apparent_size) == (8 << 20, 100 << 20)
        fills = not _keeps_holes()
        assert any("does not restore the holes" in warning for warning in made.warnings) is fills
        failure = (await one.restore(made.backup, config=False, dry_run=True)).failure
        assert _code(failure) == ("BACKUP_NO_SPACE" if fills else "")


def _keeps_holes() -> bool:
    said = subprocess.run(["restic", "version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in said.split()[1].split(".")[:2]) >= restic._SPARSE_FROM


def test_trees_on_one_filesystem_need_their_room_together(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    half = free.f_bavail * free.f_frsize * 6 // 10
    tree = Tree(VOLUME, str(tmp_path / "gone" / "deeper"))
    check_space([(tree, half)], 0)
    with pytest.raises(BackupSpaceError):
        check_space([(tree, half), (tree, half)], 0)
    assert preflight.places([], "x", ()) == []
