"""Salvage of a damaged database: copy its readable rows into a new one."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from homed import atomic
from homed.store import migrations

_MAX_MEMORY_BYTES: Final = 64 << 20
_TABLES: Final = {
    "records": (("bucket", "key", "value", "revision"), ("bucket", "key")),
    "audit": (
        ("id", "at", "actor", "action", "target", "origin", "status", "code", "request_id"),
        ("id",),
    ),
}
# Gaps in issued revisions are harmless; a revision that is issued twice is not.
_REVISIONS_SKIPPED: Final = 1_000_000


def text(data: bytes) -> str:
    """Decode a text of the database leniently, so that one damaged letter does not hide the other rows."""
    return data.decode(errors="replace")


def has_other_tables(connection: sqlite3.Connection) -> bool:
    """Return whether a table of its schema version is missing or has another definition, and so is damaged."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in migrations.steps():
        return False
    return not set(_described(connection)) >= set(_tables(version))


def describe_tables(connection: sqlite3.Connection) -> None:
    """Restore the definitions of a database's tables, written by this version. Raises: sqlite3.Error."""
    connection.execute("PRAGMA writable_schema = ON")
    for number, (kind, name, sql) in enumerate(_tables(max(migrations.steps())), 1):
        connection.execute(
            "UPDATE sqlite_master SET type = ?, name = ?, tbl_name = ?, sql = ? WHERE rowid = ?",
            (kind, name, name, sql, number),
        )
    connection.execute("PRAGMA writable_schema = RESET")
    connection.execute("SELECT bucket FROM records LIMIT 1").fetchone()


def _tables(version: int) -> list[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        migrations.migrate(fresh, {number: step for number, step in migrations.steps().items() if number <= version})
        return _described(fresh)


def _described(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY rowid")
    return [(row[0], row[1], row[2]) for row in rows]


def into_file(source: sqlite3.Connection, path: Path) -> int:
    """Copy the readable rows into a new database, durably; return their number. Raises: sqlite3.Error, OSError."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    target = sqlite3.connect(path, isolation_level=None)
    try:
        target.execute("PRAGMA auto_vacuum = INCREMENTAL")
        target.execute("PRAGMA journal_mode = OFF")
        count = _fill(source, target, None)
    finally:
        target.close()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    atomic.sync_folder(path.parent)
    return count


def into_memory(source: sqlite3.Connection) -> sqlite3.Connection | None:
    """Copy the readable rows into a database in memory, up to a limit; None if nothing is readable."""
    target = sqlite3.connect(":memory:", isolation_level=None)
    if _fill(source, target, _MAX_MEMORY_BYTES):
        return target
    target.close()
    return None


def _fill(source: sqlite3.Connection, target: sqlite3.Connection, max_bytes: int | None) -> int:
    target.text_factory = text
    migrations.migrate(target, migrations.steps())
    target.execute("BEGIN")
    size = 0
    for table, (columns, key) in _TABLES.items():
        marks = ", ".join("?" * len(columns))
        put = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608
        for row in _rows(source, table, columns, key):
            size += sum(len(cell) for cell in row if isinstance(cell, str | bytes))
            if max_bytes is not None and size > max_bytes:
                break
            target.execute(put, row)
    last = target.execute("SELECT coalesce(max(revision), 0) FROM records").fetchone()[0]
    with suppress(sqlite3.Error, TypeError):
        last = max(last, source.execute("SELECT last FROM revision").fetchone()[0])
    target.execute("UPDATE revision SET last = ?", (last + _REVISIONS_SKIPPED,))
    target.execute("COMMIT")
    found: int = target.execute("SELECT count(*) FROM records").fetchone()[0]
    return found


def _rows(source: sqlite3.Connection, table: str, columns: Sequence[str], key: Sequence[str]) -> Iterator[Any]:
    """Yield rows from both ends up to the first damaged page, then from both ends of each bucket."""
    listed = ", ".join(columns)
    yield from _both_ways(source, f"SELECT {listed} FROM {table}", (), key)  # noqa: S608
    if table == "records":
        for bucket in _buckets(source):
            query = f"SELECT {listed} FROM records WHERE bucket = ?"  # noqa: S608
            yield from _both_ways(source, query, (bucket,), key)


def _both_ways(
    source: sqlite3.Connection, query: str, values: Sequence[object], key: Sequence[str]
) -> Iterator[Sequence[object]]:
    for way in ("", " DESC"):
        order = ", ".join(f"{name}{way}" for name in key)
        rows = None
        try:
            rows = source.execute(f"{query} ORDER BY {order}", values)
            while (row := rows.fetchone()) is not None:
                cells = _cells(row)
                if cells is not None:
                    yield cells
        except sqlite3.Error:
            continue
        else:
            return  # it is intact
        finally:
            if rows is not None:
                rows.close()


def _cells(row: Sequence[object]) -> Sequence[object] | None:
    """Return a row fit for the new table; None if it has no key or another structure."""
    if any(cell is None for cell in row):
        return None
    if len(row) == 4:
        bucket, key, value, revision = row
        if not isinstance(revision, int):
            return None
        return str(bucket), str(key), value if isinstance(value, bytes) else str(value).encode(), revision
    return row


def _buckets(source: sqlite3.Connection) -> list[str]:
    """Return the names of the buckets, searched from both ends, so that those after a damaged page are found, too."""
    found: set[str] = set()
    for sign, way in ((">", ""), ("<", " DESC")):
        last: str | None = None
        with suppress(sqlite3.Error):
            while len(found) < 1000:
                row = source.execute(
                    f"SELECT bucket FROM records {f'WHERE bucket {sign} ?' if last is not None else ''}"  # noqa: S608
                    f" ORDER BY bucket{way} LIMIT 1",
                    () if last is None else (last,),
                ).fetchone()
                if row is None or row[0] == last:
                    break
                last = str(row[0])
                found.add(last)
    return sorted(found)
