"""homed's state is copied whole and put back whole, wherever homed is killed, the power goes or the disk ends."""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.errors import NoSpaceError, StoreError, UpdateError
from homed.store import migrations
from homed.store.sqlite import SqliteStore
from homed.updates import putback, statecopy
from homed.updates.statecopy import Act, Copy, Settled, Stamp, decide
from tests.support import powercut

REPOSITORY = Path(__file__).resolve().parents[2]
OLD, NEW = Stamp("0.1.0", 1), Stamp("0.2.0", 2)
Files = dict[str, bytes]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here: what was synced is noted by `powercut`, and thousands of waits for the disk are saved."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def make_state(state: Path, stamp: Stamp, mark: str, *, tls: bool = False) -> Path:
    """A state as a homed that was killed leaves it: with a log, and with what is not of the state beside it."""
    (state / "updates" / "3").mkdir(parents=True, exist_ok=True)
    scratch = state.with_name(f"{state.name}.scratch")
    scratch.mkdir()
    with closing(sqlite3.connect(scratch / "homed.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(migrations.steps()[1])
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("INSERT INTO records VALUES ('services', ?, X'7B7D', 1)", (mark,))
        connection.execute(f"PRAGMA user_version = {stamp.schema}")
        for beside in scratch.iterdir():
            shutil.copy(beside, state / beside.name)
            (state / beside.name).chmod(0o600)
    shutil.rmtree(scratch)
    (state / "config.json").write_text(json.dumps({"name": mark}))
    statecopy.write_stamp(state, *stamp_of(stamp))
    if tls:
        (state / "tls").mkdir(exist_ok=True)
        (state / "tls" / "certificate.pem").write_text(f"certificate {mark}")
        (state / "tls" / "key.pem").write_text(f"key {mark}")
    for name in ("lock", "notes.txt", "updates/3/update.json"):
        (state / name).write_text(name)
    for name in ("config.json", "tls/certificate.pem", "tls/key.pem"):
        if (state / name).exists():
            (state / name).chmod(0o600)
    if (state / "tls").exists():
        (state / "tls").chmod(0o700)
    return state


def stamp_of(stamp: Stamp) -> tuple[str, int]:
    return stamp.homed, stamp.schema


def make_copy(state: Path, number: int, stamp: Stamp, mark: str, *, tls: bool = False) -> Path:
    source = make_state(state.with_name(f"of-{mark}"), stamp, mark, tls=tls)
    into = state / "updates" / str(number) / "state"
    statecopy.copy(source, into, stamp.homed, reserve=0)
    shutil.rmtree(source)
    return into


def files_of(folder: Path) -> Files:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "copy.json" and "updates" not in path.relative_to(folder).parts
    }


def mark_of(folder: Path) -> str:
    """Who wrote the database, read where it does no harm."""
    with closing(sqlite3.connect(":memory:")) as memory, closing(sqlite3.connect(folder / "homed.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        connection.backup(memory)
        marks: list[tuple[str]] = memory.execute("SELECT key FROM records WHERE bucket = 'services'").fetchall()
    assert len(marks) == 1
    return marks[0][0]


def settle(state: Path, mine: Stamp = OLD) -> Settled:
    return statecopy.settle(state, mine.homed, mine.schema, state / "updates")


# What is decided


@pytest.mark.parametrize(
    ("written", "mine", "copies", "act", "number"),
    [
        (None, OLD, (), Act.KEEP, None),
        (None, OLD, ((1, OLD),), Act.KEEP, None),
        (OLD, OLD, ((1, OLD),), Act.KEEP, None),
        (OLD, NEW, ((1, OLD),), Act.KEEP, None),
        (NEW, OLD, ((1, OLD),), Act.PUT_BACK, 1),
        (NEW, OLD, ((2, OLD), (10, OLD), (9, OLD)), Act.PUT_BACK, 10),
        (NEW, OLD, ((1, Stamp("0.0.9", 1)), (2, NEW)), Act.PUT_BACK, 1),
        (NEW, OLD, ((1, Stamp("0.1.0", 2)), (2, Stamp("0.1.1", 1))), Act.REFUSE, None),
        (NEW, OLD, (), Act.REFUSE, None),
        (Stamp("0.2.0", 1), OLD, (), Act.KEEP, None),
        (Stamp("0.2.0", 1), OLD, ((1, NEW),), Act.KEEP, None),
        (Stamp("0.2.0", 1), OLD, ((1, OLD),), Act.PUT_BACK, 1),
        (Stamp("0.10.0", 1), Stamp("0.9.0", 1), ((1, OLD),), Act.PUT_BACK, 1),
        (Stamp("0.1.0", 1), Stamp("0.1.0.dev3", 1), ((1, Stamp("0.1.0.dev3", 1)),), Act.PUT_BACK, 1),
        (Stamp("", 2), OLD, ((1, OLD),), Act.PUT_BACK, 1),
        (Stamp("", 2), OLD, (), Act.REFUSE, None),
        (Stamp("", 1), OLD, ((1, OLD),), Act.KEEP, None),
        (Stamp("0.0.1", 2), OLD, ((1, OLD),), Act.PUT_BACK, 1),
    ],
)
def test_what_is_done_with_a_state(
    written: Stamp | None, mine: Stamp, copies: tuple[tuple[int, Stamp], ...], act: Act, number: int | None
) -> None:
    decision = decide(written, mine, [Copy(Path(str(n)), n, stamp) for n, stamp in copies])
    assert (decision.act, decision.copy.number if decision.copy else None) == (act, number)
    assert decision.reason


STAMPS = st.builds(
    Stamp, st.sampled_from(["", "0.1.0.dev1", "0.1.0", "0.1.1", "0.2.0rc1", "0.2.0", "0.10.0"]), st.integers(0, 3)
)


@given(st.none() | STAMPS, STAMPS, st.lists(STAMPS, max_size=5))
def test_no_homed_is_given_what_a_newer_one_wrote_where_that_can_be_helped(
    written: Stamp | None, mine: Stamp, stamps: list[Stamp]
) -> None:
    copies = [Copy(Path(str(n)), n, stamp) for n, stamp in enumerate(stamps)]
    decision = decide(written, mine, copies)
    usable = [copy for copy in copies if decide(copy.stamp, mine, ()) == decide(None, mine, ())]
    if decision.act is Act.PUT_BACK:
        assert written is not None and decision.copy == usable[-1]
        assert decide(decision.copy.stamp, mine, copies).act is Act.KEEP, "put back at each start"
    elif decision.act is Act.REFUSE:
        assert written is not None and written.schema > mine.schema and not usable
    else:
        assert written is None or written.schema <= mine.schema
    if written is not None and decide(mine, written, ()).act is Act.KEEP and decide(written, mine, ()).act is Act.KEEP:
        assert decide(written, mine, copies).act in (Act.KEEP, Act.PUT_BACK)


# Stamps


@pytest.mark.parametrize(
    "content",
    [
        None, b"", b"{", b"[]", b"null", b'{"homed": "0.1.0"}', b'{"homed": 1, "schema": 1}', b"\xff\xfe",
        b'{"homed": "0.1.0", "schema": "1"}', b"[" * 100_000, b'{"homed": "%s", "schema": 1}' % (b"1" * 1000),
        b'{"homed": "0.1.0", "schema": 1, "x": "%s"}' % (b"1" * 100_000),
    ],
)  # fmt: skip
def test_a_damaged_stamp_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "stamp.json").write_bytes(content)
    assert statecopy.read_stamp(tmp_path / "stamp.json") is None


def test_a_stamp_is_read_as_it_was_written_and_may_grow(tmp_path: Path) -> None:
    statecopy.write_stamp(tmp_path, "0.1.0", 1)
    path = tmp_path / "stamp.json"
    assert json.loads(path.read_bytes()) == {"homed": "0.1.0", "schema": 1}
    assert (statecopy.read_stamp(path), path.stat().st_mode & 0o777) == (OLD, 0o600)
    path.write_text('{"homed": "0.1.0", "schema": 1, "board": "x"}')
    assert statecopy.read_stamp(path) == OLD


def test_the_database_is_believed_before_the_stamp(tmp_path: Path) -> None:
    state = make_state(tmp_path / "state", Stamp("0.1.0", 2), "new")
    statecopy.write_stamp(state, "0.1.0", 1)
    assert statecopy.written_by(state) == Stamp("0.1.0", 2)
    (state / "stamp.json").unlink()
    assert statecopy.written_by(state) == Stamp("", 2)
    (state / "homed.db").write_bytes(b"damaged")
    assert statecopy.written_by(state) is None
    statecopy.write_stamp(state, "0.3.0", 3)
    assert statecopy.written_by(state) == Stamp("0.3.0", 3)


# Copying


def test_a_copy_holds_the_state_and_nothing_else(tmp_path: Path) -> None:
    state = make_state(tmp_path / "state", OLD, "old", tls=True)
    into = state / "updates" / "7" / "state"
    assert statecopy.copy(state, into, "0.1.0") == OLD
    assert files_of(into).keys() == {"homed.db", "config.json", "stamp.json", "tls/certificate.pem", "tls/key.pem"}
    assert list(statecopy.find_copies(state / "updates")) == [Copy(into, 7, OLD)]
    assert statecopy.is_whole(into) and mark_of(into) == "old"
    assert [path.name for path in into.parent.iterdir()] == ["state"]


def test_modes_and_owners_are_kept(tmp_path: Path) -> None:
    state = make_state(tmp_path / "state", NEW, "new", tls=True)
    copy = make_copy(state, 3, OLD, "old", tls=True)
    (copy / "tls" / "certificate.pem").chmod(0o644)
    if os.geteuid() == 0:
        os.chown(copy / "config.json", 1234, 4321)
    before = os.umask(0)
    try:
        assert settle(state).act is Act.PUT_BACK
        again = state / "updates" / "4" / "state"
        statecopy.copy(state, again, "0.1.0")
    finally:
        os.umask(before)
    for folder in (state, again):
        modes = {name: (folder / name).stat().st_mode & 0o777 for name in files_of(again)}
        assert modes.pop("tls/certificate.pem") == 0o644
        assert set(modes.values()) == {0o600}
        assert (folder / "tls").stat().st_mode & 0o777 == 0o700
        if os.geteuid() == 0:
            assert ((folder / "config.json").stat().st_uid, (folder / "config.json").stat().st_gid) == (1234, 4321)
    assert {path.stat().st_mode & 0o777 for path in (again, state / "updates" / "3" / "newer-state")} == {0o700}


def test_a_new_copy_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    state = make_state(tmp_path / "state", NEW, "new")
    into = make_copy(state, 3, OLD, "old")
    statecopy.copy(state, into, "0.2.0")
    assert (mark_of(into), list(statecopy.find_copies(state / "updates"))) == ("new", [Copy(into, 3, NEW)])


@pytest.mark.parametrize("again", [False, True], ids=["the first copy", "a copy in the place of one"])
def test_a_copy_that_is_cut_off_anywhere_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    seen: set[str | None] = set()
    for at in changes():
        state = make_state(tmp_path / str(at), OLD, "now", tls=True)
        updates = state / "updates"
        if again:
            make_copy(state, 3, OLD, "before")
        with powercut.cut(updates, at) as disk:
            done = disk.run(monkeypatch, statecopy.copy, state, updates / "3" / "state", "0.1.0")
            lefts = {variant: disk.left(variant, tmp_path / "left" / variant) for variant in powercut.VARIANTS}
        for variant, left in lefts.items():
            found = list(statecopy.find_copies(left))
            assert all(statecopy.is_whole(copy.folder) for copy in found), (at, variant)
            marks = [mark_of(copy.folder) for copy in found]
            assert marks in ([["now"]] if done else [["before"], ["now"]] if again else [[], ["now"]]), (at, variant)
            seen |= {*marks}
            statecopy.copy(state, left / "3" / "state", "0.1.0")
            (whole,) = statecopy.find_copies(left)
            assert statecopy.is_whole(whole.folder) and mark_of(whole.folder) == "now"
            assert sorted(os.listdir(left / "3")) == ["state", "update.json"], (at, variant)
        shutil.rmtree(tmp_path / "left")
        shutil.rmtree(state)
        if done:
            break
    assert seen >= ({"before", "now"} if again else {"now"}) and at > 30


def changes() -> range:
    """More than any of this makes; who runs to its end breaks off."""
    return range(1, 1000)


_COPIER = """
import pathlib, sys
from homed.updates import statecopy
state, number = pathlib.Path(sys.argv[1]), 0
while True:
    number += 1
    statecopy.copy(state, state / "updates" / "1" / "state", f"0.0.{number}")
    print(number, flush=True)
"""


def test_a_killed_copier_leaves_the_old_or_the_new_copy(tmp_path: Path) -> None:
    chance = random.Random(5)
    state = make_state(tmp_path / "state", OLD, "old", tls=True)
    for _ in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", _COPIER, str(state)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            said = int(process.stdout.readline())
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0, 0.1))
            os.kill(process.pid, signal.SIGKILL)
            said = int((process.stdout.read().split() or [str(said)])[-1])
        (copy,) = statecopy.find_copies(state / "updates")
        assert copy.stamp.homed in (f"0.0.{said}", f"0.0.{said + 1}")
        assert statecopy.is_whole(copy.folder) and mark_of(copy.folder) == "old"


