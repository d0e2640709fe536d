"""What an archive may take, counted in what really comes out of it."""

from typing import NamedTuple

from homed.errors import JobError

_ALWAYS = 64 << 20


class Limits(NamedTuple):
    """`size` in bytes, unpacked; `ratio` is of that to the archive's own size, from 64 MiB on; `depth` counts folders;
    `name` is a path's length in bytes.
    """

    size: int
    members: int
    ratio: int = 200
    depth: int = 64
    name: int = 4096


def unsafe(why: str) -> JobError:
    return JobError(f"the archive is not safe: {why}", code="UNSAFE_ARCHIVE")


def bad(why: str) -> JobError:
    return JobError(f"the archive cannot be read: {why}", code="BAD_ARCHIVE")


def shown(name: str) -> str:
    """For a message: what an archive says of itself is neither short nor printable."""
    text = name.encode("utf-8", "replace").decode()
    return repr(text if len(text) <= 100 else f"{text[:99]}…")


class Budget:
    """`packed` is the archive's own size in bytes."""

    def __init__(self, limits: Limits, packed: int):
        self._limits = limits
        self._most = min(limits.size, max(_ALWAYS, packed * limits.ratio))
        self._size = self.members = 0

    def member(self) -> None:
        self.members += 1
        if self.members > self._limits.members:
            raise unsafe(f"it holds more than {self._limits.members} members")

    def data(self, length: int) -> None:
        self._size += length
        if self._size <= self._most:
            return
        if self._most < self._limits.size:
            raise unsafe(f"it unpacks to more than {self._limits.ratio} times its size")
        raise unsafe(f"it unpacks to more than {self._limits.size} bytes")
