"""The embedded engine: SQLite in WAL mode with one writer, on a thread of its own.

`synchronous=FULL` makes a commit durable before it is acknowledged: a power cut after it loses nothing. Writers that
wait at the same time share one commit (`grouping`).
"""

import logging
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from homed import clock
from homed.errors import StoreError
from homed.store import migrations
from homed.store.base import AuditEntry, Change, Record, RevisionError
from homed.store.grouping import Group

log = logging.getLogger(__name__)
_KEPT_AUDIT_ENTRIES = 50_000
_MAX_AUDIT_TEXT = 512
_MAX_IDLE_LOG_BYTES = 16 << 20
# Rewriting takes about a second for so much on slow flash, and needs as much space again.
_MAX_REWRITTEN_BYTES = 64 << 20


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

    async def get_all(self, bucket: str, keys: Sequence[str], max_bytes: int) -> tuple[Sequence[Record], int]:
        return await self._group.read(lambda c: _get_all(c, bucket, keys, max_bytes))

    async def list(
        self, bucket: str, after: str = "", limit: int | None = None, max_bytes: int | None = None
    ) -> Sequence[Record]:
        return await self._group.read(lambda c: _list(c, bucket, after, limit, max_bytes))

    async def put(self, bucket: str, key: str, value: bytes, revision: int | None) -> int:
        return await self._group.write(lambda c: _put(c, bucket, key, value, revision))

    async def put_all(self, bucket: str, records: Sequence[tuple[str, bytes, int | None]]) -> Sequence[int]:
        return await self._group.write(
            lambda c: [_put(c, bucket, key, value, revision) for key, value, revision in records]
        )

    async def write(self, changes: Sequence[Change]) -> Sequence[int]:
        return await self._group.write(lambda c: [_change(c, one) for one in changes])

    async def delete(self, bucket: str, key: str, revision: int | None) -> bool:
        return await self._group.write(lambda c: _delete(c, bucket, key, revision))

    async def delete_all(self, bucket: str, keys: Iterable[str]) -> int:
        gone = list(keys)
        return await self._group.write(lambda c: sum(_delete(c, bucket, key, None) for key in gone))

    async def give_back(self, max_bytes: int, spare: int = 0) -> int:
        return await self._group.write(lambda c: _give_back(c, max_bytes, spare))

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
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has an effect on a new database only
        _write_ahead(connection)
        connection.execute(f"PRAGMA journal_size_limit = {_MAX_IDLE_LOG_BYTES}")
        connection.execute("PRAGMA synchronous = FULL")
        damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise StoreError(f"{self._path} is damaged ({damage}): restore it from a backup")
        migrations.migrate(connection, migrations.steps())
        _let_shrink(connection)


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


def _let_shrink(connection: sqlite3.Connection) -> None:
    """Rewrite a database of an older homed once, so that it can give space back, if little is in it.

    If that fails (no space, another process has it open), it works as before: deleted records' space is used again.
    """
    if connection.execute("PRAGMA auto_vacuum").fetchone()[0]:
        return
    used = _pages(connection, "page_count") - _pages(connection, "freelist_count")
    if used * _pages(connection, "page_size") > _MAX_REWRITTEN_BYTES:
        return
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("VACUUM")
    except sqlite3.Error as error:
        log.warning("Cannot make the state's database able to shrink: %s", error)


def _pages(connection: sqlite3.Connection, pragma: str) -> int:
    value: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    return value


def _give_back(connection: sqlite3.Connection, max_bytes: int, spare: int) -> int:
    size = _pages(connection, "page_size")
    if connection.execute("PRAGMA auto_vacuum").fetchone()[0]:
        free = _pages(connection, "freelist_count") - spare // size
        for _ in range(min(free, max(1, max_bytes // size))):
            # Of a statement without columns Python does one step, and that frees one page.
            connection.execute("PRAGMA incremental_vacuum(1)")
        return _pages(connection, "freelist_count") * size
    return 0  # of an older homed, and too large to be rewritten at the start: its free pages are used again


def _get(connection: sqlite3.Connection, bucket: str, key: str) -> Record | None:
    row = connection.execute(
        "SELECT key, value, revision FROM records WHERE bucket = ? AND key = ?", (bucket, key)
    ).fetchone()
    return Record(*row) if row else None


def _get_all(
    connection: sqlite3.Connection, bucket: str, keys: Sequence[str], max_bytes: int
) -> tuple[Sequence[Record], int]:
    found: list[Record] = []
    size = 0
    for looked_at, key in enumerate(keys, 1):
        record = _get(connection, bucket, key)
        if record is not None:
            found.append(record)
            size += len(record.value)
            if size >= max_bytes:
                return found, looked_at
    return found, len(keys)


def _list(
    connection: sqlite3.Connection, bucket: str, after: str, limit: int | None, max_bytes: int | None
) -> Sequence[Record]:
    rows = connection.execute(
        f"SELECT key, value, revision FROM records WHERE bucket = ? {'AND key > ?' if after else ''}"  # noqa: S608
        " ORDER BY key LIMIT ?",
        (bucket, *([after] if after else []), -1 if limit is None else limit),
    )
    found: list[Record] = []
    size = 0
    # SQLite reads a row when it is asked for, so what does not fit into the page is never in memory.
    for row in rows:
        found.append(Record(*row))
        size += len(row[1])
        if max_bytes is not None and size >= max_bytes:
            break
    rows.close()
    return found


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


def _change(connection: sqlite3.Connection, change: Change) -> int:
    if change.value is not None:
        return _put(connection, change.bucket, change.key, change.value, change.revision)
    revision = _next(connection, change.bucket, change.key, change.revision)
    connection.execute("DELETE FROM records WHERE bucket = ? AND key = ?", (change.bucket, change.key))
    return revision


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
        (clock.rfc3339(entry.at), *(_short(one) if isinstance(one, str) else one for one in entry[2:])),
    )
    connection.execute("DELETE FROM audit WHERE id <= ?", ((added.lastrowid or 0) - _KEPT_AUDIT_ENTRIES,))


def _short(text: str) -> str:
    """A path may have 8 KiB, and fifty thousand of them are kept."""
    return text if len(text) <= _MAX_AUDIT_TEXT else f"{text[: _MAX_AUDIT_TEXT - 1]}…"