def test_a_damaged_copy_is_not_whole(tmp_path: Path) -> None:
    state = make_state(tmp_path / "state", NEW, "new")
    copy = make_copy(state, 3, OLD, "old", tls=True)
    assert statecopy.is_whole(copy)
    for name in files_of(copy):
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert not statecopy.is_whole(copy), name
        (copy / name).unlink()
        assert not statecopy.is_whole(copy), name
        (copy / name).write_bytes(content)
    (copy / "copy.json").write_text("{}")
    assert not statecopy.is_whole(copy) and not list(statecopy.find_copies(state / "updates"))


def test_only_folders_of_updates_are_looked_at(tmp_path: Path) -> None:
    state = make_state(tmp_path / "state", NEW, "new")
    copy = make_copy(state, 3, OLD, "old")
    for name in ("downloads", "3x", "-1", "٣"):
        shutil.copytree(copy, state / "updates" / name / "state")
    (state / "updates" / "8").write_text("no folder")
    assert [copy.number for copy in statecopy.find_copies(state / "updates")] == [3]
    assert list(statecopy.find_copies(state / "nowhere")) == []


def test_a_state_that_cannot_be_copied_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    state = make_state(tmp_path / "state", OLD, "old")
    (state / "homed.db").write_bytes(b"damaged " * 1000)
    (state / "homed.db-wal").unlink()
    with pytest.raises(StoreError, match="not a database"):
        statecopy.copy(state, state / "updates" / "3" / "state", "0.1.0")
    assert os.listdir(state / "updates" / "3") == ["update.json"]


