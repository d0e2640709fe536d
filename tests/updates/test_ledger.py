"""The updates on the disk: what is damaged is left alone, what is saved is durable, no number is given twice."""

import logging
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homed.errors import NotFoundError, StoreError
from homed.updates.ledger import Ledger
from homed.updates.records import State
from tests.support.updating import update


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "updates")
    made.load()
    return made


def reloaded(ledger: Ledger) -> Ledger:
    again = Ledger(ledger.folder)
    again.load()
    return again


def test_a_board_without_updates_has_none(ledger: Ledger) -> None:
    assert (ledger.all(), ledger.current(), ledger.next_id()) == ([], None, "1")
    assert ledger.folder.stat().st_mode & 0o777 == 0o700


def test_what_was_saved_is_there_after_a_restart(ledger: Ledger) -> None:
    ledger.save(update(State.FAILED))
    ledger.save(update(State.VERIFIED, id="2", boot_id="b7"))
    again = reloaded(ledger)
    assert again.all() == ledger.all()
    assert [one.id for one in again.all()] == ["2", "1"]
    current = again.current()
    assert current is not None and (current.id, current.boot_id) == ("2", "b7")


def test_the_newest_of_ten_is_the_tenth(ledger: Ledger) -> None:
    for number in range(1, 12):
        ledger.save(update(State.FAILED, id=str(number)))
    assert [one.id for one in reloaded(ledger).all()][:3] == ["11", "10", "9"]
    assert ledger.next_id() == "12"


@pytest.mark.parametrize("identity", ["2", "0", "-1", "", "x", "1.0", "../1", "1\n", "9" * 4000, "²"])
def test_what_is_not_there_is_not_found(ledger: Ledger, identity: str) -> None:
    ledger.save(update(State.FAILED))
    with pytest.raises(NotFoundError) as raised:
        ledger.get(identity)
    assert raised.value.code == "UPDATE_NOT_FOUND"


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"id": "7"}',
        b"\0" * 512,
        b"\xff\xfe",
        b'{"id": 7, "kind": "install"}',
        b"[" * 9999,
        b'{"id": "\xb5',
    ],
)
def test_a_damaged_record_is_told_of_and_left_alone(
    ledger: Ledger, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.save(update(State.GOOD))
    broken = ledger.of("7") / "update.json"
    broken.parent.mkdir()
    broken.write_bytes(damage)
    again = reloaded(ledger)
    assert [one.id for one in again.all()] == ["1"]
    assert str(broken) in caplog.text
    assert again.next_id() == "8"
    again.prune(0)
    assert broken.read_bytes() == damage


def test_a_state_that_only_a_newer_homed_knows_is_left_alone(ledger: Ledger) -> None:
    ledger.save(update(State.JUDGING))
    path = ledger.of("1") / "update.json"
    path.write_text(path.read_text().replace('"judging"', '"meditating"'))
    assert reloaded(ledger).all() == []


def test_what_is_no_update_is_not_looked_at(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("downloads", "put-back", "1.old"):
        (ledger.folder / name).mkdir()
        (ledger.folder / name / "update.json").write_text("{}")
    (ledger.folder / "pending").write_text("id=1\n")
    (ledger.folder / "3").mkdir()
    (ledger.folder / "4" / "update.json").mkdir(parents=True)
    with caplog.at_level(logging.ERROR):
        again = reloaded(ledger)
    assert again.all() == [] and again.next_id() == "5"
    assert "downloads" not in caplog.text


def test_a_killed_writers_leftover_is_written_over(ledger: Ledger) -> None:
    ledger.save(update())
    (ledger.of("1") / ".update.json.new").write_bytes(b"half of")
    assert [one.id for one in reloaded(ledger).all()] == ["1"]
    ledger.save(update(State.FAILED))
    assert [path.name for path in ledger.of("1").iterdir()] == ["update.json"]


def test_only_the_newest_that_ended_are_kept(ledger: Ledger) -> None:
    for number, state in enumerate([State.GOOD, State.FAILED, State.VERIFIED, State.GOOD, State.CANCELLED], 1):
        ledger.save(update(state, id=str(number)))
        (ledger.of(str(number)) / "journal.log").write_text("why")
    ledger.prune(2)
    for one in (ledger, reloaded(ledger)):
        assert [found.id for found in one.all()] == ["5", "4", "3"]
    assert sorted(path.name for path in ledger.folder.iterdir()) == ["3", "4", "5"]
    assert ledger.next_id() == "6"
    ledger.prune(2)
    assert len(ledger.all()) == 3


def test_a_full_disk_is_told_and_the_last_record_stays(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.save(update(State.VERIFIED))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(StoreError, match="No space left"):
            ledger.save(update(State.FAILED))
        with pytest.raises(StoreError, match="No space left"):
            ledger.save(update(id="2"))
    assert ledger.get("1").state is State.VERIFIED
    assert [one.state for one in reloaded(ledger).all()] == [State.VERIFIED]
    assert ledger.next_id() == "2"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "updates")
    with pytest.raises(StoreError, match=r"update\.json cannot be written"):
        ledger.save(update())
    assert ledger.all() == []


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(0, 2000))
def test_a_record_that_is_damaged_anywhere_never_stops_homed(tmp_path: Path, damage: bytes, at: int) -> None:
    ledger = Ledger(tmp_path)
    ledger.load()
    whole = msgspec.json.encode(update(State.JUDGING))
    at = min(at, len(whole))
    (tmp_path / "1").mkdir(exist_ok=True)
    (tmp_path / "1" / "update.json").write_bytes(whole[:at] + damage + whole[at + len(damage) :])
    ledger.load()
    assert len(ledger.all()) <= 1


def test_a_record_in_another_ones_folder_is_left_alone(ledger: Ledger) -> None:
    ledger.save(update(State.GOOD))
    ledger.of("1").rename(ledger.of("5"))
    assert reloaded(ledger).all() == []
