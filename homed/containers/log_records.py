"""The engine's log records, of at most 16 KiB and with timestamps, joined into lines."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from homed.containers.frames import NAMES, Line

_HEAD = struct.Struct(">BxxxL")
# The engine splits a line after so many bytes, and gives each piece the timestamp of the first one.
PIECE_BYTES = 16 * 1024
MAX_LINE_BYTES = 1024 * 1024


class _Open(NamedTuple):
    """An incomplete line; `left_out` counts the bytes beyond its limit."""

    stamp: bytes
    text: bytes
    left_out: int = 0


class LogRecords:
    """Joins chunks of a log into whole lines without line ends. `records` counts the engine's records.

    `tty` streams have no frames: their records are recognized by their timestamps.
    """

    def __init__(self, *, tty: bool):
        self._tty = tty
        self._pending = b""
        self._open: dict[int, _Open] = {}
        self.records = 0

    @property
    def unfinished(self) -> list[bytes]:
        """The timestamps of incomplete lines."""
        return [line.stamp for line in self._open.values()]

    def feed(self, chunk: bytes) -> list[Line]:
        return self._feed_terminal(chunk) if self._tty else self._feed_frames(chunk)

    def finish(self) -> Iterator[Line]:
        """Return the remaining lines that have no line end."""
        if self._tty and self._pending:
            yield self._terminal_line(self._pending)
            self._pending = b""
        for stream, line in self._open.items():
            yield _closed(stream, line)
        self._open.clear()

    def _feed_frames(self, chunk: bytes) -> list[Line]:
        data = self._pending + chunk if self._pending else chunk
        lines: list[Line] = []
        at, end = 0, len(data)
        while end - at >= 8:
            stream, length = _HEAD.unpack_from(data, at)
            if at + 8 + length > end:
                break
            self._take(lines, stream, data[at + 8 : at + 8 + length])
            at += 8 + length
        self._pending = data[at:]
        return lines

    def _take(self, lines: list[Line], stream: int, payload: bytes) -> None:
        self.records += 1
        stamp, text = split_stamp(payload)
        known = self._open.pop(stream, None)
        if known is not None and known.stamp != stamp:
            lines.append(_closed(stream, known))
            known = None
        if known is None and text.endswith(b"\n"):
            name = NAMES.get(stream, "stdout")
            lines += [Line(name, one.removesuffix(b"\r"), stamp) for one in text[:-1].split(b"\n")]
            return
        line = _longer(known or _Open(stamp, b""), text.removesuffix(b"\n"))
        # A short piece without a line end is a program's last output.
        if text.endswith(b"\n") or len(text) < PIECE_BYTES:
            lines.append(_closed(stream, line))
        else:
            self._open[stream] = line

    def _feed_terminal(self, chunk: bytes) -> list[Line]:
        *whole, rest = (self._pending + chunk).split(b"\n")
        lines = [self._terminal_line(raw) for raw in whole]
        # It still contains timestamps of pieces; the excess is counted with the whole line.
        if len(rest) > 2 * MAX_LINE_BYTES:
            lines.append(self._terminal_line(rest))
            rest = b""
        self._pending = rest
        return lines

    def _terminal_line(self, raw: bytes) -> Line:
        stamp, text = split_stamp(raw)
        self.records += 1
        line, at, head = _Open(stamp, b""), 0, stamp + b" "
        while stamp and text[at + PIECE_BYTES : at + PIECE_BYTES + len(head)] == head:
            line = _longer(line, text[at : at + PIECE_BYTES])
            at += PIECE_BYTES + len(head)
            self.records += 1
        return _closed(1, _longer(line, text[at:]))


def split_stamp(payload: bytes) -> tuple[bytes, bytes]:
    """Split the engine's timestamp from a record; the stamp is empty if it has none."""
    stamp, space, text = payload.partition(b" ")
    if space and 20 <= len(stamp) <= 35 and stamp[4:5] == b"-" and stamp[10:11] == b"T":
        return stamp, text
    return b"", payload


def _longer(line: _Open, text: bytes) -> _Open:
    room = MAX_LINE_BYTES - len(line.text)
    return _Open(line.stamp, line.text + text[:room], line.left_out + max(0, len(text) - room))


def _closed(stream: int, line: _Open) -> Line:
    text = line.text.removesuffix(b"\r")
    if line.left_out:
        text += b" [homed: %d bytes of this line are left out]" % line.left_out
    return Line(NAMES.get(stream, "stdout"), text, line.stamp)
