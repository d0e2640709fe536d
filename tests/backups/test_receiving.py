"""Archives that come from elsewhere: naming one takes nothing from another."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from homed.backups import catalog
from homed.backups.catalog import Catalog
from homed.backups.receiving import Receiving
from homed.backups.records import Backup, Type
from homed.errors import BackupConflictError, BackupError

NAME = "board-20260102-030405.tar.gz"


@dataclass
class Shelf:
    catalog: Catalog
    receiving: Receiving
    partial: Path


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    found = Catalog(tmp_path / "backups")
    found.load()
    partial = found.folder / f"{catalog.PARTIAL}0"
    partial.write_bytes(b"archive")
    return Shelf(found, Receiving(found, lambda: 1 << 20), partial)


def record(size: int) -> Backup:
    return Backup(name=NAME, type=Type.FULL, created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), size=size)


def test_an_archive_that_came_by_hand_meanwhile_keeps_its_record(shelf: Shelf) -> None:
    (shelf.catalog.folder / NAME).write_bytes(b"by hand")
    catalog.write(shelf.catalog.folder, record(7))
    with pytest.raises(BackupConflictError):
        shelf.receiving.publish(shelf.partial, record(99))
    kept = catalog.read(shelf.catalog.folder / f"{NAME}{catalog.RECORD}")
    assert kept is not None
    assert kept.size == 7


def test_an_archive_that_cannot_be_named_leaves_no_record(shelf: Shelf) -> None:
    shelf.partial.unlink()
    with pytest.raises(BackupError, match="cannot be named"):
        shelf.receiving.publish(shelf.partial, record(7))
    assert not (shelf.catalog.folder / f"{NAME}{catalog.RECORD}").exists()
