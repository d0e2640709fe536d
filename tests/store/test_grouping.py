"""Operations that share a commit: what fails alone, what fails together, and what a caller who left leaves behind."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from homed.errors import StoreError
from homed.store.grouping import Group

_SCHEMA = """
CREATE TABLE parent (id INTEGER PRIMARY KEY);
CREATE TABLE child (parent INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
"""


class Held:
    """Holds the thread up, so that what is asked for meanwhile is gathered."""

    def __init__(self, group: Group):
        self._group = group
        self._free = threading.Event()

    async def __aenter__(self) -> None:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold(connection: sqlite3.Connection) -> None:
            loop.call_soon_threadsafe(begun.set)
            assert self._free.wait(30)

        self._task = asyncio.create_task(self._group.read(hold))
        await begun.wait()

    async def __aexit__(self, *error: object) -> None:
        await asyncio.sleep(0)  # what was made a task asks now
        self._free.set()
        await self._task


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    made = Group("test", lambda error: StoreError(f"no: {error}"), lambda: StoreError("closed"))

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(tmp_path / "db", isolation_level=None)
        connection.executescript(_SCHEMA)
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    await made.open(connect)
    yield made
    await made.close()


def parent(connection: sqlite3.Connection, id: int) -> int:
    connection.execute("INSERT INTO parent VALUES (?)", (id,))
    return id


def orphan(connection: sqlite3.Connection) -> None:
    """What SQLite refuses when it is committed, and not before."""
    connection.execute("INSERT INTO child VALUES (12345)")


def parents(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT id FROM parent ORDER BY id")]


async def test_a_commit_that_fails_fails_all_of_its_batch(group: Group) -> None:
    async with Held(group):
        asked = [
            asyncio.create_task(group.write(lambda c: parent(c, 1))),
            asyncio.create_task(group.write(orphan)),
            asyncio.create_task(group.write(lambda c: parent(c, 2))),
        ]
        looked = asyncio.create_task(group.read(parents))
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(one, StoreError) and "FOREIGN KEY" in one.message for one in results)
    assert len({id(one) for one in results}) == 3, "an exception is raised at one place only"
    assert await looked == [], "what was read in a transaction that failed was read again"
    assert "FOREIGN KEY" in group.trouble
    assert await group.write(lambda c: parent(c, 3)) == 3
    assert await group.read(parents) == [3]
    assert group.trouble == ""


async def test_an_operation_that_fails_takes_nothing_from_those_beside_it(group: Group) -> None:
    def half(connection: sqlite3.Connection) -> None:
        parent(connection, 50)
        raise ValueError("not this one")

    async with Held(group):
        good = [asyncio.create_task(group.write(partial(parent, id=i))) for i in (1, 2)]
        bad = asyncio.create_task(group.write(half))
        twice = asyncio.create_task(group.write(lambda c: parent(c, 1)))
        last = asyncio.create_task(group.write(lambda c: parent(c, 3)))
    assert await asyncio.gather(*good, last) == [1, 2, 3]
    with pytest.raises(ValueError, match="not this one"):
        await bad
    with pytest.raises(StoreError, match="UNIQUE"):
        await twice
    assert await group.read(parents) == [1, 2, 3]


async def test_where_sqlite_gives_the_transaction_up_nothing_of_it_is_acknowledged(group: Group) -> None:
    def give_up(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT OR ROLLBACK INTO parent VALUES (1)")

    async with Held(group):
        asked = [
            asyncio.create_task(group.write(lambda c: parent(c, 1))),
            asyncio.create_task(group.write(give_up)),
            asyncio.create_task(group.write(lambda c: parent(c, 2))),
        ]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(one, StoreError) and "UNIQUE" in one.message for one in results)
    assert await group.read(parents) == []


async def test_what_is_gathered_shares_a_commit(group: Group) -> None:
    said: list[str] = []
    await group.read(lambda c: c.set_trace_callback(said.append))
    async with Held(group):
        asked = [asyncio.create_task(group.write(partial(parent, id=i))) for i in range(100)]
    await asyncio.gather(*asked)
    await group.read(lambda c: c.set_trace_callback(None))
    assert said.count("COMMIT") == 1
    assert await group.read(parents) == list(range(100))


async def test_more_than_one_transaction_takes_is_done_in_order(group: Group) -> None:
    async with Held(group):
        asked = [asyncio.create_task(group.write(partial(parent, id=i))) for i in range(1203)]
    await asyncio.gather(*asked)
    assert await group.read(parents) == list(range(1203))


async def test_what_a_caller_asked_for_who_has_gone_is_done_all_the_same(group: Group) -> None:
    async with Held(group):
        asked = [asyncio.create_task(group.write(partial(parent, id=i))) for i in (1, 2, 3)]
        await asyncio.sleep(0)
        asked[1].cancel()
    first, second, third = await asyncio.gather(*asked, return_exceptions=True)
    assert (first, third) == (1, 3) and isinstance(second, asyncio.CancelledError)
    assert await group.read(parents) == [1, 2, 3]


async def test_what_was_asked_for_before_the_end_is_done_and_nothing_after(group: Group) -> None:
    asked = [asyncio.create_task(group.write(partial(parent, id=i))) for i in range(50)]
    await asyncio.sleep(0)
    await group.close()
    assert await asyncio.gather(*asked) == list(range(50))
    with pytest.raises(StoreError, match="closed"):
        await group.read(parents)
