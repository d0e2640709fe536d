"""homed's own state in a backup: create, verify, upload and restore agree on which one can be restored."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import pytest

from homed.backups import boardstate
from homed.backups.archive import state
from homed.backups.archive.unpack import unpack_state
from homed.backups.records import Type
from homed.backups.worker.capture import state_section
from homed.config.backups import BackupRepository
from homed.config.backups import Backups as Config
from homed.errors import ArchiveError, BackupError
from homed.store.base import PAGE_BYTES
from tests.support.archives import VOLUME, Forged, Told, check, draft, pack
from tests.support.backup_board import BackupBoard
from tests.support.restic import put_on_path

_NAME = draft().name
_RECORDS = b'{"services":{}}'
_LIMIT = state.MAX_BYTES[state.CONFIG]


@pytest.fixture
async def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BackupBoard]:
    put_on_path(monkeypatch)
    url = str(tmp_path / "repository")
    one = BackupBoard(tmp_path / "board", Config(repository=BackupRepository(url=url)))
    async with one:
        await one.quiet()
        yield one


def _forged(path: Path, files: Mapping[bytes, bytes]) -> bytes:
    forged = Forged()
    with forged.section(state_section()):
        for name, content in files.items():
            forged.add(b"state/" + name, content)
    return forged.write(path).read_bytes()


async def _outcomes(board: BackupBoard, archive: bytes) -> set[str]:
    """The failures' codes of an upload, a verification and a restore of one archive; empty if there was none."""

    async def chunks() -> AsyncIterator[bytes]:
        yield archive

    backups = board.backups
    found = set()
    operation = await backups.wait((await backups.receive(_NAME, chunks())).id)
    found.add(operation.failure.code if operation.failure else "")
    # If it is not taken, it lies there all the same: somebody has put it there.
    path = board.folder / _NAME
    path.write_bytes(archive)
    record = msgspec.structs.replace(draft(), size=len(archive))
    path.with_name(f"{_NAME}.json").write_bytes(msgspec.json.encode(record))
    backups.catalog.load()
    operation = await backups.wait((await backups.verify(_NAME)).id)
    found.add(operation.failure.code if operation.failure else "")
    operation = await board.restore(_NAME, config=False)
    found.add(operation.failure.code if operation.failure else "")
    await backups.wait((await backups.delete(_NAME)).id)
    return found


async def test_upload_verify_and_restore_agree_on_each_archive(board: BackupBoard, tmp_path: Path) -> None:
    cases: list[tuple[Mapping[bytes, bytes], str]] = [
        ({b"records.json": _RECORDS, b"homed.toml": b"#" * _LIMIT}, ""),
        ({b"records.json": _RECORDS, b"homed.toml": b"#" * (_LIMIT + 1)}, "BACKUP_UNSAFE"),
        ({b"records.json": _RECORDS, b"homed.db": bytes(2 * _LIMIT)}, ""),
        ({b"homed.db": b"no records"}, "BACKUP_DAMAGED"),
    ]
    for files, code in cases:
        assert await _outcomes(board, _forged(tmp_path / "b", files)) == {code}, files.keys()
    forged = Forged()
    with forged.section(VOLUME):
        forged.add(b"volumes/data/rows")
    assert await _outcomes(board, forged.write(tmp_path / "b").read_bytes()) == {"BACKUP_DAMAGED"}


@pytest.mark.parametrize("kind", [Type.FULL, pytest.param(Type.INCREMENTAL, marks=pytest.mark.thorough)])
async def test_create_makes_what_can_be_restored_and_nothing_else(board: BackupBoard, kind: Type) -> None:
    board.settings.file.write_bytes(b"#" * _LIMIT)
    made = await board.create(type=kind)
    assert made.failure is None
    assert (await board.backups.wait((await board.backups.verify(made.backup)).id)).failure is None
    assert (await board.restore(made.backup, config=True)).failure is None
    board.settings.file.write_bytes(b"#" * (_LIMIT + 1))
    refused = (await board.create(type=kind)).failure
    assert refused is not None
    assert "could not be restored" in refused.message
    assert f"homed.toml has {_LIMIT + 1} bytes" in refused.message
    assert [one.name for one in board.backups.all()] == [made.backup]


