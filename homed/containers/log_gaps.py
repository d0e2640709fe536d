"""Detection of lines lost or repeated because a log is rotated faster than a follower reads it (pure).

Docker Engine does not report this, but timestamps reveal it: within one stream they go back only if lines repeat (or
the board's clock was set back), and a pause far longer than earlier ones is a reason to check the log.
"""

from datetime import UTC, datetime
from enum import Enum
from typing import NamedTuple

_MIN_PAUSE_NS = 10_000_000
_FACTOR = 100
_WINDOW = 1000  # lines from which the usual pace is known
_BUCKET = 22  # characters of a timestamp down to 10 ms


class Verdict(Enum):
    FOLLOWS = "follows"
    REPEATED = "repeated"
    PAUSED = "paused"


class Range(NamedTuple):
    """The last line before a pause and the first one after it, by their timestamps."""

    after: bytes
    before: bytes


class GapDetector:
    """Detects gaps from each line's stream and timestamp, in the order of arrival."""

    def __init__(self) -> None:
        self._last: dict[str, bytes] = {}
        self._repeating: set[str] = set()
        self._newest = b""
        self._count = 0
        self._began_ns = 0
        self.pause = Range(b"", b"")

    def look(self, stream: str, stamp: bytes, *, clock_went_back: bool = False) -> Verdict:
        """Classify the next line. `clock_went_back`: the board's clock was set back since the last one."""
        if len(stamp) != 30 or not stamp.endswith(b"Z"):  # not the engine's, or not in UTC: nothing to compare
            return Verdict.FOLLOWS
        last = self._last.get(stream, b"")
        repeats = stamp < last or (stamp == last and stream in self._repeating)
        if repeats and not clock_went_back:
            self._repeating.add(stream)
            return Verdict.REPEATED
        self._repeating.discard(stream)
        self._last[stream] = stamp
        newest, self._newest = self._newest, max(stamp, self._newest)
        if clock_went_back or not newest:
            self._newest = stamp
            self._count, self._began_ns = 0, nanoseconds(stamp)
            return Verdict.FOLLOWS
        self._count += 1
        if stamp[:_BUCKET] == newest[:_BUCKET] or stamp <= newest:
            return Verdict.FOLLOWS
        return self._pace(newest, stamp)

    def _pace(self, newest: bytes, stamp: bytes) -> Verdict:
        before, now = nanoseconds(newest), nanoseconds(stamp)
        usual = (before - self._began_ns) / self._count
        is_long = self._count > 1 and now - before > max(_MIN_PAUSE_NS, _FACTOR * usual)
        if is_long or self._count >= _WINDOW:
            self._count, self._began_ns = 0, now
        if is_long:
            self.pause = Range(newest, stamp)
            return Verdict.PAUSED
        return Verdict.FOLLOWS


def nanoseconds(stamp: bytes) -> int:
    """Return the nanoseconds since 1970 of a timestamp such as 2026-01-01T00:00:00.123456789Z."""
    moment = datetime.strptime(stamp[:19].decode(), "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000_000 + int(stamp[20:29])


def next_moment(stamp: bytes, add: int = 1) -> str:
    """Return the moment after a timestamp in the format of the engine's `since` and `until`."""
    seconds, rest = divmod(nanoseconds(stamp) + add, 1_000_000_000)
    return f"{seconds}.{rest:09d}"