# Putting back


def test_what_a_newer_homed_wrote_is_set_aside_and_the_copy_takes_its_place(tmp_path: Path) -> None:
    state = make_state(tmp_path / "state", NEW, "new", tls=True)
    copy = make_copy(state, 3, OLD, "old")
    kept, newer = files_of(copy), files_of(state)
    settled = settle(state)
    aside = state / "updates" / "3" / "newer-state"
    assert (settled.act, settled.put_back) == (Act.PUT_BACK, putback.PutBack(copy, aside))
    assert files_of(state) == {**kept, "lock": b"lock", "notes.txt": b"notes.txt"}
    assert files_of(aside) == {name: text for name, text in newer.items() if name not in ("lock", "notes.txt")}
    assert files_of(copy) == kept and statecopy.is_whole(copy)
    assert (mark_of(state), mark_of(aside)) == ("old", "new")
    assert settle(state).act is Act.KEEP


async def test_the_store_opens_what_was_put_back_and_refuses_what_could_not_be(tmp_path: Path) -> None:
    newer = Stamp("0.2.0", max(migrations.steps()) + 1)
    mine = Stamp("0.1.0", max(migrations.steps()))
    state = make_state(tmp_path / "state", newer, "new")
    before = files_of(state)
    assert settle(state, mine).act is Act.REFUSE
    assert files_of(state) == before
    store = SqliteStore(state / "homed.db")
    with pytest.raises(StoreError) as raised:
        await store.open()
    await store.close()
    assert raised.value.code == "STATE_TOO_NEW"
    make_copy(state, 3, Stamp("0.1.0", 1), "old")
    assert settle(state, mine).act is Act.PUT_BACK
    store = SqliteStore(state / "homed.db")
    await store.open()
    assert [record.key for record in await store.list("services")] == ["old"]
    await store.close()


