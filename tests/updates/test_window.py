"""The maintenance window."""

import re
from datetime import datetime, timedelta

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
