"""The maintenance window."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed import config
from homed.updates.window import is_open, parse

MONDAY = datetime(2026, 1, 5)


def at(text: str) -> datetime:
    """`Tue 23:15` of a week."""
    day, time = text.split()
    hours, minutes = time.split(":")
    number = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].index(day)
    return MONDAY + timedelta(days=number, hours=int(hours), minutes=int(minutes))


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("02:00-04:00", ["Mon 02:00", "Sun 03:59"], ["Mon 01:59", "Mon 04:00", "Mon 14:00"]),
        ("23:30-00:30", ["Mon 23:30", "Tue 00:29", "Mon 00:00"], ["Mon 23:29", "Mon 00:30"]),
        ("Sat,Sun 02:00-04:00", ["Sat 02:00", "Sun 03:59"], ["Fri 03:00", "Mon 03:00"]),
        ("Sat 23:00-01:00", ["Sat 23:30", "Sun 00:30"], ["Sat 00:30", "Sun 23:30", "Mon 00:30"]),
        ("Sun 23:00-01:00", ["Mon 00:30"], ["Sun 00:30"]),
        ("00:00-23:59", ["Mon 00:00", "Mon 23:58"], ["Mon 23:59"]),
    ],
)
def test_it_is_open_when_it_says_so(window: str, inside: list[str], outside: list[str]) -> None:
    assert [one for one in inside if not is_open(window, at(one))] == []
    assert [one for one in outside if is_open(window, at(one))] == []


def test_no_window_is_never_open() -> None:
    assert not is_open("", MONDAY)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2:00-4:00", "must be like"),
        ("02:00", "must be like"),
        ("02:00-04:00 ", "must be like"),
        ("Sat, Sun 02:00-04:00", "must be like"),
        ("Sam 02:00-04:00", "'Sam' is no day"),
        ("Sat,,Sun 02:00-04:00", "'' is no day"),
        ("24:00-04:00", "no such time"),
        ("02:00-03:60", "no such time"),
        ("02:00-02:00", "begins when it ends"),
        ("Mon 02:00-04:00\n", "must be like"),
    ],
)
def test_what_is_wrong_is_said(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(text)


@given(st.from_regex(config.WINDOW, fullmatch=True).filter(bool))
def test_what_the_configuration_takes_is_understood(text: str) -> None:
    if text[-11:-6] == text[-5:]:
        return
    window = parse(text)
    assert window.days and 0 <= window.begin < 1440 and 0 <= window.end < 1440


@given(st.text(max_size=30) | st.from_regex(r"(\w+(,\w+)* )?\d\d:\d\d-\d\d:\d\d", fullmatch=True))
def test_what_is_understood_the_configuration_takes(text: str) -> None:
    try:
        parse(text)
    except ValueError:
        return
    assert re.search(config.WINDOW, text)


@given(st.integers(0, 1439), st.integers(0, 1439), st.sets(st.integers(0, 6), min_size=1), st.integers(0, 7 * 1440 - 1))
def test_it_is_open_for_its_length_on_each_of_its_days(begin: int, end: int, days: set[int], now: int) -> None:
    if begin == end:
        return
    names = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    text = f"{','.join(names[day] for day in days)} {begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    length = (end - begin) % 1440
    starts = [day * 1440 + begin for day in days]
    expected = any((now - start) % (7 * 1440) < length for start in starts)
    assert is_open(text, MONDAY + timedelta(minutes=now)) == expected


def open_minutes(window: str, zone: str, first: str, last: str) -> list[str]:
    """What the clock shows when the window opens and, after each `-`, when it closes, with the zone's name."""
    place, at = ZoneInfo(zone), datetime.fromisoformat(first).replace(tzinfo=UTC)
    found, was_open = [], False
    while at < datetime.fromisoformat(last).replace(tzinfo=UTC):
        now_open = is_open(window, at.astimezone(place))
        if now_open != was_open:
            found.append(f"{'' if now_open else '-'}{at.astimezone(place):%d %H:%M %Z}")
        was_open = now_open
        at += timedelta(minutes=1)
    return found


@pytest.mark.parametrize(
    ("window", "zone", "first", "last", "expected"),
    [
        # Spring: 02:00 to 03:00 does not come.
        ("Sun 02:00-03:00", "Europe/Berlin", "2026-03-28", "2026-03-30", ["29 03:00 CEST", "-29 04:00 CEST"]),
        ("Sun 02:30-03:30", "Europe/Berlin", "2026-03-28", "2026-03-30", ["29 03:00 CEST", "-29 04:00 CEST"]),
        ("Sun 02:10-02:20", "Europe/Berlin", "2026-03-28", "2026-03-30", ["29 03:00 CEST", "-29 03:10 CEST"]),
        ("Sun 01:30-02:30", "Europe/Berlin", "2026-03-28", "2026-03-30", ["29 01:30 CET", "-29 03:30 CEST"]),
        ("Sat 23:00-03:00", "Europe/Berlin", "2026-03-28", "2026-03-30", ["28 23:00 CET", "-29 04:00 CEST"]),
        ("Sat 23:59-23:58", "Europe/Berlin", "2026-03-28", "2026-03-31", ["28 23:59 CET", "-30 00:58 CEST"]),
        # Autumn: 02:00 to 03:00 comes twice.
        ("Sun 02:00-03:00", "Europe/Berlin", "2026-10-24", "2026-10-26", ["25 02:00 CEST", "-25 02:00 CET"]),
        ("Sun 02:15-02:45", "Europe/Berlin", "2026-10-24", "2026-10-26", ["25 02:15 CEST", "-25 02:45 CEST"]),
        ("Sat 23:00-02:30", "Europe/Berlin", "2026-10-24", "2026-10-26", ["24 23:00 CEST", "-25 02:30 CEST"]),
        # A day that begins at 01:00, and a clock that moves by half an hour.
        ("Fri 00:00-00:30", "Africa/Cairo", "2026-04-23", "2026-04-25", ["24 01:00 EEST", "-24 01:30 EEST"]),
        ("Sun 02:00-03:00", "Australia/Lord_Howe", "2026-10-03", "2026-10-05", ["04 02:30 +11", "-04 03:30 +11"]),
        ("Sun 01:45-02:00", "Australia/Lord_Howe", "2026-04-04", "2026-04-06", ["05 01:45 +11", "-05 01:30 +1030"]),
    ],
)  # fmt: skip
def test_it_opens_once_for_its_length_when_the_clock_is_changed(
    window: str, zone: str, first: str, last: str, expected: list[str]
) -> None:
    assert open_minutes(window, zone, first, last) == expected
