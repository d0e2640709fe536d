"""What homed and the spawner say to each other: MessagePack, each message after its length in four bytes."""

from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")
_LENGTH = 4
_encoder = msgspec.msgpack.Encoder()


class Ids(msgspec.Struct, frozen=True, array_like=True):
    """As whom a job runs."""

    user: int
    group: int
    groups: tuple[int, ...] = ()


class File(msgspec.Struct, frozen=True, array_like=True):
    path: str
    content: bytes
    mode: int


class Start(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Start an attempt, whose marks and output are in `folder`. `place` is a folder to be made for it, and `home`
    that or one in it; `memory` is in bytes, 0 for no limit. `becomes`: the program itself becomes the user of `ids`.
    """

    key: int
    id: str
    attempt: int
    folder: str
    place: str
    home: str
    files: tuple[File, ...]
    argv: tuple[str, ...]
    environment: dict[str, str]
    working_directory: str
    stdin: str
    ids: Ids | None = None
    memory: int = 0
    becomes: bool = False


class Begun(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """`started` in clock ticks since the boot."""

    key: int
    pid: int
    started: int


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """`end` is what stands in the mark (marks.py); `left`: something lies in the attempt's place still."""

    key: int
    end: str
    left: bool


Said = Begun | Ended


def frame(message: Start | Said) -> bytes:
    data = _encoder.encode(message)
    return len(data).to_bytes(_LENGTH, "big") + data


class Frames(Generic[T]):
    """Cuts what comes in into messages."""

    def __init__(self, decoder: "msgspec.msgpack.Decoder[T]"):
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= _LENGTH:
            end = at + _LENGTH + int.from_bytes(self._buffer[at : at + _LENGTH], "big")
            if len(self._buffer) < end:
                break
            yield self._decoder.decode(bytes(self._buffer[at + _LENGTH : end]))
            at = end
        del self._buffer[:at]
