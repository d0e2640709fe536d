"""The embedded engine: SQLite in WAL mode with one writer, on a thread of its own.

`synchronous=FULL` makes a commit durable before it is acknowledged: a power cut after it loses nothing. Writers that
wait at the same time share one commit (`grouping`).
"""

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from homed import clock
from homed.errors import StateUnavailableError, StoreError
from homed.store import opening, standing
from homed.store.base import AuditEntry, Change, Record, RevisionError
from homed.store.grouping import Group
from homed.store.standing import Standing

_KEPT_AUDIT_ENTRIES = 50_000
_MAX_AUDIT_TEXT = 512


class SqliteStore:
    """A Store and an AuditLog in one file. Open it with `await open()`, end with `await close()`.

    `trouble` is the error of the last call; empty if it worked. `standing` and `message` describe the state in which
    the database was found.
    """

    def __init__(self, path: Path):
        self._path = path
        self._group = Group("store", self._failed, lambda: StoreError("the store is closed"))
        self.standing = Standing.WHOLE
        self.message = ""

    @property
    def trouble(self) -> str:
        return self._group.trouble

    async def open(self) -> None:
        """Open, check and migrate. Raises: StoreError, if it is missing, damaged, too new or not writable."""
        await self._group.open(lambda: opening.open_whole(self._path))

    async def open_somehow(self) -> None:
        """Open it, or its best substitute (see `standing`). Raises: StoreError, if it is too new or in use."""

        def connect() -> sqlite3.Connection:
            connection, self.standing, self.message = standing.open_somehow(self._path)
            return connection

        await self._group.open(connect)

    async def recover(self) -> bool:
        """Check whether it is available, readable or writable again; return whether anything has changed."""
        before = self.standing
        if before in (Standing.WHOLE, Standing.DAMAGED):
            return False

        def connect(old: sqlite3.Connection) -> sqlite3.Connection:
            if before is Standing.READ_ONLY and not opening.is_writable(self._path):
                return old
            if before is Standing.MISSING and opening.is_missing(self._path):
                return old
            # First of all: SQLite would share the mode of a connection to it that is already open in this process.
            old.close()
            connection, self.standing, self.message = standing.open_again(self._path)
            return connection

        await self._group.swap(connect)
        return self.standing is not before

    async def start_anew(self) -> None:
        """Replace a missing or damaged database durably by the contents of its stand-in.

        Raises: StoreError, without any change.
        """
        if not self.is_stand_in:
            return

        def write(old: sqlite3.Connection) -> sqlite3.Connection:
            made = standing.start_anew(self._path, old)
            old.close()
            return made

        await self._group.swap(write)
        self.standing, self.message = Standing.WHOLE, ""

    @property
    def is_stand_in(self) -> bool:
        """True if an empty database in memory replaces one that is missing or unreadable."""
        return self.standing in (Standing.MISSING, Standing.DAMAGED, Standing.UNREADABLE)

    def _failed(self, error: sqlite3.Error) -> StoreError:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
            return StateUnavailableError(f"{self._path} cannot be written: {error}", code="STATE_READ_ONLY")
        return StoreError(f"{self._path}: {error}")

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
            return [_entry(row) for row in rows]

        return await self._group.read(read)

    async def foreign_version(self) -> int:
        """Changes when another process (`homed key revoke`) has written the file; cheap enough to ask often."""
        return await self._group.read(lambda c: int(c.execute("PRAGMA data_version").fetchone()[0]))


def _give_back(connection: sqlite3.Connection, max_bytes: int, spare: int) -> int:
    size = opening.pages(connection, "page_size")
    if connection.execute("PRAGMA auto_vacuum").fetchone()[0]:
        free = opening.pages(connection, "freelist_count") - spare // size
        for _ in range(min(free, max(1, max_bytes // size))):
            # Python runs only one step of a statement without columns, which would free one page.
            connection.execute("PRAGMA incremental_vacuum(1)")
        return opening.pages(connection, "freelist_count") * size
    return 0  # from an older version, and too large to be rewritten at the start: its free pages are reused


def _record(row: Sequence[Any]) -> Record:
    """Convert a row, checking its types: one flipped bit may have turned its value into text or NULL."""
    key, value, revision = row
    if not isinstance(value, bytes):
        value = b"" if value is None else str(value).encode(errors="replace")
    return Record(str(key), value, revision if isinstance(revision, int) else 0)


def _entry(row: Sequence[Any]) -> AuditEntry:
    """Convert a row of the audit log; a damaged one as far as it is readable."""
    id, at, *texts, status, code, request_id = row
    try:
        moment = clock.parse(at)
    except (ValueError, TypeError, AttributeError):
        moment = datetime.fromtimestamp(0, UTC)
    actor, action, target, origin = map(str, texts)
    return AuditEntry(
        id, moment, actor, action, target, origin, status if isinstance(status, int) else 0, str(code), str(request_id)
    )


def _get(connection: sqlite3.Connection, bucket: str, key: str) -> Record | None:
    row = connection.execute(
        "SELECT key, value, revision FROM records WHERE bucket = ? AND key = ?", (bucket, key)
    ).fetchone()
    return _record(row) if row else None


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
    # SQLite reads rows lazily, so rows beyond the page are never in memory.
    for row in rows:
        record = _record(row)
        found.append(record)
        size += len(record.value)
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
    """Shorten a text: a path may have 8 KiB, and fifty thousand entries are kept."""
    return text if len(text) <= _MAX_AUDIT_TEXT else f"{text[: _MAX_AUDIT_TEXT - 1]}…"
