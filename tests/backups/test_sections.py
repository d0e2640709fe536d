"""A backup tells the same of what it holds, archive or snapshot, and a restore makes the same of both."""

import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from homed.backups.ports import Mode
from homed.backups.records import Backup, Type
from homed.config.backups import BackupRepository
from homed.config.backups import Backups as Config
from tests.support.archives import snapshot
from tests.support.backup_board import BackupBoard
from tests.support.restic import put_on_path

_BOTH = pytest.mark.parametrize("kind", [Type.FULL, Type.INCREMENTAL])
_BOTH_THOROUGHLY = pytest.mark.parametrize(
    "kind", [Type.FULL, pytest.param(Type.INCREMENTAL, marks=pytest.mark.thorough)]
)


@pytest.fixture(autouse=True)
def _restic(monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(monkeypatch)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One of each kind of source that a service can mount."""
    data = tmp_path / "data"
    (data / "folder" / "deep").mkdir(parents=True)
    (data / "folder" / "deep" / "page").write_text("hello")
    os.link(data / "folder" / "deep" / "page", data / "folder" / "page")
    os.symlink("deep/page", data / "folder" / "link")
    os.mkfifo(data / "folder" / "pipe")
    (data / "folder" / "inner.conf").write_text("inner")
    (data / "app.conf").write_text("setting = 1\n")
    os.chown(data / "app.conf", 1234, 4321)
    (data / "app.conf").chmod(0o640)
    (data / "zero").touch(mode=0o604)
    (data / "empty").mkdir(mode=0o750)
    (data / "real").mkdir()
    (data / "real" / "kept").write_text("kept")
    (data / "linked").symlink_to("real")
    (data / "frozen.conf").write_text("frozen")
    return data


@pytest.fixture
async def board(tmp_path: Path, data: Path) -> AsyncIterator[BackupBoard]:
    one = BackupBoard(tmp_path, Config(repository=BackupRepository(url=str(tmp_path / "repository"))))
    paths = ("folder", "folder/inner.conf", "app.conf", "zero", "empty", "linked")
    one.services.add("web", *(data / path for path in paths))
    one.services.add("db", data / "frozen.conf", mode=Mode.PAUSED)
    async with one:
        await one.quiet()
        yield one


def _damage(data: Path) -> None:
    for name in ("app.conf", "zero", "frozen.conf"):
        (data / name).write_text("changed")
    (data / "zero").chmod(0o777)
    (data / "folder" / "page").unlink()
    (data / "folder" / "inner.conf").unlink()
    (data / "empty" / "new").touch()
    (data / "real" / "kept").unlink()


def _numbered(found: dict[bytes, tuple[object, ...]]) -> dict[bytes, tuple[object, ...]]:
    """Without what restic does not keep: that two symlinks are one file."""
    del found[b"."]  # the folder of the services' own: what is put back in it changes its time
    return {name: one[:5] + one[6:] if stat.S_ISLNK(int(str(one[0]))) else one for name, one in found.items()}


@_BOTH
async def test_each_kind_of_source_comes_back_as_what_it_was(board: BackupBoard, data: Path, kind: Type) -> None:
    before = snapshot(data)
    name = (await board.create(type=kind)).backup
    verified = await board.backups.wait((await board.backups.verify(name)).id)
    assert verified.failure is None
    sections = _sections(board.backups.get(name))
    assert sections["app.conf"] == (True, 1, 12, 12)
    assert sections["zero"] == (True, 1, 0, 0)
    assert sections["empty"] == (False, 1, 0, 0)
    _damage(data)
    operation = await board.restore(name, config=False)
    assert operation.failure is None, operation.failure
    after = snapshot(data)
    assert (data / "app.conf").is_file()
    assert stat.S_IMODE((data / "app.conf").stat().st_mode) == 0o640
    assert _numbered(after) == _numbered(before)


def _sections(backup: Backup) -> dict[str, tuple[Any, ...]]:
    return {
        Path(one.name).name: (one.single, one.members, one.size, one.apparent_size)
        for one in backup.sections
        if one.kind != "state"
    }


@pytest.mark.thorough
async def test_both_kinds_of_backup_tell_the_same(board: BackupBoard) -> None:
    told, plans = [], []
    for kind in Type:
        name = (await board.create(type=kind)).backup
        told.append(_sections(board.backups.get(name)))
        plan: Any = (await board.restore(name, config=False, dry_run=True)).result["plan"]
        plans.append({Path(one["name"]).name: (one["size"], one["members"], one["act"]) for one in plan["volumes"]})
    assert told[0] == told[1]
    assert told[0]["app.conf"] == (True, 1, 12, 12)
    assert told[0]["zero"] == (True, 1, 0, 0)
    assert told[0]["empty"] == (False, 1, 0, 0)
    assert plans[0] == plans[1]
    assert plans[0]["app.conf"] == (12, 1, "replace")


@pytest.mark.thorough
async def test_a_snapshot_of_an_older_homed_is_restored_as_what_it_holds(board: BackupBoard, data: Path) -> None:
    """Its record says of no section whether it is a file, nor how large."""
    backup = board.backups.get((await board.create(type=Type.INCREMENTAL)).backup)
    older = [msgspec.structs.replace(one, single=False, members=0, size=0, apparent_size=0) for one in backup.sections]
    board.backups.catalog.change(msgspec.structs.replace(backup, sections=tuple(older)))
    plan: Any = (await board.restore(backup.name, config=False, dry_run=True)).result["plan"]
    assert {Path(one["name"]).name: (one["size"], one["members"]) for one in plan["volumes"]}["app.conf"] == (12, 1)
    (data / "app.conf").write_text("changed")
    assert (await board.restore(backup.name, config=False)).failure is None
    assert (data / "app.conf").read_text() == "setting = 1\n"


@pytest.mark.thorough
async def test_a_snapshot_that_lacks_a_section_is_refused_before_anything_stops(board: BackupBoard, data: Path) -> None:
    backup = board.backups.get((await board.create(type=Type.INCREMENTAL)).backup)
    wrong = [
        msgspec.structs.replace(one, stored=f"{one.stored}-gone") if one.name.endswith("app.conf") else one
        for one in backup.sections
    ]
    board.backups.catalog.change(msgspec.structs.replace(backup, sections=tuple(wrong)))
    board.services.acts.clear()
    operation = await board.restore(backup.name, config=False)
    assert operation.failure is not None
    assert operation.failure.code == "BACKUP_DAMAGED"
    assert "app.conf" in operation.failure.message
    assert board.services.acts == []


@_BOTH_THOROUGHLY
async def test_what_became_something_else_meanwhile_is_left_out_and_said(
    board: BackupBoard, data: Path, kind: Type
) -> None:
    with _socket(data / "app.conf"):
        (data / "zero").unlink()
        operation = await board.create(type=kind)
        assert operation.failure is None
        said = "\n".join(operation.warnings)
        assert "app.conf is neither a folder nor a file" in said
        assert "zero is not there (any more)" in said
    plan: Any = (await board.restore(operation.backup, config=False, dry_run=True)).result["plan"]
    assert not {"app.conf", "zero"} & {Path(one["name"]).name for one in plan["volumes"]}


@_BOTH_THOROUGHLY
async def test_device_nodes_are_neither_kept_nor_restored(board: BackupBoard, data: Path, kind: Type) -> None:
    try:
        os.mknod(data / "folder" / "disk", stat.S_IFBLK | 0o666, os.makedev(7, 200))
    except PermissionError:
        pytest.skip("device nodes cannot be made here")
    operation = await board.create(type=kind)
    assert any("device nodes are not part of the backup (1)" in one for one in operation.warnings)
    assert (await board.restore(operation.backup, config=False)).failure is None
    assert not (data / "folder" / "disk").exists()
    assert (data / "folder" / "inner.conf").read_text() == "inner"


class _socket:
    """A listening socket at a path."""

    def __init__(self, path: Path):
        path.unlink(missing_ok=True)
        self._folder = os.getcwd()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> None:
        os.chdir(self._path.parent)
        try:
            self._socket.bind(self._path.name)
        finally:
            os.chdir(self._folder)

    def __exit__(self, *_: object) -> None:
        self._socket.close()
