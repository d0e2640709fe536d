"""Output on its way to the server: a file of UTF-8, so that nothing waits in memory, and a restart loses nothing."""

import asyncio
import codecs
import os
from pathlib import Path

PIECE = 32 * 1024


class Spool:
    """One stream. Its `changed` is set when there is more, or the end. `limit` is in bytes: what comes after is counted
    and dropped.
    """

    def __init__(self, path: Path, limit: int, changed: asyncio.Event):
        self._path = path
        self._limit = limit
        self._changed = changed
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.size = path.stat().st_size if path.exists() else 0
        self.sent = 0
        self._dropped = 0

    async def write(self, data: bytes) -> None:
        """In its order; what is no UTF-8 becomes U+FFFD. OSError."""
        await self._append(self._decoder.decode(data).encode())

    async def finish(self) -> None:
        await self._append(self._decoder.decode(b"", final=True).encode())
        if self._dropped:
            note = f"\n[output cut: {self._dropped} bytes of {self._path.name} were dropped]\n".encode()
            await self._append(note, anyway=True)
        self._changed.set()

    async def _append(self, data: bytes, *, anyway: bool = False) -> None:
        room = 0 if self._dropped else max(0, self._limit - self.size)
        kept = data if anyway else data[:room]
        # Not in the middle of a character.
        kept = kept[: len(kept) - _incomplete(kept)] if len(kept) < len(data) else kept
        self._dropped += len(data) - len(kept)
        if kept:
            await asyncio.to_thread(self._write, kept)
            self.size += len(kept)
            self._changed.set()

    def _write(self, data: bytes) -> None:
        with open(self._path, "ab", buffering=0, opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

    @property
    def waiting(self) -> int:
        """Bytes that are not sent yet."""
        return self.size - self.sent

    async def piece(self) -> str:
        """What is to be sent next, ending between two characters."""
        data = await asyncio.to_thread(self._read, self.sent)
        return data[: len(data) - _incomplete(data)].decode(errors="replace")

    def _read(self, start: int) -> bytes:
        with open(self._path, "rb") as file:
            file.seek(start)
            return file.read(PIECE)


def _incomplete(data: bytes) -> int:
    """How many bytes at the end are the beginning of a character."""
    tail = data[-3:]
    return len(tail) - codecs.utf_8_decode(tail, "replace", False)[1]
