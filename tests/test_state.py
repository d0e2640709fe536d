"""The state directory is held by one homed, and fit to be read by it."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from homed import __version__, atomic
from homed.errors import StoreError
from homed.state import StateDirectory, lock, require_whole
from homed.store import migrations
from homed.updates import putback, statecopy
from homed.updates.statecopy import Act, Stamp

MINE = Stamp(__version__, max(migrations.steps()))
NEWER = Stamp("999.0.0", MINE.schema)


def write(state: Path, name: str, stamp: Stamp) -> None:
    """A state as a homed of that version would leave it; what it is called is in a file of it."""
    state.mkdir(parents=True, exist_ok=True)
    (state / "config.json").write_text(name)
    with closing(sqlite3.connect(state / "homed.db")) as database:
        database.execute(f"PRAGMA user_version = {stamp.schema}")
    statecopy.write_stamp(state, stamp.homed, stamp.schema)


def test_it_is_made_where_there_is_none(tmp_path: Path) -> None:
    with StateDirectory(tmp_path / "a" / "state") as state:
        assert state.path.stat().st_mode & 0o777 == 0o700
        assert state.updates == state.path / "updates"
        assert state.settled is not None and state.settled.act is Act.KEEP
        assert state.restored_for is None


def test_it_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with StateDirectory(tmp_path), pytest.raises(StoreError, match="another homed uses"), StateDirectory(tmp_path):
        pass
    with StateDirectory(tmp_path):
        pass


def test_it_is_free_when_the_one_that_held_it_is_killed(tmp_path: Path) -> None:
    script = (
        f"from homed.state import lock; from pathlib import Path; f = lock(Path({str(tmp_path)!r})); print(); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "\n"
        with pytest.raises(StoreError, match="another homed uses"):
            lock(tmp_path)
        other.kill()
        other.wait(timeout=20)
    lock(tmp_path).close()


def test_one_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "state"):
        with pytest.raises(StoreError, match="cannot be used"), StateDirectory(path):
            pass


def test_it_is_signed_by_the_one_that_writes_there(tmp_path: Path) -> None:
    with StateDirectory(tmp_path) as state:
        assert statecopy.written_by(tmp_path) is None
        state.sign()
        state.sign()
    assert statecopy.written_by(tmp_path) == MINE


def test_what_an_older_homed_wrote_is_kept(tmp_path: Path) -> None:
    write(tmp_path, "old", Stamp("0.0.1", 1))
    with StateDirectory(tmp_path) as state:
        assert state.settled is not None and state.settled.act is Act.KEEP
    assert (tmp_path / "config.json").read_text() == "old"


def test_what_a_newer_homed_wrote_makes_room_for_the_copy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "mine", MINE)
    with StateDirectory(tmp_path) as state:
        state.updates.joinpath("7").mkdir(parents=True)
        state.copy(state.updates / "7")
    write(tmp_path, "newer", NEWER)
    with StateDirectory(tmp_path) as state:
        assert (state.settled and state.settled.act, state.restored_for) == (Act.PUT_BACK, "7")
        assert (tmp_path / "config.json").read_text() == "mine"
    assert "7" in caplog.text
    with StateDirectory(tmp_path) as again:
        assert (again.settled and again.settled.act, again.restored_for) == (Act.KEEP, None)


def test_what_a_newer_homed_wrote_is_not_signed_by_an_older_one(tmp_path: Path) -> None:
    write(tmp_path, "newer", Stamp("999.0.0", MINE.schema + 1))
    with StateDirectory(tmp_path) as state:
        assert state.settled is not None and state.settled.act is Act.REFUSE
        state.sign()
    assert statecopy.written_by(tmp_path) == Stamp("999.0.0", MINE.schema + 1)


def test_a_full_disk_does_not_keep_homed_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with StateDirectory(tmp_path) as state:
        monkeypatch.setattr(atomic, "write", full)
        state.sign()
    assert "full" in caplog.text or "No space" in caplog.text


def test_it_is_free_again_where_it_could_not_be_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreError("the disk is broken")

    with monkeypatch.context() as patched:
        patched.setattr(statecopy, "settle", fail)
        with pytest.raises(StoreError, match="is broken"), StateDirectory(tmp_path):
            pass
    with StateDirectory(tmp_path):
        pass


def test_what_is_half_put_back_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_whole(tmp_path)
    monkeypatch.setattr(putback, "is_under_way", lambda _: True)
    with pytest.raises(StoreError, match="start homed"):
        require_whole(tmp_path)
