"""The best substitute for a damaged, missing or read-only database, so that its containers are still maintained.

Everything here blocks.
"""

import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from homed import atomic
from homed.errors import StoreError
from homed.store import migrations, opening, salvage
from homed.store.base import Record
from homed.store.image import open_image

log = logging.getLogger(__name__)
_WRITE_VERSION: Final = 18
_MAX_SEEN: Final = 10_000


class Standing(StrEnum):
    """The state of the database. READ_ONLY is read from the disk and refuses writes; for MISSING, DAMAGED and
    UNREADABLE an empty database in memory is used, and no write to it may be acknowledged.
    """

    WHOLE = "whole"
    READ_ONLY = "read_only"
    MISSING = "missing"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"


class Opened(NamedTuple):
    connection: sqlite3.Connection
    standing: Standing
    message: str = ""


class Seen(NamedTuple):
    """The result of a read-only inspection of a database, with the records of some buckets."""

    standing: Standing
    message: str
    records: Mapping[str, Sequence[Record]]


def look(path: Path, buckets: Sequence[str]) -> Seen:
    """Inspect a database read-only, even if homed has it open; one that never existed counts as intact and empty."""
    if opening.is_missing(path):
        return Seen(Standing.MISSING, f"{path} is missing or empty: restore a backup, or homed state reset", {})
    if not os.path.lexists(path) and (not path.parent.exists() or os.access(path.parent, os.X_OK)):
        return Seen(Standing.WHOLE, "", {})
    trouble = ""
    # Otherwise SQLite would create a log if no other process has the database open.
    ways = (_by_sqlite, _from_memory) if path.with_name(f"{path.name}-wal").exists() else (_without_log, _by_sqlite)
    for connect in ways:
        try:
            with closing(connect(path)) as connection:
                connection.text_factory = salvage.text
                opening.check(path, connection)
                return Seen(Standing.WHOLE, _kept_damage(path), {one: _records(connection, one) for one in buckets})
        except opening.DamagedError as error:
            return Seen(Standing.DAMAGED, error.message, {})
        except (sqlite3.Error, StoreError, OSError) as error:
            trouble = str(error)
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in opening.DAMAGED:
                return Seen(Standing.DAMAGED, f"{path} is damaged ({error})", {})
    return Seen(Standing.UNREADABLE, f"{path}: {trouble}", {})


def _records(connection: sqlite3.Connection, bucket: str) -> list[Record]:
    rows = connection.execute(
        "SELECT key, value, revision FROM records WHERE bucket = ? ORDER BY key LIMIT ?", (bucket, _MAX_SEEN)
    )
    return [Record(str(key), value if isinstance(value, bytes) else b"", revision) for key, value, revision in rows]


def open_somehow(path: Path) -> Opened:
    """Open the database or its best substitute. Raises: StoreError, if it is too new or another process blocks it."""
    try:
        return Opened(opening.open_whole(path), Standing.WHOLE, _kept_damage(path))
    except opening.MissingError as error:
        return Opened(_stand_in(), Standing.MISSING, error.message)
    except opening.DamagedError as error:
        return _salvaged(path, error.message)
    except opening.NotWritableError as error:
        if _seems_newer(path):
            return _salvaged(path, f"{path} is damaged: restore it from a backup")
        return _read_only(path, error.message)


def open_again(path: Path) -> Opened:
    """Open a database again that was open before: on any error a substitute is used."""
    try:
        return open_somehow(path)
    except StoreError as error:
        return Opened(_stand_in(), Standing.UNREADABLE, error.message)


def start_anew(path: Path, stand_in: sqlite3.Connection) -> sqlite3.Connection:
    """Write the stand-in as the board's database, setting the old files aside. Raises: StoreError."""
    try:
        opening.set_aside(path, "lost" if opening.is_missing(path) else "damaged")
        connection = opening.open_whole(path)
        stand_in.backup(connection)
    except (sqlite3.Error, OSError) as error:
        raise opening.explained(path, error) from error
    return connection


def _seems_newer(path: Path) -> bool:
    """Return whether a header byte demands a later SQLite for writing, which homed's databases never do."""
    try:
        with path.open("rb") as file:
            version = file.read(_WRITE_VERSION + 1)[_WRITE_VERSION:]
    except OSError:
        return False
    return version not in (b"", b"\1", b"\2") and opening.is_writable(path)


