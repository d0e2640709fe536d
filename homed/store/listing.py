"""An index to answer lists from: filtered, sorted, searched and paged, over more rows than should be Python objects.

It is derived from the records and holds nothing of its own: an SQLite database that ends with the process, in memory
as far as it is small, and in an unnamed temporary file beyond that.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from homed.errors import StoreError
from homed.store.grouping import Act, Group

Scalar = str | int | float | None
Row = tuple[Scalar, ...]
T = TypeVar("T")
_MEMORY = 16 << 20
# Up to so many rows are found by what is asked of them, and then sorted; more are looked for in their order.
_FEW = 1000
# SQLite takes at least so many parameters in one statement in every version.
_MOST_PARAMETERS = 900


class Column(NamedTuple):
    """`kind` is TEXT, INTEGER or REAL. What is `folded` can be searched, whatever the case, and is kept in no other."""

    name: str
    kind: str = "TEXT"
    folded: bool = False


class Equals(NamedTuple):
    column: str
    value: Scalar


class In(NamedTuple):
    column: str
    values: Sequence[Scalar]


class Range(NamedTuple):
    """Both ends are in it; what has no value is not."""

    column: str
    low: float | None = None
    high: float | None = None


class Contains(NamedTuple):
    """Of a folded column."""

    column: str
    text: str


Condition = Equals | In | Range | Contains


class Listing:
    """Rows of `columns`, of which the first is the key. `indexes` are the columns of each; what is sorted by needs one
    that begins with it, and then the key, to be quick.

    Open it with `await open()`, end with `await close()`. Reads see every change that was asked for before.
    """

    def __init__(self, columns: Sequence[Column], indexes: Sequence[Sequence[str]]):
        self._columns = columns
        self._key = columns[0].name
        self._folded = [i for i, column in enumerate(columns) if column.folded]
        self._indexes = indexes
        # SQLite would rather find by what is equal and sort all that, than look in the order that is wanted.
        self._sorted_by = {names[0]: f" INDEXED BY index{i}" for i, names in enumerate(indexes)}
        self._names = names = [column.name for column in columns]
        marks, changes = ", ".join("?" * len(names)), ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        self._put = f"INSERT INTO rows VALUES ({marks}) ON CONFLICT ({self._key}) DO UPDATE SET {changes}"  # noqa: S608
        self._drop = f"DELETE FROM rows WHERE {self._key} = ?"  # noqa: S608
        self._group = Group(
            "listing", lambda error: StoreError(f"lists: {error}"), lambda: StoreError("the lists are closed")
        )
        self._indexed = False

    async def open(self) -> None:
        await self._group.open(self._connect)

    async def close(self) -> None:
        await self._group.close()

    async def put(self, rows: Iterable[Row], gone: Iterable[str] = ()) -> None:
        """Add rows, or put them in the place of those with their keys; and drop those whose keys are `gone`."""
        added, dropped = [self._fold(row) for row in rows], [(key,) for key in gone]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(self._put, added)
            connection.executemany(self._drop, dropped)

        await self._group.write(write)

    async def drop(self, keys: Iterable[str]) -> None:
        await self.put((), keys)

    async def page(
        self, where: Sequence[Condition], sort: str, *, descending: bool = False, offset: int = 0, limit: int = 20
    ) -> tuple[list[str], int]:
        """The keys on a page, and how many rows there are on all. Rows that sort alike are in the order of keys."""
        clause, values = _clause(where)
        order = self._order(sort, descending)

        def read(connection: sqlite3.Connection) -> tuple[list[str], int]:
            total: int = connection.execute(f"SELECT count(*) FROM rows{clause}", values).fetchone()[0]  # noqa: S608
            if offset >= total:
                return [], total
            index = self._sorted_by.get(sort, "") if total > _FEW else ""
            query = f"SELECT {self._key} FROM rows{index}{clause}{order} LIMIT ? OFFSET ?"  # noqa: S608
            return [row[0] for row in connection.execute(query, (*values, limit, offset))], total

        return await self._read(read)

    async def rows(
        self, columns: Sequence[str], where: Sequence[Condition], sort: str, *, descending: bool = False, limit: int
    ) -> list[Row]:
        """Some columns of the first rows."""
        clause, values = _clause(where)
        query = f"SELECT {', '.join(columns)} FROM rows{clause}{self._order(sort, descending)} LIMIT ?"  # noqa: S608
        return await self._read(lambda c: list(c.execute(query, (*values, limit))))

    async def count(self, group_by: Sequence[str], where: Sequence[Condition] = ()) -> Mapping[Row, int]:
        """How many rows there are for each value of these columns."""
        clause, values = _clause(where)
        names = ", ".join(group_by)
        query = f"SELECT {names}, count(*) FROM rows{clause} GROUP BY {names}"  # noqa: S608
        return await self._read(lambda c: {row[:-1]: row[-1] for row in c.execute(query, values)})

    async def sums(self, columns: Sequence[str], where: Sequence[Condition] = ()) -> tuple[float, ...]:
        """How many rows there are, and the sum of each column."""
        clause, values = _clause(where)
        wanted = ", ".join(["count(*)", *(f"coalesce(sum({name}), 0)" for name in columns)])
        query = f"SELECT {wanted} FROM rows{clause}"  # noqa: S608
        return await self._read(lambda c: tuple(c.execute(query, values).fetchone()))

    async def _read(self, act: Act[T]) -> T:
        """Indexes are made before the first: of many rows at once, as at the start, in half the time."""
        if not self._indexed:
            await self._group.write(self._index)
            self._indexed = True
        return await self._group.read(act)

    def _index(self, connection: sqlite3.Connection) -> None:
        for i, names in enumerate(self._indexes):
            connection.execute(f"CREATE INDEX IF NOT EXISTS index{i} ON rows ({', '.join(names)})")

    def _order(self, sort: str, descending: bool) -> str:
        if sort not in self._names:
            raise ValueError(f"{sort} is no column")
        way = "DESC" if descending else "ASC"
        return f" ORDER BY {sort} {way}" + (f", {self._key} {way}" if sort != self._key else "")

    def _fold(self, row: Row) -> Row:
        if not self._folded:
            return row
        cells = list(row)
        for i in self._folded:
            cells[i] = str(cells[i]).casefold()
        return tuple(cells)

    def _connect(self) -> sqlite3.Connection:
        # With no name it is temporary, and is in a file from when it does not fit into its cache.
        connection = sqlite3.connect("", isolation_level=None)
        connection.execute("PRAGMA journal_mode = MEMORY")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"PRAGMA cache_size = {-_MEMORY // 1024}")
        kinds = ", ".join(f"{column.name} {column.kind}" for column in self._columns[1:])
        connection.execute(f"CREATE TABLE rows ({self._key} TEXT PRIMARY KEY NOT NULL, {kinds})")
        return connection


def _clause(where: Sequence[Condition]) -> tuple[str, list[Any]]:
    parts: list[str] = []
    values: list[Any] = []
    for condition in where:
        match condition:
            case Equals(column, value):
                parts.append(f"{column} IS ?")
                values.append(value)
            case In(column, several):
                parts.append(f"{column} IN ({', '.join('?' * len(several))})")
                values += several
            case Range(column, low, high):
                parts.append(f"{column} IS NOT NULL")
                for sign, end in ((">=", low), ("<=", high)):
                    if end is not None:
                        parts.append(f"{column} {sign} ?")
                        values.append(end)
            case Contains(column, text):
                parts.append(f"instr({column}, ?) > 0")
                values.append(text.casefold())
    if len(values) > _MOST_PARAMETERS:
        raise ValueError(f"a list is asked for with more than {_MOST_PARAMETERS} values")
    return (f" WHERE {' AND '.join(parts)}" if parts else ""), values
