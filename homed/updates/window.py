"""The maintenance window: `02:00-04:00`, or `Sat,Sun 02:00-04:00`, in the board's local time.

On each of its days it opens once, as soon as the clock shows its beginning or has passed over it, and stays open for
its length. So a window in the hour that a spring night leaves out opens when that hour would have begun, and one in the
hour that an autumn night has twice opens in the first of the two.
"""

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import NamedTuple

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FORM = re.compile(r"(?:([A-Za-z,]+) )?([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})")


class Window(NamedTuple):
    """Minutes of the day; one that ends before it begins goes over midnight and belongs to the day it begins on."""

    days: frozenset[int]
    begin: int
    end: int


def parse(text: str) -> Window:
    """ValueError says what is wrong."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError("must be like 02:00-04:00 or Sat,Sun 02:00-04:00")
    names = found[1].split(",") if found[1] else list(_DAYS)
    wrong = [name for name in names if name not in _DAYS]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no day: one of {', '.join(_DAYS)}")
    hours = [int(found[number]) for number in (2, 3, 4, 5)]
    if hours[0] > 23 or hours[2] > 23 or hours[1] > 59 or hours[3] > 59:
        raise ValueError("there is no such time of day")
    begin, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
    if begin == end:
        raise ValueError("begins when it ends")
    return Window(frozenset(_DAYS.index(name) for name in names), begin, end)


def is_open(text: str, now: datetime) -> bool:
    """Tell whether the window is open at a local time; no window is never open. A time without a zone knows no gaps."""
    if not text:
        return False
    window = parse(text)
    length = timedelta(minutes=(window.end - window.begin) % (24 * 60))
    # One that opened two days ago may be open still: a day in spring has 23 hours.
    days = [now.date() - timedelta(days=ago) for ago in range(3)]
    moment = _absolute(now)
    return any(
        timedelta(0) <= moment - opening(window, day, now.tzinfo) < length
        for day in days
        if day.weekday() in window.days
    )


def opening(window: Window, day: date, zone: tzinfo | None) -> datetime:
    """Return when the window of a day opens, in UTC: as soon as the clock shows its beginning, or more."""
    wanted = datetime.combine(day, time(*divmod(window.begin, 60)))
    moment = _absolute(wanted.replace(tzinfo=zone))
    if zone is None or moment.astimezone(zone).replace(tzinfo=None) == wanted:
        return moment
    # The clock passes over it: the moment at which it does lies between what the two offsets say.
    before, after = _absolute(wanted.replace(tzinfo=zone, fold=1)), moment
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // 2
        if middle.astimezone(zone).replace(tzinfo=None) < wanted:
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)


def _absolute(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
