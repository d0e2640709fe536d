"""An in-memory copy of a database that cannot be opened in place: its file, and the committed part of its log.

On a read-only filesystem SQLite cannot read a log (WAL) for which there is no index yet; and it reads nothing of a file
whose first bytes were damaged, though all the rest may be whole.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from homed.errors import StoreError
from homed.store import snapshot

MAX_BYTES: Final = 64 << 20
_PAGE: Final = 4096
_HEADER_BYTES: Final = 100
# The constant header fields of every database that homed has made (see SQLite's file format, 1.3).
_CONSTANT: Final = {
    0: b"SQLite format 3\0",
    16: _PAGE.to_bytes(2, "big"),
    20: b"\0\x40\x20\x20",
    44: (4).to_bytes(4, "big"),
    56: (1).to_bytes(4, "big"),
}
_NO_LOG: Final = b"\x01\x01"
_LOG_FLAGS: Final = 18


def open_image(path: Path, *, repair: bool = False) -> sqlite3.Connection:
    """Open a copy in memory; with `repair`, restore the constant header fields first.

    Raises: StoreError, if it is larger than MAX_BYTES or cannot be read.
    """
    try:
        data = _pages(path, repair)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.deserialize(bytes(data))
    except (sqlite3.Error, OverflowError) as error:
        connection.close()
        raise StoreError(f"{path} cannot be read: {error}") from error
    return connection


def _pages(path: Path, repair: bool) -> bytearray:
    log = path.with_name(f"{path.name}-wal")
    sizes = [one.stat().st_size for one in (path, log) if one.exists()]
    if sum(sizes) > MAX_BYTES:
        raise StoreError(f"{path} is too large to be read into memory")
    data = bytearray(path.read_bytes())
    if len(data) < _HEADER_BYTES:
        raise StoreError(f"{path} is no database: it has {len(data)} bytes")
    if repair:
        _repair(data)
    with suppress(FileNotFoundError):
        for number, page in _logged(log):
            end = number * len(page)
            if end > MAX_BYTES:
                break
            data.extend(bytes(max(0, end - len(data))))
            data[end - len(page) : end] = page
    if repair:
        _repair(data)
    data[_LOG_FLAGS : _LOG_FLAGS + 2] = _NO_LOG
    return data


def _repair(data: bytearray) -> None:
    for at, constant in _CONSTANT.items():
        data[at : at + len(constant)] = constant


def _logged(log: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the pages of each complete transaction in the log."""
    open_pages: list[tuple[int, bytes]] = []
    for number, commits, page in snapshot.frames(log):
        open_pages.append((number, page))
        if commits:
            yield from open_pages
            open_pages.clear()
