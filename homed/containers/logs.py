"""A container's log: what was asked for turned into the engine's parameters, and its stream into lines."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from homed import clock
from homed.containers.frames import Line
from homed.containers.log_gaps import GapDetector, Range, Verdict, next_moment
from homed.containers.log_records import LogRecords
from homed.containers.model import Container
from homed.containers.streams import ANSWER_TIMEOUT, Streams
from homed.errors import BusyError, EngineUnavailableError, FieldError, HomedError, ValidationError

_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MOST_LINES = 100_000
# An answer costs several times its bytes while it is made, and homed has 256 MiB in all.
_MOST_BYTES = 8 * 1024 * 1024
_MOST_READS = 2
# The records of the longest line, plus one; the records that may arrive between two requests.
_MAX_PIECES = 66
_MAX_CATCH_UP = 20_000
# The stream name of homed's own lines; seconds between two gap checks, and between two markers.
MARKER = "homed"
_SHORTEST_LOOK, _LONGEST_LOOK = 1.0, 120.0
_TELL_INTERVAL = 1.0


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
    """Reads logs. `followers` is the maximum of concurrent followers; `lost` is called for each gap of a follower."""

    def __init__(
        self,
        streams: Streams,
        followers: "FollowerLimit",
        lost: Callable[[Container, Range], None] = lambda container, gap: None,
    ):
        self._streams = streams
        self.followers = followers
        self._lost = lost
        self._reads = asyncio.Semaphore(_MOST_READS)

    async def read(self, container: Container, wish: Wish) -> list[str]:
        """Lines, oldest first. What is past 8 MiB is left out, the oldest first."""
        lines, _ = await self._last_lines(container, wish)
        return [shown(line, wish).decode(errors="replace") for line in lines]

    async def follow(self, container: Container, wish: Wish) -> AsyncIterator[list[Line]]:
        """Yield new lines in batches as they arrive. Raises: BusyError, if too many followers exist.

        A line of the stream `homed` reports missing lines.
        """
        with self.followers:
            async for batch in self.follow_on(container, wish):
                yield [line._replace(text=shown(line, wish)) for line in batch]

    async def follow_on(self, container: Container, wish: Wish, after: bytes = b"") -> AsyncIterator[list[Line]]:
        """Follow like `follow`, with raw texts, and uncounted. `after`: only lines after that timestamp."""
        asked = parameters(wish._replace(timestamps=True, follow=True))
        if after:
            asked |= {"tail": "all", "since": next_moment(after)}
        elif wish.tail:
            # The engine counts records, not lines, and its stream does not separate old lines from new ones.
            lines, unfinished = await self._last_lines(container, wish)
            if lines:
                yield lines
            stamped = [line.stamp for line in lines if line.stamp]
            if unfinished:
                asked["since"] = next_moment(min(unfinished), 0)
            elif stamped:
                asked["since"] = next_moment(max(stamped))
            asked["tail"] = str(_MAX_CATCH_UP) if stamped or unfinished else "all"
        watch = _GapWatch(self, container)
        async for batch in self._batches(container, asked, LogRecords(tty=container.tty)):
            if batch := await watch.checked(batch):
                yield batch

    async def _last_lines(self, container: Container, wish: Wish) -> tuple[list[Line], list[bytes]]:
        """Return the last existing lines, and the timestamps of incomplete ones."""
        try:
            await asyncio.wait_for(self._reads.acquire(), ANSWER_TIMEOUT)
        except TimeoutError as error:
            message = f"Docker Engine did not give other logs within {ANSWER_TIMEOUT:.0f} s: try again"
            raise EngineUnavailableError(message) from error
        try:
            asked = wish.tail if wish.tail is None else wish.tail + 1
            while True:
                lines, whole, unfinished = await self._collect(container, wish, asked)
                if wish.tail is None or asked is None:
                    return lines, unfinished
                # The first one may be the rest of a longer line, unless it is the first record.
                if whole or len(lines) > wish.tail or asked >= _MAX_PIECES * (wish.tail + 1):
                    return lines[max(0, len(lines) - wish.tail) :], unfinished
                asked = min(8 * asked, _MAX_PIECES * (wish.tail + 1))
        finally:
            self._reads.release()

    async def _collect(
        self, container: Container, wish: Wish, tail: int | None
    ) -> tuple[list[Line], bool, list[bytes]]:
        """Return the lines of the last `tail` records, whether they include the first one, and the incomplete lines."""
        lines: list[Line] = []
        size, cut = 0, False
        records = LogRecords(tty=container.tty)
        asked = parameters(wish._replace(tail=tail, timestamps=True, follow=False))
        async with self._streams.logs(container.id, asked) as chunks:
            async for chunk in chunks:
                batch = records.feed(chunk)
                lines += batch
                size += sum(len(line.text) + 64 for line in batch)
                while size > _MOST_BYTES and len(lines) > 1:
                    lines, cut = lines[len(lines) // 2 :], True
                    size = sum(len(line.text) + 64 for line in lines)
        unfinished = records.unfinished if container.is_up and wish.follow else []
        if not unfinished:
            lines += list(records.finish())
        return lines, cut or tail is None or records.records < tail, unfinished

    async def _batches(
        self, container: Container, asked: Mapping[str, str], records: LogRecords
    ) -> AsyncIterator[list[Line]]:
        async with self._streams.logs(container.id, asked) as chunks:
            async for chunk in chunks:
                if batch := records.feed(chunk):
                    yield batch
        if rest := list(records.finish()):
            yield rest

    async def is_missing(self, container: Container, gap: Range) -> bool:
        """Return whether the log has, or had, lines within a pause that a follower did not get."""
        asked = {"stdout": "1", "stderr": "1", "timestamps": "1", "tail": "all"}
        within = {**asked, "since": next_moment(gap.after), "until": next_moment(gap.before, -1)}
        if await self._first(container, within) is not None:
            return True
        oldest = await self._first(container, asked)
        return oldest is not None and oldest > gap.after

    async def _first(self, container: Container, asked: Mapping[str, str]) -> bytes | None:
        async with aclosing(self._batches(container, asked, LogRecords(tty=container.tty))) as batches:  # type: ignore[type-var]
            async for batch in batches:
                return batch[0].stamp
        return None

    def note(self, container: Container, gap: Range) -> Line:
        """Report a gap, and return the line that tells the follower."""
        self._lost(container, gap)
        text = b"[homed] lines are missing here, or came late: the log was rotated faster than it was read (%s to %s)"
        return Line(MARKER, text % (gap.after, gap.before), gap.before)


class _GapWatch:
    """Detects one follower's gaps. Checking the log is expensive, so checks without a result become less frequent."""

    def __init__(self, logs: Logs, container: Container):
        self._logs = logs
        self._container = container
        self._detector = GapDetector()
        self._offset = time.time() - time.monotonic()
        self._look_at = 0.0
        self._look_pause = _SHORTEST_LOOK
        self._told_at = -_TELL_INTERVAL
        self._newest = b""

    async def checked(self, batch: list[Line]) -> list[Line]:
        """Return the lines without repeated ones, with a marker at each gap."""
        offset = time.time() - time.monotonic()
        went_back, self._offset = self._offset - offset > 0.001, offset
        result: list[Line] = []
        for line in batch:
            verdict = self._detector.look(line.stream, line.stamp, clock_went_back=went_back)
            if verdict is Verdict.REPEATED:
                self._tell(result, Range(line.stamp, self._newest))
                continue
            if verdict is Verdict.PAUSED and await self._is_gap():
                self._tell(result, self._detector.pause)
            self._newest = line.stamp
            result.append(line)
        return result

    async def _is_gap(self) -> bool:
        moment = time.monotonic()
        if moment < self._look_at:
            return False
        try:
            found = await self._logs.is_missing(self._container, self._detector.pause)
        except HomedError:
            found = False
        self._look_pause = _SHORTEST_LOOK if found else min(2 * self._look_pause, _LONGEST_LOOK)
        self._look_at = time.monotonic() + self._look_pause
        return found

    def _tell(self, result: list[Line], gap: Range) -> None:
        if time.monotonic() - self._told_at >= _TELL_INTERVAL:
            self._told_at = time.monotonic()
            result.append(self._logs.note(self._container, gap))


def shown(line: Line, wish: Wish) -> bytes:
    """Return the line for display."""
    return line.stamp + b" " + line.text if wish.timestamps and line.stamp and line.stream != MARKER else line.text


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