def test_a_newer_homed_keeps_what_an_older_one_wrote(tmp_path: Path) -> None:
    state = make_state(tmp_path / "state", OLD, "old")
    make_copy(state, 3, OLD, "before")
    before = files_of(state)
    assert settle(state, NEW).act is Act.KEEP
    assert files_of(state) == before


def test_a_board_without_any_state_is_left_alone(tmp_path: Path) -> None:
    assert settle(tmp_path / "state").act is Act.KEEP
    assert os.listdir(tmp_path) == []


def test_a_damaged_copy_is_passed_over_for_an_older_one(tmp_path: Path) -> None:
    state = make_state(tmp_path / "state", NEW, "new")
    older = make_copy(state, 3, OLD, "older")
    newest = make_copy(state, 4, OLD, "newest")
    (newest / "config.json").write_text("rotten")
    settled = settle(state)
    assert settled.put_back is not None and settled.put_back.copy == older
    assert mark_of(state) == "older"


def test_going_to_and_fro_sets_each_state_aside_and_keeps_the_newest(tmp_path: Path) -> None:
    state = make_state(tmp_path / "state", NEW, "0")
    make_copy(state, 3, OLD, "old")
    for number in range(1, 6):
        assert settle(state).act is Act.PUT_BACK
        shutil.rmtree(state / "tls", ignore_errors=True)
        make_state(state, NEW, str(number))
    asides = sorted((state / "updates" / "3").glob("newer-state*"))
    assert [(aside.name, mark_of(aside)) for aside in asides] == [
        ("newer-state-3", "2"), ("newer-state-4", "3"), ("newer-state-5", "4"),
    ]  # fmt: skip


