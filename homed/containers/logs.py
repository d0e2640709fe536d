"""A container's log: what was asked for turned into the engine's parameters, and its stream into lines."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from homed import clock
from homed.containers.frames import Line, Lines
from homed.containers.model import Container
from homed.containers.streams import Streams
from homed.errors import BusyError, FieldError, ValidationError

_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MOST_LINES = 100_000
# An answer costs several times its bytes while it is made, and homed has 256 MiB in all.
_MOST_BYTES = 8 * 1024 * 1024
_MOST_READS = 2


class Wish(NamedTuple):
    """`tail` lines at most from the end (None: all); `since` a moment; `follow` for what comes after."""

    tail: int | None = 100
    since: datetime | None = None
    timestamps: bool = False
    follow: bool = False


def parse_since(text: str, moment: datetime) -> datetime:
    """Unix seconds, RFC 3339, or an age (`90s`, `10m`, `2h`, `1d`). ValidationError."""
    age = _AGE.fullmatch(text)
    try:
        if age:
            return moment - timedelta(seconds=float(age[1]) * _SECONDS[age[2]])
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return datetime.fromtimestamp(float(text), UTC)
        return clock.parse(text)
    except (ValueError, OverflowError, OSError) as error:
        message = "must be Unix seconds, RFC 3339, or an age such as 10m"
        raise ValidationError([FieldError("since", message)]) from error


def parameters(wish: Wish) -> dict[str, str]:
    """What the engine is asked."""
    asked = {"stdout": "1", "stderr": "1", "tail": "all" if wish.tail is None else str(wish.tail)}
    if wish.timestamps:
        asked["timestamps"] = "1"
    if wish.follow:
        asked["follow"] = "1"
    if wish.since is not None:
        asked["since"] = f"{wish.since.timestamp():.6f}"
    return asked


class Logs:
    """Reads logs. `followers` bounds how many may follow at once."""

    def __init__(self, streams: Streams, followers: "FollowerLimit"):
        self._streams = streams
        self._followers = followers
        self._reads = asyncio.Semaphore(_MOST_READS)

    async def read(self, container: Container, wish: Wish) -> list[str]:
        """Lines, oldest first. What is past 8 MiB is left out, the oldest first."""
        lines: list[Line] = []
        size = 0
        async with self._reads:
            async for batch in self._batches(container, wish):
                lines += batch
                size += sum(len(line.text) + 64 for line in batch)
                if size > _MOST_BYTES:
                    lines = lines[len(lines) // 2 :]
                    size = sum(len(line.text) + 64 for line in lines)
            return [line.text.decode(errors="replace") for line in lines]

    async def follow(self, container: Container, wish: Wish) -> AsyncIterator[list[Line]]:
        """Lines as they come, in the batches that they come in. BusyError where too many follow."""
        with self._followers:
            async for batch in self._batches(container, wish):
                yield batch

    async def _batches(self, container: Container, wish: Wish) -> AsyncIterator[list[Line]]:
        lines = Lines(tty=container.tty)
        async with self._streams.logs(container.id, parameters(wish)) as chunks:
            async for chunk in chunks:
                if batch := lines.feed(chunk):
                    yield batch
        if rest := list(lines.finish()):
            yield rest


class FollowerLimit:
    """Counts who follows; BusyError on entering where `most` do already."""

    def __init__(self, most: int):
        self.most = most
        self.count = 0

    def __enter__(self) -> None:
        if self.count >= self.most:
            raise BusyError(f"{self.most} streams are open already: close one, or raise the limit")
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1
