"""The maintenance window: `02:00-04:00`, or `Sat,Sun 02:00-04:00`, in the board's local time."""

import re
from datetime import datetime, timedelta
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
    """Whether the window is open at a local time; no window is never open."""
    if not text:
        return False
    window = parse(text)
    minute = now.hour * 60 + now.minute
    if window.begin < window.end:
        return now.weekday() in window.days and window.begin <= minute < window.end
    yesterday = (now - timedelta(days=1)).weekday()
    return (now.weekday() in window.days and minute >= window.begin) or (
        yesterday in window.days and minute < window.end
    )