async def test_a_snapshot_of_which_a_restore_would_refuse_the_state_is_no_backup(board: BackupBoard) -> None:
    board.settings.file.write_bytes(b"#" * (_LIMIT + 1))
    refused = (await board.create(type=Type.INCREMENTAL)).failure
    assert refused is not None
    assert f"homed.toml has {_LIMIT + 1} bytes" in refused.message
    assert board.backups.all() == []


def _tree(path: Path, **files: int) -> Path:
    path.mkdir()
    (path / state.RECORDS).write_bytes(_RECORDS)
    for name, size in files.items():
        (path / name.replace("_", ".")).write_bytes(b"x" * size)
    return path


@pytest.mark.parametrize("name", state.MAX_BYTES)
def test_each_file_that_is_read_has_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(state, "MAX_BYTES", dict.fromkeys(state.MAX_BYTES, 1000))
    tree = _tree(tmp_path / "tree", homed_db=5000)
    (tree / name).write_bytes(b"x" * 1000)
    path = tmp_path / "b.tar.gz"
    made = pack(path, [(state_section(), tree)])
    assert check(path).sections == made.sections
    own = tmp_path / "own"
    own.mkdir()
    unpack_state(path, None, state.section_of(made), own, Told().context)
    assert {one.name for one in own.iterdir()} == {state.RECORDS, name}
    assert (own / name).stat().st_size == 1000
    path.unlink()
    (tree / name).write_bytes(b"x" * 1001)
    with pytest.raises(BackupError, match=f"could not be restored.* {name} has 1001 bytes"):
        pack(path, [(state_section(), tree)])
    assert not path.exists()


def test_holes_count_and_only_plain_files_are_read(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "tree")
    with (tree / state.CONFIG).open("wb") as file:
        file.truncate(_LIMIT + 1)
    with pytest.raises(BackupError, match=f"has {_LIMIT + 1} bytes"):
        pack(tmp_path / "b.tar.gz", [(state_section(), tree)])
    (tree / state.CONFIG).unlink()
    (tree / state.CONFIG).symlink_to("/etc/hostname")
    with pytest.raises(BackupError, match=r"its homed\.toml is no plain file"):
        pack(tmp_path / "b.tar.gz", [(state_section(), tree)])


def test_a_backup_without_state_is_none() -> None:
    with pytest.raises(ArchiveError, match="no state"):
        state.section_of(draft(sections=(VOLUME, state_section())))
    with pytest.raises(BackupError, match="could not be restored"):
        state.check_made(draft())


async def test_the_records_are_written_by_pages_and_read_as_they_were(board: BackupBoard, tmp_path: Path) -> None:
    services = {"a": '{"é":"\\"\\\\ü"}', "b": "{}"}
    board.services.stored.update({name: value.encode() for name, value in services.items()})
    large = json.dumps("x" * (PAGE_BYTES // 2))
    for i in range(5):
        await board.store.put("keys", f"k{i}", large.encode(), 0)
    own = boardstate.BoardState(board.state, board.settings.file, board.store, board.services, ("keys", "none"))
    await own.write(tmp_path / "state")
    saved = boardstate.read(tmp_path / "state")
    assert {name: value.decode() for name, value in saved.services.items()} == services
    assert saved.buckets == {"keys": {f"k{i}": large.encode() for i in range(5)}, "none": {}}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()} == {0o600}


_WORKER = """
import resource, sys
from pathlib import Path
from homed.backups.archive.state import section_of
from homed.backups.archive.unpack import unpack_state
from homed.backups.worker.capture import state_section
from tests.support.archives import Told, check, pack
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path, tree, own = map(Path, sys.argv[1:])
assert pack(path, [(state_section(), tree)]).sections[0].size > 1 << 30
unpack_state(path, None, section_of(check(path)), own, Told().context)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.thorough
def test_a_database_of_more_than_a_gibibyte_needs_no_memory_and_no_room(tmp_path: Path) -> None:
    tree, own = _tree(tmp_path / "tree"), tmp_path / "own"
    own.mkdir()
    with (tree / state.DATABASE).open("wb") as file:
        for _ in range(1025):
            file.write(bytes(1 << 20))
    ran = subprocess.run(
        [sys.executable, "-c", _WORKER, tmp_path / "b.tar.gz", tree, own],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert int(ran.stdout) < 64 << 10
    assert [one.name for one in own.iterdir()] == [state.RECORDS]
