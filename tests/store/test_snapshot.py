"""The database as a file: copied whole while it is written, and its schema known without opening it."""

import asyncio
import functools
import random
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homed.errors import StoreError
from homed.store import migrations, snapshot
from homed.store.sqlite import SqliteStore
from tests.support.wait import until


def opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    return connection


def left_by_a_kill(path: Path, into: Path) -> Path:
    """The database as it lies on the disk while it is open."""
    into.mkdir(exist_ok=True)
    for beside in path.parent.glob(f"{path.name}*"):
        if not beside.name.endswith("-shm"):
            shutil.copy(beside, into / beside.name)
    return into / path.name


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def as_sqlite_says(path: Path, scratch: Path) -> int:
    shutil.rmtree(scratch, ignore_errors=True)
    with closing(sqlite3.connect(left_by_a_kill(path, scratch))) as connection:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def more_than(counter: list[int], number: int) -> bool:
    return counter[0] > number


def test_a_copy_made_while_the_store_is_written_is_whole_and_of_one_moment(tmp_path: Path) -> None:
    path, stop, acknowledged = tmp_path / "homed.db", threading.Event(), [0]

    async def write() -> None:
        store = SqliteStore(path)
        await store.open()
        while not stop.is_set():
            number = acknowledged[0]
            await store.put("b", f"{number:08}", bytes(random.randbytes(1 + number % 9000)), 0)
            acknowledged[0] = number + 1
        await store.close()

    writer = threading.Thread(target=lambda: asyncio.run(write()))
    writer.start()
    try:
        until("writes", lambda: acknowledged[0] > 20)
        for i in range(12):
            before = acknowledged[0]
            assert snapshot.copy(path, tmp_path / f"copy{i}") == max(migrations.steps())
            until("more writes", functools.partial(more_than, acknowledged, before + 5))
            with closing(sqlite3.connect(tmp_path / f"copy{i}")) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
                keys = [int(row[0]) for row in connection.execute("SELECT key FROM records ORDER BY key")]
                assert connection.execute("SELECT last FROM revision").fetchone()[0] == len(keys)
            assert keys == list(range(len(keys))) and len(keys) >= before
    finally:
        stop.set()
        writer.join(30)
    assert acknowledged[0] > 80


def test_a_copy_is_one_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "a")) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("PRAGMA user_version = 7")
        (tmp_path / "into").mkdir()
        assert snapshot.copy(tmp_path / "a", tmp_path / "into" / "b") == 7
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["b"]
    assert (tmp_path / "into" / "b").stat().st_mode & 0o777 == 0o600
    assert snapshot.schema_of(tmp_path / "into" / "b") == 7


def test_a_copy_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "a")):
        (tmp_path / "b").write_bytes(b"kept")
        with pytest.raises(FileExistsError):
            snapshot.copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"kept"


@pytest.mark.parametrize("content", [None, b"no database" * 1000])
def test_what_is_no_database_is_not_copied(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    with pytest.raises(StoreError):
        snapshot.copy(tmp_path / "a", tmp_path / "b")


def test_a_damaged_database_is_not_copied_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 300,)] * 200)
        connection.commit()
    damaged = bytearray(path.read_bytes())
    damaged[8192:12288] = random.Random(1).randbytes(4096)
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match="damaged"):
        snapshot.copy(path, tmp_path / "b")


@pytest.mark.parametrize("content", [None, b"", b"SQLite format 3\0", b"x" * 4096])
def test_what_is_no_database_has_no_schema(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    assert snapshot.schema_of(tmp_path / "a") is None


def test_a_schema_that_only_the_log_knows_is_seen_and_nothing_is_touched(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "homed.db")) as connection:
        connection.execute("PRAGMA user_version = 1")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("PRAGMA user_version = 2")
        connection.execute("COMMIT")
        left = left_by_a_kill(tmp_path / "homed.db", tmp_path / "left")
    before = contents(left.parent)
    assert before["homed.db-wal"] and int.from_bytes(before["homed.db"][60:64], "big") == 1
    assert snapshot.schema_of(left) == 2
    assert contents(left.parent) == before


def test_a_schema_in_the_log_that_was_never_committed_is_not_believed(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "homed.db")) as connection:
        connection.execute("PRAGMA user_version = 1")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("PRAGMA cache_size = 2")
        connection.execute("BEGIN")
        connection.execute("PRAGMA user_version = 2")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 3000,)] * 200)
        left = left_by_a_kill(tmp_path / "homed.db", tmp_path / "left")
        connection.execute("ROLLBACK")
    assert b"\0\0\0\2" in left.with_name("homed.db-wal").read_bytes(), "it had to be written for this test"
    assert snapshot.schema_of(left) == 1 == as_sqlite_says(left, tmp_path / "scratch")


def test_a_torn_or_damaged_log_is_read_as_sqlite_reads_it(tmp_path: Path) -> None:
    chance = random.Random(3)
    with closing(opened(tmp_path / "homed.db")) as connection:
        connection.execute("PRAGMA page_size = 512")
        for version in range(1, 6):
            connection.execute(f"CREATE TABLE t{version} (x)")
            connection.execute(f"PRAGMA user_version = {version}")
        left = left_by_a_kill(tmp_path / "homed.db", tmp_path / "left")
    log = left.with_name("homed.db-wal")
    whole = log.read_bytes()
    for _ in range(150):
        torn = bytearray(whole[: chance.randint(0, len(whole))])
        if torn and chance.random() < 0.7:
            torn[chance.randrange(len(torn))] ^= 1 << chance.randrange(8)
        log.write_bytes(torn)
        assert snapshot.schema_of(left) == as_sqlite_says(left, tmp_path / "scratch")


ACTS = st.lists(
    st.one_of(
        st.integers(0, 9).map(lambda number: f"PRAGMA user_version = {number}"),
        st.sampled_from(
            [
                "BEGIN", "COMMIT", "ROLLBACK", "INSERT INTO t VALUES (zeroblob(5000))", "DELETE FROM t",
                "PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(RESTART)", "PRAGMA wal_checkpoint(TRUNCATE)",
            ]
        ),
    ),
    max_size=25,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("schemas")


@settings(deadline=None, max_examples=60)
@given(acts=ACTS)
def test_the_schema_is_the_one_that_sqlite_reads(folder: Path, acts: list[str]) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    with closing(opened(folder / "homed.db")) as connection:
        connection.execute("PRAGMA cache_size = 2")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE t (x)")
        for act in acts:
            # A COMMIT without a BEGIN and the like.
            try:
                connection.execute(act)
            except sqlite3.OperationalError:
                continue
        left = left_by_a_kill(folder / "homed.db", folder / "left")
    assert snapshot.schema_of(left) == as_sqlite_says(left, folder / "scratch")
