"""The database as a file: a copy of it while homed writes, and its schema's version without opening it.

A file that SQLite has open in this process is never read past SQLite here: closing it would drop SQLite's locks.
"""

import os
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from homed.errors import StoreError

FULL = "DISK_FULL"
_PATIENCE = 60.0
_MAGIC = b"SQLite format 3\0"
_USER_VERSION = 60  # where the header of the database, and so its first page, holds it
_WAL_HEADER, _FRAME_HEADER = 32, 24
# The last bit says in which order of bytes the checksums were made.
_WAL_MAGIC = (0x377F0682, 0x377F0683)


def copy(source: Path, target: Path) -> int:
    """Copy the database into `target`, which must not exist, as it is at one moment. Returns its schema's version.

    All in one step: it reads one state of a database in WAL mode and holds no writer up, where a copy in pieces would
    begin anew with every write. StoreError, with the code FULL where the disk is, leaves half a copy at most.
    """
    # Made here for the mode; an empty file is a new database to SQLite.
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with closing(_connect(source, "mode=ro")) as reader, closing(sqlite3.connect(target)) as writer:
            writer.execute("PRAGMA journal_mode = OFF")  # half a copy is thrown away, and a journal is one file more
            reader.backup(writer, progress=_until(time.monotonic() + _PATIENCE))
        # It has no log, and is given none by being looked at.
        with closing(_connect(target, "mode=ro&immutable=1")) as copied:
            damage = copied.execute("PRAGMA quick_check(1)").fetchone()[0]
            version: int = copied.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        raise StoreError(f"{source} cannot be copied: {error}", code=FULL if full else None) from error
    if damage != "ok":
        raise StoreError(f"{source} is damaged ({damage})")
    return version


def _connect(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=10)


def _until(end: float) -> Callable[[int, int, int], None]:
    """Have a copy give up that is held up all the while."""

    def look(status: int, remaining: int, total: int) -> None:
        if remaining and time.monotonic() > end:
            raise StoreError("the database is locked by another process")

    return look


def schema_of(path: Path) -> int | None:
    """The version of the schema in a database that no one has open; None where there is none that can be read.

    Reads the file and the log (WAL) that a homed which was killed has left, and creates and changes nothing.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError:
        return None
    if len(header) < 100 or not header.startswith(_MAGIC):
        return None
    version = _version(header)
    try:
        with path.with_name(f"{path.name}-wal").open("rb") as log:
            logged = _logged_version(log, version)
    except OSError:
        return version
    return version if logged is None else logged


def _version(page: bytes) -> int:
    return int.from_bytes(page[_USER_VERSION : _USER_VERSION + 4], "big")


def _logged_version(log: BinaryIO, known: int) -> int | None:
    """The version in the last committed first page of a log; None where the log has no other than `known`."""
    head = log.read(_WAL_HEADER)
    if len(head) < _WAL_HEADER:
        return None
    magic, _, size, _, salt1, salt2 = struct.unpack(">6I", head[:24])
    if magic not in _WAL_MAGIC or size < 512 or size > 65536:
        return None
    # Nearly always no frame says anything new, and the sums, which are slow to make, need not be looked at.
    if all(found == known for found in _said(log, size, (salt1, salt2))):
        return None
    order = ">" if magic & 1 else "<"
    committed, written = None, None
    for page, commit, content in _whole_frames(log, head, size, order):
        if page == 1:
            written = _version(content)
        if commit:
            committed = written
    return committed


def frames(log: Path) -> Iterator[tuple[int, bool, bytes]]:
    """Yield the frames of a log up to the first torn or outdated one: (page number, commits, content)."""
    with log.open("rb") as file:
        head = file.read(_WAL_HEADER)
        if len(head) < _WAL_HEADER:
            return
        magic, _, size, *_ = struct.unpack(">6I", head[:24])
        if magic in _WAL_MAGIC and 512 <= size <= 65536:
            yield from _whole_frames(file, head, size, ">" if magic & 1 else "<")


def _said(log: BinaryIO, size: int, salts: tuple[int, int]) -> Iterator[int]:
    """The version in each first page of the log, whether or not it was committed."""
    at = _WAL_HEADER
    while True:
        log.seek(at)
        head = log.read(_FRAME_HEADER + _USER_VERSION + 4)
        if len(head) < _FRAME_HEADER + _USER_VERSION + 4 or struct.unpack(">2I", head[8:16]) != salts:
            return
        if head[:4] == b"\0\0\0\1":
            yield _version(head[_FRAME_HEADER:])
        at += _FRAME_HEADER + size


def _whole_frames(log: BinaryIO, head: bytes, size: int, order: str) -> Iterator[tuple[int, bool, bytes]]:
    """Each frame up to the first that is torn or of an older log: (page, whether it commits, content)."""
    sums = _sum(head[:24], (0, 0), order)
    if sums != struct.unpack(">2I", head[24:32]):
        return
    log.seek(_WAL_HEADER)
    while len(frame := log.read(_FRAME_HEADER + size)) == _FRAME_HEADER + size:
        page, commit = struct.unpack(">2I", frame[:8])
        sums = _sum(frame[_FRAME_HEADER:], _sum(frame[:8], sums, order), order)
        if frame[8:16] != head[16:24] or sums != struct.unpack(">2I", frame[16:24]):
            return
        yield page, commit != 0, frame[_FRAME_HEADER:]


def _sum(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    """SQLite's checksum of a log, over pairs of words and on from the one before."""
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