def test_putting_back_that_is_cut_off_anywhere_is_ended_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(11)
    outcomes: set[Act] = set()
    for at in changes():
        state = make_state(tmp_path / "state", NEW, "new", tls=at % 2 == 0)
        kept = files_of(make_copy(state, 3, OLD, "old", tls=at % 3 == 0))
        newer = files_of(state)
        with powercut.cut(state, at) as disk:
            done = disk.run(monkeypatch, settle, state)
            lefts = {variant: disk.left(variant, tmp_path / "left" / variant) for variant in powercut.VARIANTS}
        for variant, left in lefts.items():
            before = files_of(left)
            assert is_marked(left) or before.items() >= newer.items() or before.items() >= kept.items(), (at, variant)
            left = cut_again(left, chance, tmp_path / "again", monkeypatch)
            outcomes.add(settle(left).act)
            assert files_of(left) == {**kept, "lock": b"lock", "notes.txt": b"notes.txt"}, (at, variant)
            (aside,) = (left / "updates" / "3").glob("newer-state*")
            wanted = {name: text for name, text in newer.items() if name not in ("lock", "notes.txt")}
            assert files_of(aside).items() >= wanted.items(), (at, variant)
            assert statecopy.is_whole(left / "updates" / "3" / "state")
            assert (mark_of(left), mark_of(aside)) == ("old", "new")
        for folder in (state, tmp_path / "left"):
            shutil.rmtree(folder)
        if done:
            break
    assert outcomes == {Act.PUT_BACK, Act.KEEP} and at > 35


