"""How long to wait before the next try."""

from datetime import datetime
from typing import NamedTuple


class Failures(NamedTuple):
    """Failures in a row: how many, when (monotonic seconds) the next try is due, and what went wrong."""

    times: int = 0
    next_at: float = 0.0
    reason: str = ""
    message: str = ""


NONE = Failures()


def delay(count: int, first: float, limit: float) -> float:
    """Seconds to wait after `count` failures in a row: nothing after the first, then doubling up to `limit`."""
    if count <= 1:
        return 0.0
    return float(min(limit, first * 2.0 ** min(count - 2, 64)))


def after(before: Failures, reason: str, message: str, now: float, first: float, limit: float) -> Failures:
    """One more failure."""
    count = before.times + 1
    return Failures(count, now + delay(count, first, limit), reason, message)


def was_stable(started: datetime | None, finished: datetime | None, longer_than: float) -> bool:
    """Whether a run lasted long enough (seconds) for the failures before it to be forgotten."""
    return started is not None and finished is not None and (finished - started).total_seconds() > longer_than
