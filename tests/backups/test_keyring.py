"""The board's own key: a passphrase opens it, nothing else does, and a power cut leaves the old one or the new."""

import json
import os
import stat
from pathlib import Path

import pytest

from homed import atomic
from homed.backups import keyring
from homed.errors import ArchiveError, BackupError, ValidationError
from tests.backups.archive import age_program

PASSPHRASE = "correct horse battery"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("state") / "backup-key"
    keyring.make(folder, PASSPHRASE + "\n")
    return folder


def test_the_passphrase_opens_the_identity_of_the_recipient(made: Path) -> None:
    seal = keyring.load(made)

    assert seal is not None
    identity = keyring.open(made, PASSPHRASE)
    assert age_program.recipient(identity) == seal.recipients[0]


def test_another_passphrase_does_not(made: Path) -> None:
    with pytest.raises(ArchiveError) as caught:
        keyring.open(made, PASSPHRASE.upper())

    assert caught.value.code == "BACKUP_KEY_WRONG"


def test_the_key_can_be_read_by_its_owner_only(made: Path) -> None:
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert stat.S_IMODE((made / keyring.FILE).stat().st_mode) == 0o600
    assert [path.name for path in made.iterdir()] == [keyring.FILE]


def test_the_identity_is_stored_sealed_only(made: Path) -> None:
    assert "AGE-SECRET-KEY" not in (made / keyring.FILE).read_text()


def test_where_none_was_made_there_is_none(tmp_path: Path) -> None:
    assert keyring.load(tmp_path) is None
    with pytest.raises(ArchiveError) as caught:
        keyring.open(tmp_path, PASSPHRASE)
    assert caught.value.code == "BACKUP_KEY_MISSING"


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"recipient": "age1x", "identity": "nothing"}', b"\xff"])
def test_a_key_that_cannot_be_read_is_an_error_and_not_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / keyring.FILE).write_bytes(damage)

    with pytest.raises(BackupError):
        keyring.load(tmp_path)


@pytest.mark.parametrize(
    "weak", ["", "short", "1234567\n", "aaaaaaaaaaaa", "null\0within it", "two\nlines of it", "x" * 2000]
)
def test_a_weak_passphrase_is_refused_before_anything_is_made(tmp_path: Path, weak: str) -> None:
    with pytest.raises(ValidationError):
        keyring.make(tmp_path / "key", weak)

    assert not (tmp_path / "key").exists()


def test_spaces_belong_to_a_passphrase() -> None:
    assert keyring.checked(" two words \r\n") == " two words "


@pytest.mark.parametrize("step", ["replace", "fsync", "write"])
def test_a_new_key_takes_the_place_of_the_old_at_once_or_not_at_all(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = tmp_path / "key"
    folder.mkdir()
    before = (made / keyring.FILE).read_bytes()
    (folder / keyring.FILE).write_bytes(before)
    monkeypatch.setattr("homed.backups.archive.age.wrap", lambda identity, passphrase: json.loads(before)["identity"])

    def cut(*_: object, **__: object) -> None:
        raise OSError("the power is gone")

    monkeypatch.setattr(atomic if step == "write" else os, step, cut)
    with pytest.raises(OSError, match="the power is gone"):
        keyring.make(folder, PASSPHRASE)

    assert (folder / keyring.FILE).read_bytes() == before
