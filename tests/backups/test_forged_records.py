"""What an archive says of itself in its manifest's first line becomes its record here: it must not lie."""

import gzip
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from homed.access.keys import Keys
from homed.backups.parts import overdue
from homed.backups.records import Type
from homed.clock import now
from homed.errors import ArchiveError
from tests.support.archives import VOLUME, Forged
from tests.support.hostile_board import NAME, STATE, HostileBoard, hostile_board, records, service
from tests.support.nursery import NursedStart, Nursery


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[HostileBoard]:
    root = tmp_path / "board"
    with Nursery(tmp_path) as nursery:
        async with hostile_board(root, NursedStart(nursery.socket, root)) as made:
            yield made


def said(path: Path, **fields: object) -> bytes:
    """A good archive, but for what it says of itself."""
    forged = Forged()
    with forged.section(STATE):
        forged.add(b"state/records.json", records({"web": service("web", "data:/data")}))
    with forged.section(VOLUME):
        forged.add(b"volumes/data/rows", b"4 5 6")
    return forged.write(path, fields=fields).read_bytes()


def cases() -> Iterator[tuple[dict[str, object], str]]:
    yield {"type": "incremental", "snapshot": "of-this-boards-repository"}, "BACKUP_UNSAFE"
    yield {"created_at": "2026-01-02T03:04:05"}, "BACKUP_UNSAFE"  # of no zone: it could not be put in order
    yield {"created_at": "2999-01-01T00:00:00Z"}, "BACKUP_UNSAFE"  # newer than any, for ever
    yield {"name": "../../etc/passwd"}, "BACKUP_UNSAFE"
    yield {"services": "web"}, "BACKUP_DAMAGED"
    yield {"sections": None}, "BACKUP_DAMAGED"
    yield {"format": "1"}, "BACKUP_DAMAGED"
    yield {"members": 10**30}, "BACKUP_DAMAGED"


async def test_a_record_that_lies_is_not_taken_in(one: HostileBoard, tmp_path: Path) -> None:
    mine = (await one.board.create()).backup
    for fields, code in cases():
        failed = await one.received(said(tmp_path / "b", **fields))
        assert failed == code, fields
        assert not list(one.board.folder.iterdir()), fields
        assert one.board.backups.all() == []
        one.shelve(tmp_path / "b")
        assert await one.restored(services=False, config=False) in (code, ""), fields
    assert mine


async def test_what_only_this_board_knows_is_not_taken_from_others(one: HostileBoard, tmp_path: Path) -> None:
    lies = {
        "schedule": "nightly", "copies": ["elsewhere"], "verified_at": "2026-01-02T03:04:05Z", "uploaded": False,
        "snapshot": "one-of-ours", "repository": "ours", "encrypted": True, "damage": "none at all",
    }  # fmt: skip
    assert await one.received(said(tmp_path / "b", **lies)) == ""
    backup = one.board.backups.get(NAME)
    assert (backup.type, backup.uploaded, backup.encrypted, backup.damage) == (Type.FULL, True, False, None)
    assert (backup.copies, backup.snapshot, backup.repository) == ((), None, None)
    assert backup.size == (one.board.folder / NAME).stat().st_size
    assert (await one.board.backups.wait((await one.board.backups.delete(NAME)).id)).failure is None


async def test_another_boards_backup_is_not_this_boards_last_good_one(one: HostileBoard, tmp_path: Path) -> None:
    assert await one.received(said(tmp_path / "b")) == ""
    backup = one.board.backups.get(NAME)
    at = backup.created_at + timedelta(hours=1)
    assert overdue([backup], 7200, at, at - timedelta(days=1)) is not None
    (own,) = [(await one.board.create()).backup]
    assert overdue(one.board.backups.all(), 7200, now(), at) is None
    assert own


async def test_an_archive_that_is_no_backup_is_not_taken_in(one: HostileBoard, tmp_path: Path) -> None:
    good = said(tmp_path / "b")
    assert await one.received(gzip.compress(b"")) == "BACKUP_DAMAGED"
    with pytest.raises(ArchiveError) as caught:  # while it comes
        await one.received(b"")
    assert caught.value.code == "BACKUP_FORMAT"
    for content in (b"x", good[:10], gzip.compress(b""), gzip.compress(bytes(1 << 20)), b"\x1f\x8b" * 5000,
                    good + b"more", good + good, gzip.compress(gzip.decompress(good) * 2)):  # fmt: skip
        assert await one.received(content) in ("BACKUP_DAMAGED", "BACKUP_UNSAFE"), content[:20]
        assert not list(one.board.folder.iterdir())


async def test_keys_that_are_none_lock_nobody_out(one: HostileBoard, tmp_path: Path) -> None:
    """Wherever they are refused: homed has to start again, and to answer whoever has a key."""
    forged = Forged()
    zoneless = '{"id":"b","name":"b","scope":"admin","digest":"","created_at":"2026-01-02T03:04:05"}'
    with forged.section(STATE):
        forged.add(b"state/records.json", msgspec.json.encode({"services": {}, "keys": {"a": "{", "b": zoneless}}))
    one.shelve(forged.write(tmp_path / "b"))
    await one.restored(keys=True, config=False)
    keys = Keys(one.board.store)
    await keys.load()
    assert keys.all() == []
