"""The embedded engine: SQLite in WAL mode with one writer, on a thread of its own.

`synchronous=FULL` makes a commit durable before it is acknowledged: a power cut after it loses nothing. Writers that
wait at the same time share one commit (`grouping`).
"""

import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from homed import clock
from homed.errors import StoreError
from homed.store import migrations
from homed.store.base import AuditEntry, Record, RevisionError
from homed.store.grouping import Group

_KEPT_AUDIT_ENTRIES = 50_000


class SqliteStore:
    """A Store and an AuditLog in one file. Open it with `await open()`, end with `await close()`.

    `trouble` says what was wrong with the last call; empty where it worked.
    """

    def __init__(self, path: Path):
        self._path = path
        self._group = Group(
            "store", lambda error: StoreError(f"{path}: {error}"), lambda: StoreError("the store is closed")
        )

    @property
    def trouble(self) -> str:
        return self._group.trouble

    async def open(self) -> None:
        """Open, check and migrate. StoreError where it is damaged, too new or cannot be written."""
        await self._group.open(self._connect)

    async def close(self) -> None:
        await self._group.close()

    async def get(self, bucket: str, key: str) -> Record | None:
        return await self._group.read(lambda c: _get(c, bucket, key))

    async def list(self, bucket: str, after: str = "", limit: int | None = None) -> Sequence[Record]:
        return await self._group.read(lambda c: _list(c, bucket, after, limit))

    async def put(self, bucket: str, key: str, value: bytes, revision: int | None) -> int:
        return await self._group.write(lambda c: _put(c, bucket, key, value, revision))

    async def put_all(self, bucket: str, records: Sequence[tuple[str, bytes, int | None]]) -> Sequence[int]:
        return await self._group.write(
            lambda c: [_put(c, bucket, key, value, revision) for key, value, revision in records]
        )

    async def delete(self, bucket: str, key: str, revision: int | None) -> bool:
        return await self._group.write(lambda c: _delete(c, bucket, key, revision))

    async def delete_all(self, bucket: str, keys: Iterable[str]) -> int:
        gone = list(keys)
        return await self._group.write(lambda c: sum(_delete(c, bucket, key, None) for key in gone))

    async def append(self, entry: AuditEntry) -> None:
        await self._group.write(lambda c: _append(c, entry))

    async def entries(self, limit: int, before: int | None) -> Sequence[AuditEntry]:
        def read(connection: sqlite3.Connection) -> Sequence[AuditEntry]:
            rows = connection.execute(
                "SELECT id, at, actor, action, target, origin, status, code, request_id FROM audit"
                " WHERE id < ? ORDER BY id DESC LIMIT ?",
                (2**62 if before is None else before, limit),
            )
            return [AuditEntry(row[0], clock.parse(row[1]), *row[2:]) for row in rows]

        return await self._group.read(read)

    async def foreign_version(self) -> int:
        """Changes when another process (`homed key revoke`) has written the file; cheap enough to ask often."""
        return await self._group.read(lambda c: int(c.execute("PRAGMA data_version").fetchone()[0]))

    def _connect(self) -> sqlite3.Connection:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=10, isolation_level=None)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._path} cannot be opened: {error}") from error
        try:
            self._prepare(connection)
        except (sqlite3.Error, OSError) as error:
            connection.close()
            raise StoreError(f"{self._path} cannot be opened: {error}") from error
        except StoreError:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        self._path.chmod(0o600)
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")
        damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise StoreError(f"{self._path} is damaged ({damage}): restore it from a backup")
        migrations.migrate(connection, migrations.steps())


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Of two that open a new database at once, SQLite refuses one the change of its mode without waiting."""
    for tries_left in range(100, -1, -1):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not tries_left or getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(0.05)
        else:
            return


def _get(connection: sqlite3.Connection, bucket: str, key: str) -> Record | None:
    row = connection.execute(
        "SELECT key, value, revision FROM records WHERE bucket = ? AND key = ?", (bucket, key)
    ).fetchone()
    return Record(*row) if row else None


def _list(connection: sqlite3.Connection, bucket: str, after: str, limit: int | None) -> Sequence[Record]:
    rows = connection.execute(
        f"SELECT key, value, revision FROM records WHERE bucket = ? {'AND key > ?' if after else ''}"  # noqa: S608
        " ORDER BY key LIMIT ?",
        (bucket, *([after] if after else []), -1 if limit is None else limit),
    )
    return [Record(*row) for row in rows]


def _next(connection: sqlite3.Connection, bucket: str, key: str, expected: int | None) -> int:
    """The revision of a write that expects the record to be at another. RevisionError."""
    if expected is not None:
        found = connection.execute(
            "SELECT revision FROM records WHERE bucket = ? AND key = ?", (bucket, key)
        ).fetchone()
        if (found[0] if found else 0) != expected:
            raise RevisionError(f"{bucket} '{key}' was changed by somebody else in the meantime: read it again")
    connection.execute("UPDATE revision SET last = last + 1")
    new: int = connection.execute("SELECT last FROM revision").fetchone()[0]
    return new


def _put(connection: sqlite3.Connection, bucket: str, key: str, value: bytes, revision: int | None) -> int:
    new = _next(connection, bucket, key, revision)
    connection.execute(
        "INSERT INTO records (bucket, key, value, revision) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (bucket, key) DO UPDATE SET value = excluded.value, revision = excluded.revision",
        (bucket, key, value, new),
    )
    return new


def _delete(connection: sqlite3.Connection, bucket: str, key: str, revision: int | None) -> bool:
    _next(connection, bucket, key, revision)
    gone = connection.execute("DELETE FROM records WHERE bucket = ? AND key = ?", (bucket, key))
    return gone.rowcount > 0


def _append(connection: sqlite3.Connection, entry: AuditEntry) -> None:
    added = connection.execute(
        "INSERT INTO audit (at, actor, action, target, origin, status, code, request_id)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (clock.rfc3339(entry.at), *entry[2:]),
    )
    connection.execute("DELETE FROM audit WHERE id <= ?", ((added.lastrowid or 0) - _KEPT_AUDIT_ENTRIES,))