def _read_only(path: Path, why: str) -> Opened:
    """Open the database on the disk read-only."""
    for connect in (_by_sqlite, _without_log, _from_memory):
        try:
            connection = connect(path)
        except (sqlite3.Error, StoreError, OSError) as error:
            log.info("Cannot read %s by %s: %s", path, connect.__name__.strip("_"), error)
            continue
        try:
            connection.text_factory = salvage.text
            connection.execute("PRAGMA query_only = ON")
            connection.execute("SELECT last FROM revision").fetchone()
            opening.check(path, connection)
        except (sqlite3.Error, StoreError) as error:
            saved = salvage.into_memory(connection)
            connection.close()
            if saved is not None:
                saved.execute("PRAGMA query_only = ON")
                return Opened(saved, Standing.READ_ONLY, f"{why}; and it is damaged ({error})")
        else:
            return Opened(connection, Standing.READ_ONLY, why)
    return Opened(_stand_in(), Standing.UNREADABLE, why)


def _by_sqlite(path: Path) -> sqlite3.Connection:
    return _uri(path, "mode=ro")


def _without_log(path: Path) -> sqlite3.Connection:
    """Open a database without a log on a read-only filesystem, on which SQLite cannot create one."""
    log_file = path.with_name(f"{path.name}-wal")
    if log_file.exists() and log_file.stat().st_size:
        raise StoreError(f"{log_file} is not empty")
    return _uri(path, "mode=ro&immutable=1")


def _from_memory(path: Path) -> sqlite3.Connection:
    return open_image(path)


def _uri(path: Path, how: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=10, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _salvaged(path: Path, why: str) -> Opened:
    """Salvage the readable rows of a damaged database into a new one, and keep the damaged one beside it."""
    log.error("%s", why)
    source = _damaged_source(path)
    if source is None:
        return Opened(_stand_in(), Standing.DAMAGED, why)
    try:
        try:
            count = salvage.into_file(source, opening.salvage_file(path))
        except (sqlite3.Error, OSError) as error:
            saved = salvage.into_memory(source)
            if saved is None:
                return Opened(_stand_in(), Standing.DAMAGED, why)
            saved.execute("PRAGMA query_only = ON")
            return Opened(saved, Standing.READ_ONLY, f"{why}; what can be read cannot be written anew: {error}")
    finally:
        source.close()
    if not count:
        opening.salvage_file(path).unlink(missing_ok=True)
        return Opened(_stand_in(), Standing.DAMAGED, why)
    try:
        _take_place(path)
        return Opened(opening.open_whole(path), Standing.WHOLE, _kept_damage(path))
    except (OSError, StoreError) as error:
        return Opened(_stand_in(), Standing.UNREADABLE, f"{why}; {error}")


def _damaged_source(path: Path) -> sqlite3.Connection | None:
    """Return a connection that can read some of a damaged database."""
    for connect in (_as_it_is, _repaired):
        with suppress(sqlite3.Error, StoreError):
            return connect(path)
    return None


def _as_it_is(path: Path) -> sqlite3.Connection:
    connection = _by_sqlite(path)
    try:
        connection.text_factory = salvage.text
        if salvage.has_other_tables(connection):
            raise StoreError(f"the tables of {path} are damaged")
        connection.execute("SELECT bucket FROM records LIMIT 1").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _repaired(path: Path) -> sqlite3.Connection:
    connection = open_image(path, repair=True)
    try:
        connection.text_factory = salvage.text
        salvage.describe_tables(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _take_place(path: Path) -> None:
    """Replace the damaged database by the salvaged one. Raises: OSError.

    `finish_salvage` completes it after a power cut: the damaged database is moved first, so its absence shows the cut.
    """
    aside = opening.new_aside(path)
    os.rename(path, aside / path.name)
    atomic.sync_folder(aside)
    atomic.sync_folder(path.parent)
    opening.finish_salvage(path, aside)


def _kept_damage(path: Path) -> str:
    """Return a note on a damaged database kept beside the new one, as long as it exists."""
    kept = sorted(one.name for one in path.parent.glob(f"{path.name}.damaged-*"))
    if not kept:
        return ""
    return (
        "the database was damaged, and what could be read of it is in force: compare what is there with what should "
        f"be, then remove {path.parent / kept[-1]}"
    )


def _stand_in() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.text_factory = salvage.text
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # goes with it into the file that it becomes
    migrations.migrate(connection, migrations.steps())
    return connection