def is_marked(state: Path) -> bool:
    """Whether it can be seen that the state is neither the one nor the other now."""
    return (state / "put-back" / "put-back.json").is_file()


def cut_again(left: Path, chance: random.Random, into: Path, patch: pytest.MonkeyPatch) -> Path:
    """The start after the cut is cut off as well."""
    shutil.rmtree(into, ignore_errors=True)
    with powercut.cut(left, chance.randint(1, 60)) as disk:
        disk.run(patch, settle, left)
        return disk.left(chance.choice(powercut.VARIANTS), into)


_SETTLER = """
import pathlib, shutil, sys
from homed.updates import statecopy
state, newer = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
while True:
    print(statecopy.settle(state, "0.1.0", 1, state / "updates").act, flush=True)
    for path in newer.iterdir():
        shutil.copy(path, state)
"""


def test_a_killed_homed_is_found_with_one_whole_state_at_the_next_start(tmp_path: Path) -> None:
    chance = random.Random(6)
    newer = tmp_path / "newer"
    newer.mkdir()
    state = make_state(tmp_path / "state", NEW, "new")
    copy = make_copy(state, 3, OLD, "old")
    for name in ("homed.db", "homed.db-wal", "config.json", "stamp.json"):
        shutil.copy(state / name, newer)
    for _ in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", _SETTLER, str(state), str(newer)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0, 0.08))
            os.kill(process.pid, signal.SIGKILL)
        shutil.copy(newer / "stamp.json", state)
        settle(state)
        assert mark_of(state) == "old" and statecopy.is_whole(copy)
        assert (state / "config.json").read_bytes() == (copy / "config.json").read_bytes()
        for path in newer.iterdir():
            shutil.copy(path, state)


