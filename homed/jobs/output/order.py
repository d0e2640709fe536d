"""The order of what came on two streams, and the file that keeps it: a head, then a record for each run of bytes.

A position counts the bytes of both streams in that order. What is in order stays there, whatever comes after it.
"""

import struct
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

_HEAD = struct.Struct("<8sQQQ")
_MAGIC = b"homed-o1"
_RECORD = struct.Struct("<Q")
_TAGS = (0x6F, 0x65)  # "o" and "e": a record of zeros, as a power cut leaves them, is none
HEAD_SIZE = _HEAD.size
RECORD_SIZE = _RECORD.size


class Stream(IntEnum):
    STDOUT = 0
    STDERR = 1

    @property
    def word(self) -> str:
        return self.name.lower()


class Run(NamedTuple):
    """So many bytes of a stream, from `start` in it."""

    stream: Stream
    start: int
    length: int


class Head(NamedTuple):
    """What is known of all of it: bytes dropped of each stream, and whether anything may still come."""

    dropped: tuple[int, int] = (0, 0)
    finished: bool = False


class Kept(NamedTuple):
    """What an order file says: its records as (stream, length)."""

    head: Head
    records: Sequence[tuple[Stream, int]]


def encode_head(head: Head) -> bytes:
    return _HEAD.pack(_MAGIC, *head.dropped, head.finished)


def encode(stream: Stream, length: int) -> bytes:
    return _RECORD.pack(length << 8 | _TAGS[stream])


def decode(data: bytes) -> Kept:
    """As far as it is whole: a torn head is none, and nothing counts from the first torn or wrong record on."""
    if len(data) < HEAD_SIZE or not data.startswith(_MAGIC):
        return Kept(Head(), [])
    _, stdout, stderr, finished = _HEAD.unpack_from(data)
    records: list[tuple[Stream, int]] = []
    whole = HEAD_SIZE + (len(data) - HEAD_SIZE) // RECORD_SIZE * RECORD_SIZE
    for (value,) in _RECORD.iter_unpack(memoryview(data)[HEAD_SIZE:whole]):
        tag, length = value & 0xFF, value >> 8
        if tag not in _TAGS or not length:
            break
        records.append((Stream(_TAGS.index(tag)), length))
    return Kept(Head((stdout, stderr), bool(finished)), records)


def within(records: Sequence[tuple[Stream, int]], sizes: Sequence[int]) -> Sequence[tuple[Stream, int]]:
    """The records whose bytes files of these sizes can have: a power cut may keep one without the other."""
    left = list(sizes)
    for number, (stream, length) in enumerate(records):
        left[stream] -= length
        if left[stream] < 0:
            return records[:number]
    return records


class Order:
    """The order in memory: neighbouring runs of one stream are one."""

    def __init__(self, records: Sequence[tuple[Stream, int]] = ()):
        self._ends = array("Q")
        self._starts = array("Q")
        self._streams = bytearray()
        self.lengths = [0, 0]
        for stream, length in records:
            self.add(stream, length)

    @property
    def total(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def runs(self) -> int:
        return len(self._ends)

    def add(self, stream: Stream, length: int) -> None:
        if self._streams and self._streams[-1] == stream:
            self._ends[-1] += length
        else:
            self._starts.append(self.lengths[stream])
            self._ends.append(self.total + length)
            self._streams.append(stream)
        self.lengths[stream] += length

    def at(self, position: int) -> Run | None:
        """What comes from that position on, of one stream. None where nothing does."""
        if not 0 <= position < self.total:
            return None
        number = bisect_right(self._ends, position)
        begin = self._ends[number - 1] if number else 0
        inside = position - begin
        return Run(Stream(self._streams[number]), self._starts[number] + inside, self._ends[number] - position)
