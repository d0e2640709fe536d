"""The manifest's lines while they are not in the archive: in a file, since there may be millions."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, Final

from homed.backups.archive.manifest import Total

_PIECE: Final = 1 << 20


class Spool:
    """A file of lines, made by `open` and gone after `close`; `scratch` gives others beside it, without a name.

    `length` is in bytes. OSError.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file: BinaryIO | None = None
        self._pending: list[bytes] = []
        self._waiting = 0
        self._members = self._size = 0
        self._written = 0

    def open(self) -> None:
        self._path.unlink(missing_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "w+b", buffering=0)
        self._path.unlink()  # it lives as long as it is open: whatever ends this process, it is not left behind

    def close(self) -> None:
        self._pending.clear()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def scratch(self) -> IO[bytes]:
        return tempfile.TemporaryFile(dir=self._path.parent)

    def add(self, line: bytes, size: int) -> None:
        self._pending.append(line)
        self._waiting += len(line)
        self._members += 1
        self._size += size
        if self._waiting >= _PIECE:
            self._flush()

    @property
    def length(self) -> int:
        return self._written + self._waiting

    @property
    def total(self) -> Total:
        """Without the digest."""
        return Total(self._members, self._size, "")

    def digest(self, first: bytes) -> str:
        """The SHA-256 of a first line and of all lines here."""
        found = hashlib.sha256(first)
        for piece in self.pieces():
            found.update(piece)
        return found.hexdigest()

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        self._flush()
        at = start
        while piece := os.pread(self._descriptor(), _PIECE, at):
            at += len(piece)
            yield piece

    def lines(self, start: int = 0) -> Iterator[bytes]:
        rest = b""
        for piece in self.pieces(start):
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                yield line + b"\n"

    def _flush(self) -> None:
        data = b"".join(self._pending)
        view = memoryview(data)
        while view:
            count = os.pwrite(self._descriptor(), view, self._written)
            self._written += count
            view = view[count:]
        self._pending.clear()
        self._waiting = 0

    def _descriptor(self) -> int:
        assert self._file is not None, "the spool is not open"
        return self._file.fileno()