def test_a_database_made_while_the_state_was_away_is_not_taken_for_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`homed key`, run by hand after homed was killed in between, makes a database where there is none."""
    for at in changes():
        state = make_state(tmp_path / "state", NEW, "new")
        kept = files_of(make_copy(state, 3, OLD, "old"))
        with powercut.cut(state, at) as disk:
            done = disk.run(monkeypatch, settle, state)
        away = not (state / "homed.db").exists()
        if away:
            with closing(sqlite3.connect(state / "homed.db")) as connection:
                connection.executescript("PRAGMA journal_mode = WAL; CREATE TABLE records (bucket, key)")
            settle(state)
            assert files_of(state).items() >= kept.items()
            break
        shutil.rmtree(state)
        assert not done, "the state was never away"


def test_putting_back_goes_on_where_another_system_has_the_state_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state(tmp_path / "state", NEW, "new")
    make_copy(state, 3, OLD, "old")
    for at in changes():
        with powercut.cut(state, at) as disk:
            disk.run(monkeypatch, settle, state)
        if is_marked(state):
            break
    moved = state.rename(tmp_path / "elsewhere")
    settled = settle(moved, NEW)
    assert settled.put_back == putback.PutBack(moved / "updates/3/state", moved / "updates/3/newer-state")
    assert (mark_of(moved), mark_of(moved / "updates/3/newer-state")) == ("old", "new")
    assert not state.exists()


def test_a_damaged_note_stops_the_start_and_changes_nothing(tmp_path: Path) -> None:
    state = make_state(tmp_path / "state", NEW, "new")
    (state / "put-back").mkdir()
    (state / "put-back" / "put-back.json").write_text("{")
    before = files_of(state)
    with pytest.raises(StoreError, match="damaged"):
        settle(state)
    assert files_of(state) == before


# Full disks, other disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("a disk of its own needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(folder: Path, leave: int) -> Path:
    disk = os.statvfs(folder)
    path = folder / "filler"
    path.write_bytes(bytes(disk.f_bavail * disk.f_frsize - leave))
    return path


def test_a_copy_needs_room_for_itself_and_for_what_comes_after(tmp_path: Path, small_disk: Path) -> None:
    state = make_state(tmp_path / "state", OLD, "old")
    with pytest.raises(NoSpaceError) as raised:
        statecopy.copy(state, small_disk / "1" / "state", "0.1.0")
    assert (raised.value.code, raised.value.status) == ("UPDATE_NO_SPACE", 507)
    assert list(small_disk.rglob("state")) == []
    statecopy.copy(state, small_disk / "1" / "state", "0.1.0", reserve=0)
    assert statecopy.is_whole(small_disk / "1" / "state")


def test_a_disk_that_is_full_in_mid_copy_keeps_the_copy_from_before(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state(tmp_path / "state", OLD, "now")
    into = small_disk / "1" / "state"
    statecopy.copy(make_state(tmp_path / "other", OLD, "before"), into, "0.1.0", reserve=0)
    monkeypatch.setattr(statecopy, "check_room", lambda *_: None)
    whole = sum(path.stat().st_size for path in into.iterdir())
    for leave in range(0, whole + 65536, 4096):
        filler = fill(small_disk, leave)
        full = False
        try:
            statecopy.copy(state, into, "0.1.0")
        except NoSpaceError:
            full = True
        filler.unlink()
        if not full:
            break
        (copy,) = statecopy.find_copies(small_disk)
        assert statecopy.is_whole(copy.folder) and mark_of(copy.folder) == "before"
        assert os.listdir(small_disk / "1") == ["state"]
    assert leave > 8192 and mark_of(into) == "now"


def test_a_disk_that_is_full_keeps_the_state_until_there_is_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state(small_disk / "state", NEW, "new")
    make_copy(state, 3, OLD, "old")
    before = files_of(state)
    filler = fill(small_disk, 16384)
    for blind in (False, True):
        if blind:
            monkeypatch.setattr(putback, "check_room", lambda *_: None)
        with pytest.raises(NoSpaceError):
            settle(state)
        assert files_of(state) == before and sorted(os.listdir(state / "updates" / "3")) == ["state", "update.json"]
    filler.unlink()
    assert settle(state).act is Act.PUT_BACK
    assert mark_of(state) == "old"


def test_updates_on_a_disk_of_their_own_are_served_as_well(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in changes():
        state = make_state(tmp_path / "state", NEW, "new", tls=True)
        kept = files_of(make_copy(state, 3, OLD, "old"))
        newer = files_of(state)
        for path in small_disk.iterdir():
            shutil.rmtree(path)
        shutil.copytree(state / "updates", small_disk, dirs_exist_ok=True)
        shutil.rmtree(state / "updates")
        (state / "updates").symlink_to(small_disk)
        with powercut.cut(state, at) as disk:
            done = disk.run(monkeypatch, settle, state)
        settle(state)
        assert files_of(state) == {**kept, "lock": b"lock", "notes.txt": b"notes.txt"}
        aside = files_of(small_disk / "3" / "newer-state")
        assert aside.items() >= {n: text for n, text in newer.items() if n not in ("lock", "notes.txt")}.items()
        shutil.rmtree(state)
        if done:
            break
    assert at > 40


def test_an_error_of_the_disk_is_an_error_of_homeds(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")
    with pytest.raises((StoreError, UpdateError)):
        statecopy.write_stamp(tmp_path / "state", "0.1.0", 1)
