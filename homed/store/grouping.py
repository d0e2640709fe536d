"""Many callers' operations on one database, on a thread of its own: those that wait together share one commit.

Waiting for the disk is what a durable write costs. While the thread waits for one commit, what comes is gathered, and
done in one transaction next: each operation in a savepoint, so that one that fails takes nothing from the others.
"""

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
Act = Callable[[sqlite3.Connection], T]
# More than so many in one transaction, and the first would wait long for the last.
_MOST = 500


class Outcome(NamedTuple):
    value: Any
    error: Exception | None = None


class _Operation(NamedTuple):
    act: Act[Any]
    writes: bool
    future: asyncio.Future[Any]


class Group:
    """`open` gives the connection (in autocommit mode) or raises; `failure` makes what callers get of SQLite's errors.

    All callers are on one event loop. Operations are done in the order in which they were asked for, and once asked
    for they are done, even where the caller has gone.
    """

    def __init__(self, name: str, failure: Callable[[sqlite3.Error], Exception], closed: Callable[[], Exception]):
        self._failure = failure
        self._closed = closed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._waiting: deque[_Operation] = deque()
        self._busy = False
        self._ended = False
        self._connection: sqlite3.Connection | None = None
        self.trouble = "it is not open"

    async def open(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """Take the connection that `connect` makes, on the thread. What it raises goes through."""

        def begin() -> None:
            self._connection, self.trouble = connect(), ""

        if self._ended:
            raise self._closed()
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, begin))

    async def swap(self, act: Callable[[sqlite3.Connection], sqlite3.Connection]) -> None:
        """Replace the connection by the one that `act` makes from it. An exception of `act` changes nothing."""

        def exchange() -> None:
            if self._connection is None:
                raise self._closed()
            self._connection, self.trouble = act(self._connection), ""

        if self._ended:
            raise self._closed()
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, exchange))

    async def close(self) -> None:
        """What was asked for before is done first."""
        if self._ended:
            return
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect))
        self._ended = True
        self._thread.shutdown()

    async def read(self, act: Act[T]) -> T:
        """What `act`, which writes nothing, finds: all that was acknowledged before is in it."""
        return await self._ask(act, writes=False)

    async def write(self, act: Act[T]) -> T:
        """Returns once it is durable. Where `act` raises, or the commit fails, nothing of it was done."""
        return await self._ask(act, writes=True)

    async def _ask(self, act: Act[T], *, writes: bool) -> T:
        if self._ended:
            raise self._closed()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append(_Operation(act, writes, future))
            begin, self._busy = not self._busy, True
        if begin:
            self._thread.submit(self._work)
        return await future

    def _work(self) -> None:
        while batch := self._next():
            outcomes = self._do(batch)
            # One call for all: waking the loop is what costs.
            batch[0].future.get_loop().call_soon_threadsafe(_settle, batch, outcomes)

    def _next(self) -> list[_Operation]:
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
            self._busy = bool(batch)
            return batch

    def _do(self, batch: Sequence[_Operation]) -> list[Outcome]:
        if self._connection is None:
            return [Outcome(None, self._closed()) for _ in batch]
        self.trouble, before = "", self.trouble
        try:
            if any(one.writes for one in batch):
                return self._together(self._connection, batch)
            return [self._one(self._connection, one) for one in batch]
        except sqlite3.Error as error:
            self.trouble = str(error) or before
            self._roll_back(self._connection)
            return [
                Outcome(None, self._failed(error)) if one.writes else self._one(self._connection, one) for one in batch
            ]

    def _together(self, connection: sqlite3.Connection, batch: Sequence[_Operation]) -> list[Outcome]:
        """In one transaction. What it raises is an error of the whole of it."""
        outcomes = []
        connection.execute("BEGIN IMMEDIATE")
        for one in batch:
            if not one.writes:
                outcomes.append(self._one(connection, one))
                continue
            connection.execute("SAVEPOINT one")
            outcome = self._one(connection, one)
            if outcome.error is not None:
                if not connection.in_transaction:  # SQLite has given up all of it
                    raise sqlite3.OperationalError(self.trouble)
                connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
            outcomes.append(outcome)
        connection.execute("COMMIT")
        return outcomes

    def _one(self, connection: sqlite3.Connection, one: _Operation) -> Outcome:
        try:
            return Outcome(one.act(connection))
        except sqlite3.Error as error:
            self.trouble = str(error)
            return Outcome(None, self._failed(error))
        except Exception as error:  # noqa: BLE001  it is raised where it belongs: at who asked
            return Outcome(None, error)

    def _failed(self, error: sqlite3.Error) -> Exception:
        """One for each caller: an exception that is raised twice mixes up where it was."""
        made = self._failure(error)
        made.__cause__ = error
        return made

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            connection.rollback()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _settle(batch: Sequence[_Operation], outcomes: Sequence[Outcome]) -> None:
    for one, outcome in zip(batch, outcomes, strict=True):
        if one.future.done():  # its caller has gone
            continue
        if outcome.error is not None:
            one.future.set_exception(outcome.error)
        else:
            one.future.set_result(outcome.value)
