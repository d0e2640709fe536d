"""age's passphrases: as age and rage have them, opened however slow the board is, and refused for what is the cause."""

import base64
from pathlib import Path

import pyrage
import pytest

from homed.backups.archive import age, passphrase, seal, unlocking
from homed.backups.archive.passphrase import CostlyError, DamagedError, WrongPassphraseError
from homed.backups.worker.messages import Seal, Unlock
from homed.errors import ArchiveError, BackupError
from tests.support.archives import Told

_FACTOR = 10  # quick


def test_what_is_encrypted_comes_back_and_rage_reads_it() -> None:
    for text in (b"", b"x", b"y" * (64 << 10)):
        made = passphrase.encrypt(text, "a långer one", work_factor=_FACTOR)
        assert passphrase.decrypt(made, "a långer one") == text
        assert pyrage.passphrase.decrypt(made.encode(), "a långer one") == text
    with pytest.raises(ValueError, match="too long"):
        passphrase.encrypt(b"y" * ((64 << 10) + 1), "x")


@pytest.mark.thorough
def test_what_rage_encrypted_is_opened() -> None:
    made = pyrage.passphrase.encrypt(b"text", "secret words", armored=True).decode()
    assert passphrase.decrypt(made, "secret words") == b"text"
    with pytest.raises(WrongPassphraseError):
        passphrase.decrypt(made, "secret word")


def test_the_work_factor_does_not_depend_on_the_machine() -> None:
    made = passphrase.encrypt(b"text", "secret words")
    assert passphrase.cost(made).memory == 128 << 20
    assert passphrase.decrypt(made, "secret words") == b"text"


def test_a_slow_board_takes_its_time_and_says_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is long for a board is no reason to call the passphrase wrong."""
    made = passphrase.encrypt(b"text", "secret words", work_factor=16)
    ticks = iter(range(0, 1000, 2))
    monkeypatch.setattr(
        "homed.backups.archive.passphrase.time.perf_counter", lambda: float(next(ticks))
    )  # two seconds for the trial
    assert passphrase.cost(made).seconds == 32.0
    assert passphrase.decrypt(made, "secret words") == b"text"
    monkeypatch.setattr(passphrase, "_MAX_SECONDS", 30.0)
    with pytest.raises(CostlyError, match="minutes here"):
        passphrase.decrypt(made, "secret words")


def test_too_little_memory_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    made = passphrase.encrypt(b"text", "secret words", work_factor=_FACTOR)
    monkeypatch.setattr(passphrase, "_free_memory", lambda: (1 << 20) - 1)
    with pytest.raises(CostlyError, match="1 MB of memory"):
        passphrase.decrypt(made, "secret words")


def test_what_was_changed_is_damaged_and_not_the_passphrase_wrong() -> None:
    made = passphrase.encrypt(b"text of some length", "secret words", work_factor=_FACTOR)
    lines = made.splitlines()
    data = base64.b64decode("".join(lines[1:-1]))
    header = data.index(b"\n---")
    for at in (len(data) - 1, len(data) - 20, header + 8):
        changed = bytearray(data)
        changed[at] ^= 1
        armoured = f"{lines[0]}\n{base64.b64encode(bytes(changed)).decode()}\n{lines[-1]}\n"
        with pytest.raises(DamagedError):
            passphrase.decrypt(armoured, "secret words")
    for_a_key = pyrage.encrypt(b"x", [pyrage.x25519.Identity.generate().to_public()], armored=True).decode()
    begun, empty = made.replace("BEGIN", "BEGUN"), f"{lines[0]}\n{lines[-1]}"
    for text in ("", "x", f"{lines[0]}\n!!\n{lines[-1]}", empty, begun, for_a_key):
        with pytest.raises(DamagedError):
            passphrase.decrypt(text, "secret words")


def test_a_work_factor_without_end_is_not_begun() -> None:
    made = passphrase.encrypt(b"text", "secret words", work_factor=_FACTOR)
    data = base64.b64decode("".join(made.splitlines()[1:-1])).replace(b" 10\n", b" 40\n")
    armoured = f"{made.splitlines()[0]}\n{base64.b64encode(data).decode()}\n{made.splitlines()[-1]}\n"
    with pytest.raises(DamagedError, match="far too much work"):
        passphrase.decrypt(armoured, "secret words")


@pytest.fixture(scope="module")
def key() -> tuple[str, str, str]:
    recipient, identity = age.generate()
    return recipient, identity, age.wrap(identity, "secret words")


def test_a_passphrase_is_tried_once_for_all_readings(
    tmp_path_factory: pytest.TempPathFactory, key: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path_factory.mktemp("sealed") / "one.age.tar"
    with seal.create(path, Seal((key[0],), key[2])) as file:
        file.write(b"content")
    told = Told()
    assert unlocking.unlocked(path, Unlock(passphrase="secret words"), told.context) == Unlock(identity=key[1])
    assert told.warnings == []
    monkeypatch.setattr(unlocking, "_TOLD_SECONDS", 0.0)
    assert unlocking.unlocked(path, Unlock(passphrase="secret words"), told.context) == Unlock(identity=key[1])
    assert "on this board now" in told.warnings[0]
    for unlock in (None, Unlock(identity=key[1])):
        assert unlocking.unlocked(path, unlock, told.context) is unlock
    monkeypatch.setattr(passphrase, "_free_memory", lambda: 0)
    assert _refused(path, "secret words") == "BACKUP_KEY_COSTLY"
    monkeypatch.undo()
    assert _refused(path, "secret word") == "BACKUP_KEY_WRONG"


def _refused(path: Path, words: str) -> str:
    with pytest.raises(BackupError) as caught:
        unlocking.unlocked(path, Unlock(passphrase=words), Told().context)
    assert isinstance(caught.value, ArchiveError)
    return caught.value.code
