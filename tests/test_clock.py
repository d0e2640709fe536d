"""Times as the API shows them, and as Docker tells them."""

import contextlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed import clock


@given(st.datetimes(min_value=datetime(1000, 1, 2), timezones=st.just(UTC)))
def test_what_is_shown_is_read_back_to_the_millisecond(moment: datetime) -> None:
    text = clock.rfc3339(moment)
    assert text.endswith("Z") and "+" not in text
    assert abs(clock.parse(text) - moment) < timedelta(milliseconds=1)


def test_every_zone_is_shown_in_utc() -> None:
    moment = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert clock.rfc3339(moment) == "2026-01-01T10:00:00.000Z"


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("2026-01-01T00:00:00Z", 0),
        ("2026-01-01T00:00:00.1Z", 100_000),
        ("2026-01-01T00:00:00.123456789Z", 123_456),
        ("2026-01-01T00:00:00.1234567890123+00:00", 123_456),
        ("2026-01-01T02:00:00.5+02:00", 500_000),
        ("2026-01-01T00:00:00", 0),
    ],
)
def test_what_docker_tells_is_read(text: str, microseconds: int) -> None:
    assert clock.parse(text) == datetime(2026, 1, 1, microsecond=microseconds, tzinfo=UTC)


@given(st.text(max_size=30))
def test_a_text_is_a_moment_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert clock.parse(text).tzinfo is not None


def test_now_is_in_utc() -> None:
    assert clock.now().utcoffset() == timedelta(0)
