"""Open a board's intact database: check it, migrate it, and distinguish a lost one from a first start.

A marker beside the database records that homed has committed to it: a marker without the database means that it was
lost. Everything here blocks.
"""

import logging
import os
import sqlite3
import stat
import time
from pathlib import Path
from typing import Final

from homed import atomic
from homed.errors import StoreError
from homed.store import migrations, salvage

log = logging.getLogger(__name__)
_MARKER_TEXT: Final = b"homed has written its database here once. If homed.db is missing, it was lost.\n"
# SQLite treats a shorter file as a new database.
_MIN_BYTES: Final = 512
_MAX_IDLE_LOG_BYTES = 16 << 20
# Rewriting this much takes about a second on slow flash, and needs as much space again.
_MAX_REWRITTEN_BYTES = 64 << 20
DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# Errors of SQLite or the disk after which the data may still be readable.
_NOT_WRITABLE: Final = (
    sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_PERM,
)  # fmt: skip


class DamagedError(StoreError):
    """The database exists, but is damaged."""


class NotWritableError(StoreError):
    """The database cannot be opened for writing: the filesystem is read-only or full, or the disk fails."""


class MissingError(StoreError):
    """The database existed before, and is now missing or empty."""

    code = "STATE_MISSING"


def marker(path: Path) -> Path:
    """Return the path of the marker which records that this database existed."""
    return path.with_name(f"{path.name}.initialized")


def open_whole(path: Path) -> sqlite3.Connection:
    """Open, check and migrate a database; create it at the first start. Raises: StoreError."""
    finish_salvage(path)
    if is_missing(path):
        raise MissingError(
            f"{path} is missing or empty, though homed has written it once: restore a backup, put the file back, "
            "or start afresh with homed state reset"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    except (sqlite3.Error, OSError) as error:
        raise explained(path, error) from error
    try:
        _prepare(path, connection)
    except (sqlite3.Error, OSError) as error:
        connection.close()
        raise explained(path, error) from error
    except BaseException:
        connection.close()
        raise
    _mark(path)
    return connection


def is_missing(path: Path) -> bool:
    """Return whether the database is lost. Only the file is checked, because SQLite would create a new one."""
    if not marker(path).exists():
        return False
    try:
        there = path.stat()
        # A directory in its place is something else, however small.
        return stat.S_ISREG(there.st_mode) and there.st_size < _MIN_BYTES
    except FileNotFoundError:
        return True
    except OSError:
        return False


def is_writable(path: Path) -> bool:
    """Return whether the database's directory is writable; cheap enough for frequent calls."""
    probe = path.with_name(f".{path.name}.probe")
    try:
        atomic.write(probe, b"?")
        probe.unlink()
    except OSError:
        return False
    return True


def set_aside(path: Path, kind: str = "damaged") -> Path | None:
    """Move the database and its files into a directory beside it; return None if there was none. Raises: OSError.

    The marker is moved first: files left by a power cut in between are set aside again.
    """
    marker(path).unlink(missing_ok=True)
    parts = [one for one in _parts(path) if os.path.lexists(one)]
    if not parts:
        return None
    aside = new_aside(path, kind)
    for one in parts:
        os.rename(one, aside / one.name)
    atomic.sync_folder(aside)
    atomic.sync_folder(path.parent)
    return aside


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    path.chmod(0o600)
    connection.text_factory = salvage.text
    if not pages(connection, "page_count"):  # on a non-empty database it would be a write without effect
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    _write_ahead(connection)
    connection.execute(f"PRAGMA journal_size_limit = {_MAX_IDLE_LOG_BYTES}")
    connection.execute("PRAGMA synchronous = FULL")
    _check_version(path, connection)
    check(path, connection)
    _migrate(connection)
    _let_shrink(connection)


def _migrate(connection: sqlite3.Connection) -> None:
    """NotWritableError if the disk does not take it now: what an older homed has written can be read all the same."""
    try:
        migrations.migrate(connection, migrations.steps())
    except StoreError as error:
        if getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF in _NOT_WRITABLE:
            raise NotWritableError(error.message) from error
        raise


def _check_version(path: Path, connection: sqlite3.Connection) -> None:
    """Check the schema version: one that no version of homed can have written means damage, not a newer homed."""
    version = pages(connection, "user_version")
    has_tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0
    if version > max(migrations.steps()) + migrations.MAX_AHEAD or (version == 0 and has_tables):
        raise DamagedError(f"{path} is damaged (schema {version}): restore it from a backup")


def check(path: Path, connection: sqlite3.Connection) -> None:
    damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage == "ok" and salvage.has_other_tables(connection):
        damage = "its tables differ from those that homed creates"
    if damage != "ok":
        raise DamagedError(f"{path} is damaged ({' '.join(str(damage).split())}): restore it from a backup")


def _mark(path: Path) -> None:
    """Write the marker after the first durable commit; if the disk refuses it, the next start tries again."""
    if marker(path).exists():
        return
    try:
        atomic.write(marker(path), _MARKER_TEXT)
    except OSError as error:
        log.warning("Cannot write %s: %s", marker(path), error.strerror)


def explained(path: Path, error: sqlite3.Error | OSError) -> StoreError:
    said = f"{path} cannot be opened: {error}"
    if isinstance(error, OSError):
        return NotWritableError(said)
    number = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if number in DAMAGED:
        return DamagedError(f"{path} is damaged ({error}): restore it from a backup")
    return NotWritableError(said) if number in _NOT_WRITABLE else StoreError(said)


def finish_salvage(path: Path, aside: Path | None = None) -> None:
    """Complete a salvage that was interrupted between its two renames."""
    saved = salvage_file(path)
    if os.path.lexists(path) or not saved.exists():
        return
    try:
        aside = aside or new_aside(path)
        for one in _parts(path):
            # A remaining log would be taken for the new database's.
            if os.path.lexists(one):
                os.rename(one, aside / one.name)
        os.rename(saved, path)
        atomic.sync_folder(path.parent)
    except OSError as error:
        raise explained(path, error) from error


def new_aside(path: Path, kind: str = "damaged") -> Path:
    base = f"{path.name}.{kind}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    for number in range(1, 1000):
        aside = path.with_name(base if number == 1 else f"{base}-{number}")
        try:
            aside.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return aside
    raise FileExistsError(base)


def salvage_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.salvaged")


def _parts(path: Path) -> list[Path]:
    return [path, *(path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm", "-journal"))]


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Set WAL mode, with retries: if two processes open a new database, SQLite refuses one without waiting."""
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
    """Rewrite a small database of an older version once, so that it can release space to the disk.

    If that fails (no space, another process has it open), it works as before: the space of deleted records is reused.
    """
    if connection.execute("PRAGMA auto_vacuum").fetchone()[0]:
        return
    used = pages(connection, "page_count") - pages(connection, "freelist_count")
    if used * pages(connection, "page_size") > _MAX_REWRITTEN_BYTES:
        return
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("VACUUM")
    except sqlite3.Error as error:
        log.warning("Cannot make the state's database able to shrink: %s", error)


def pages(connection: sqlite3.Connection, pragma: str) -> int:
    value: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
    return value
