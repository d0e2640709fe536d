"""Docker's multiplexed log stream taken apart: frames of 8 bytes of head (stream, 0, 0, 0, length) and a payload."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

_HEAD = struct.Struct(">BxxxL")
NAMES = {0: "stdin", 1: "stdout", 2: "stderr"}
# Longer than the engine's own lines (16 KiB a frame, joined): a line without end must not fill the memory.
_LONGEST_LINE = 1024 * 1024


class Line(NamedTuple):
    """A line of a log. `stamp` is the engine's timestamp as it is in the log, or empty."""

    stream: str
    text: bytes
    stamp: bytes = b""


class Lines:
    """Feed it chunks as they come; it gives whole lines, without their ends, whatever the chunks' borders are.

    `tty` streams have no frames: all of it is stdout.
    """

    def __init__(self, *, tty: bool):
        self._tty = tty
        self._pending = b""
        self._partial: dict[int, bytes] = {}

    def feed(self, chunk: bytes) -> list[Line]:
        if self._tty:
            return self._split(1, chunk)
        data = self._pending + chunk if self._pending else chunk
        lines: list[Line] = []
        at, end = 0, len(data)
        while end - at >= 8:
            stream, length = _HEAD.unpack_from(data, at)
            if at + 8 + length > end:
                break
            payload = data[at + 8 : at + 8 + length]
            at += 8 + length
            # Nearly every frame is one whole line; the rest goes the longer way.
            if payload.endswith(b"\n") and stream not in self._partial and payload.find(b"\n") == length - 1:
                lines.append(Line(NAMES.get(stream, "stdout"), payload[:-1].removesuffix(b"\r")))
            else:
                lines += self._split(stream, payload)
        self._pending = data[at:]
        return lines

    def finish(self) -> Iterator[Line]:
        """What was left without a line's end."""
        for stream, text in self._partial.items():
            if text:
                yield Line(NAMES.get(stream, "stdout"), text)
        self._partial.clear()

    def _split(self, stream: int, payload: bytes) -> list[Line]:
        name = NAMES.get(stream, "stdout")
        *whole, rest = (self._partial.pop(stream, b"") + payload).split(b"\n")
        lines = [Line(name, text.removesuffix(b"\r")) for text in whole]
        if len(rest) > _LONGEST_LINE:
            lines.append(Line(name, rest))
        elif rest:
            self._partial[stream] = rest
        return lines
