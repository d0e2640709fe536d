"""The embedded engine: SQLite in WAL mode with one writer, on a thread of its own.

`synchronous=FULL` makes a commit durable before it is acknowledged: a power cut after it loses nothing.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from homed import clock
from homed.errors import StoreError
from homed.store import migrations
from homed.store.base import AuditEntry, Record, RevisionError

T = TypeVar("T")
_KEPT_AUDIT_ENTRIES = 50_000


class SqliteStore:
    """A Store and an AuditLog in one file. Open it with `await open()`, end with `await close()`.

    `trouble` says what was wrong with the last call; empty where it worked.
    """

    def __init__(self, path: Path):
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self.trouble = "it is not open"

    async def open(self) -> None:
        """Open, check and migrate. StoreError where it is damaged, too new or cannot be written."""
        await self._run(self._open)

    async def close(self) -> None:
        if not self._closed:
            await self._run(self._close)
            self._closed = True
            self._thread.shutdown()

    async def get(self, bucket: str, key: str) -> Record | None:
        return await self._do(lambda c: _get(c, bucket, key))

    async def list(self, bucket: str) -> Sequence[Record]:
        def read(connection: sqlite3.Connection) -> Sequence[Record]:
            rows = connection.execute(
                "SELECT key, value, revision FROM records WHERE bucket = ? ORDER BY key", (bucket,)
            )
            return [Record(*row) for row in rows]

        return await self._do(read)

    async def put(self, bucket: str, key: str, value: bytes, revision: int | None) -> int:
        return await self._do(lambda c: _put(c, bucket, key, value, revision))

    async def put_all(self, bucket: str, records: Sequence[tuple[str, bytes, int | None]]) -> Sequence[int]:
        return await self._do(lambda c: [_put(c, bucket, key, value, revision) for key, value, revision in records])

    async def delete(self, bucket: str, key: str, revision: int | None) -> bool:
        return await self._do(lambda c: _delete(c, bucket, key, revision))

    async def append(self, entry: AuditEntry) -> None:
        await self._do(lambda c: _append(c, entry))

    async def entries(self, limit: int, before: int | None) -> Sequence[AuditEntry]:
        def read(connection: sqlite3.Connection) -> Sequence[AuditEntry]:
            rows = connection.execute(
                "SELECT id, at, actor, action, target, origin, status, code, request_id FROM audit"
                " WHERE id < ? ORDER BY id DESC LIMIT ?",
                (2**62 if before is None else before, limit),
            )
            return [AuditEntry(row[0], clock.parse(row[1]), *row[2:]) for row in rows]

        return await self._do(read)

    async def foreign_version(self) -> int:
        """Changes when another process (`homed key revoke`) has written the file; cheap enough to ask often."""
        return await self._do(lambda c: int(c.execute("PRAGMA data_version").fetchone()[0]))

    async def _do(self, act: Callable[[sqlite3.Connection], T]) -> T:
        return await self._run(lambda: self._transact(act))

    async def _run(self, act: Callable[[], T]) -> T:
        if self._closed:
            raise StoreError("the store is closed")
        # Shielded: once begun, a write ends as a whole even where the caller has gone.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, act))

    def _transact(self, act: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            raise StoreError("the store is closed")
        try:
            with self._connection:
                result = act(self._connection)
        except sqlite3.Error as error:
            self.trouble = str(error)
            raise StoreError(f"{self._path}: {error}") from error
        self.trouble = ""
        return result

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=10, isolation_level="IMMEDIATE")
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
        self._connection, self.trouble = connection, ""

    def _prepare(self, connection: sqlite3.Connection) -> None:
        self._path.chmod(0o600)
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")
        damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise StoreError(f"{self._path} is damaged ({damage}): restore it from a backup")
        migrations.migrate(connection, migrations.steps())

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


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


def _expect(connection: sqlite3.Connection, bucket: str, key: str, revision: int | None) -> None:
    if revision is None:
        return
    current = _get(connection, bucket, key)
    at = current.revision if current else 0
    if at != revision:
        raise RevisionError(f"{bucket} '{key}' was changed by somebody else in the meantime: read it again")


def _put(connection: sqlite3.Connection, bucket: str, key: str, value: bytes, revision: int | None) -> int:
    connection.execute("UPDATE revision SET last = last + 1")
    _expect(connection, bucket, key, revision)
    new: int = connection.execute("SELECT last FROM revision").fetchone()[0]
    connection.execute(
        "INSERT INTO records (bucket, key, value, revision) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (bucket, key) DO UPDATE SET value = excluded.value, revision = excluded.revision",
        (bucket, key, value, new),
    )
    return new


def _delete(connection: sqlite3.Connection, bucket: str, key: str, revision: int | None) -> bool:
    connection.execute("UPDATE revision SET last = last + 1")
    _expect(connection, bucket, key, revision)
    gone = connection.execute("DELETE FROM records WHERE bucket = ? AND key = ?", (bucket, key))
    return gone.rowcount > 0


def _append(connection: sqlite3.Connection, entry: AuditEntry) -> None:
    added = connection.execute(
        "INSERT INTO audit (at, actor, action, target, origin, status, code, request_id)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (clock.rfc3339(entry.at), *entry[2:]),
    )
    connection.execute("DELETE FROM audit WHERE id <= ?", ((added.lastrowid or 0) - _KEPT_AUDIT_ENTRIES,))
