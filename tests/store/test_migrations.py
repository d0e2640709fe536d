"""Every older database becomes the newest schema, step by step, whole or not at all; a newer one is not touched."""

import hashlib
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from homed.errors import StoreError
from homed.store import migrations, salvage
from homed.store.sqlite import SqliteStore
from homed.store.standing import Standing

# A migration that was released has run on boards: it is never changed, a new one is added.
_RELEASED = {
    1: "1490347afee8544eff1489cce452fc6e8c6f2e3a157b5a9bc5c7e73f5b8916c9",
    2: "fa1bc32f05feb6b8f77853422dcac6345235b66298d7b6a700d488f707d645bc",
}

_FIRST = (
    "INSERT INTO records VALUES ('services', 'web', X'7B7D', 7)",
    "INSERT INTO records VALUES ('keys', 'aabbccdd', X'7B7D', 9)",
    "UPDATE revision SET last = 9",
    "INSERT INTO audit (at, actor, action, target, origin, status, code, request_id)"
    " VALUES ('2026-01-01T00:00:00.000Z', 'local', 'service.create', '/x', '127.0.0.1', 201, '', 'r')",
)
# What each version of homed has written, as a board would have it: the newest must still find all of it.
_OLDER: dict[int, tuple[str, ...]] = {
    0: (),
    1: _FIRST,
    2: (*_FIRST, "INSERT INTO records VALUES ('job-content', 'j/work/00000', X'7B7D', 8)"),
}


def shape(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Every table and index with its statement, spaces evened out."""
    rows = connection.execute("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name")
    return [(kind, name, re.sub(r"\s+", " ", sql or "")) for kind, name, sql in rows]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "homed.db")) as connection:
        yield connection


def at_version(connection: sqlite3.Connection, version: int) -> None:
    known = {number: text for number, text in migrations.steps().items() if number <= version}
    if known:
        migrations.migrate(connection, known)
    for statement in _OLDER[version]:
        connection.execute(statement)
    connection.commit()


def test_the_steps_are_numbered_without_a_gap() -> None:
    assert list(migrations.steps()) == list(range(1, max(migrations.steps()) + 1))


def test_no_released_migration_was_changed() -> None:
    for number, text in migrations.steps().items():
        digest = hashlib.sha256(text.encode()).hexdigest()
        assert _RELEASED.get(number) == digest, (
            f"schema_v{number}.sql is not what was released: add a migration instead of changing one "
            f"(a new one is set down here as {number}: {digest!r})"
        )


def test_an_empty_database_gets_the_newest_schema(database: sqlite3.Connection) -> None:
    assert migrations.migrate(database, migrations.steps()) == max(migrations.steps())
    assert {name for kind, name, _ in shape(database) if kind == "table"} == {"records", "revision", "audit"}


def test_every_older_version_is_set_down_here() -> None:
    assert set(_OLDER) == {0, *migrations.steps()}


@pytest.mark.parametrize("version", sorted(_OLDER))
async def test_every_older_database_becomes_the_newest_and_keeps_what_it_holds(tmp_path: Path, version: int) -> None:
    path = tmp_path / "homed.db"
    with closing(sqlite3.connect(path)) as older, closing(sqlite3.connect(":memory:")) as fresh:
        at_version(older, version)
        migrations.migrate(fresh, migrations.steps())
        wanted = shape(fresh)
    store = SqliteStore(path)
    await store.open()
    if version:
        assert [(r.key, r.revision) for r in await store.list("services")] == [("web", 7)]
        assert [e.action for e in await store.entries(10, None)] == ["service.create"]
    assert await store.put("b", "k", b"", 0) > (9 if version else 0), "no revision is given out twice"
    await store.close()
    with closing(sqlite3.connect(path)) as newest:
        assert shape(newest) == wanted
        assert newest.execute("PRAGMA user_version").fetchone()[0] == max(migrations.steps())


def test_steps_taken_one_by_one_give_what_all_at_once_give(database: sqlite3.Connection) -> None:
    steps = migrations.steps()
    for number in steps:
        assert migrations.migrate(database, {n: t for n, t in steps.items() if n <= number}) == number
    with closing(sqlite3.connect(":memory:")) as at_once:
        migrations.migrate(at_once, steps)
        assert shape(database) == shape(at_once)


def test_migrating_again_changes_nothing(database: sqlite3.Connection) -> None:
    migrations.migrate(database, migrations.steps())
    before = list(database.iterdump())
    migrations.migrate(database, migrations.steps())
    assert list(database.iterdump()) == before


@pytest.mark.parametrize(
    "broken",
    [
        "CREATE TABLE more (x); INSERT INTO nowhere VALUES (1);",
        "CREATE TABLE more (x); ALTER TABLE records ADD COLUMN y; DROP TABLE audit; SYNTAX ERROR;",
        "DELETE FROM records; INSERT INTO records VALUES (NULL, NULL, NULL, NULL);",
    ],
)
def test_a_migration_that_fails_leaves_the_old_version_untouched(database: sqlite3.Connection, broken: str) -> None:
    newest = max(migrations.steps())
    at_version(database, newest)
    before = list(database.iterdump())
    with pytest.raises(StoreError) as raised:
        migrations.migrate(database, {**migrations.steps(), newest + 1: broken})
    assert f"schema {newest + 1}" in raised.value.message
    assert list(database.iterdump()) == before
    assert database.execute("PRAGMA user_version").fetchone()[0] == newest
    assert migrations.migrate(database, {**migrations.steps(), newest + 1: "CREATE TABLE more (x);"}) == newest + 1


async def test_a_database_of_a_newer_homed_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "homed.db"
    newer = max(migrations.steps()) + 1
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE of_the_future (x)")
        connection.execute(f"PRAGMA user_version = {newer}")
        connection.commit()
        before = list(connection.iterdump())
    store = SqliteStore(path)
    with pytest.raises(StoreError) as raised:
        await store.open()
    await store.close()
    assert raised.value.code == "STATE_TOO_NEW"
    assert str(newer) in raised.value.message
    with closing(sqlite3.connect(path)) as connection:
        assert list(connection.iterdump()) == before
        assert connection.execute("PRAGMA user_version").fetchone()[0] == newer


async def test_a_disk_too_full_for_a_migration_keeps_no_homed_from_what_it_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, steps = tmp_path / "homed.db", migrations.steps()
    with closing(sqlite3.connect(path)) as older:
        at_version(older, max(steps))
    full = "PRAGMA max_page_count = 1; CREATE TABLE more AS SELECT randomblob(100000);"
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "steps", lambda: {**steps, max(steps) + 1: full})
        store = SqliteStore(path)
        await store.open_somehow()
        found = [store.standing]
        assert "full" in store.message
        assert [one.key for one in await store.list("services")] == ["web"]
    assert await store.recover()
    assert [*found, store.standing] == [Standing.READ_ONLY, Standing.WHOLE]
    assert await store.put("b", "k", b"", 0) > 9
    await store.close()


@pytest.mark.parametrize("version", [one for one in sorted(_OLDER) if one])
def test_tables_that_are_described_otherwise_are_seen_of_every_older_version(
    database: sqlite3.Connection, version: int
) -> None:
    at_version(database, version)
    assert not salvage.has_other_tables(database)
    database.execute("ALTER TABLE records RENAME TO recards")
    assert salvage.has_other_tables(database)


def test_jobs_whose_content_lies_beside_their_records_are_none_for_a_homed_of_schema_1() -> None:
    """It would take the beginning of a script for all of it, and run that."""
    assert max(migrations.steps()) > 1
