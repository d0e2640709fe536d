"""Nothing after the first failure, then doubling up to a limit."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from homed.containers import backoff

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_waits_double_up_to_the_limit() -> None:
    assert [backoff.delay(n, 1, 60) for n in range(10)] == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_failures_in_a_row_are_counted_with_the_last_reason() -> None:
    failures = backoff.NONE
    for n in range(1, 5):
        failures = backoff.after(failures, f"r{n}", f"m{n}", 100.0, 1, 60)
    assert failures == (4, 104.0, "r4", "m4")


@given(st.integers(0, 10_000), st.floats(0.1, 1e4), st.floats(0.1, 1e5))
def test_no_wait_is_negative_or_past_the_limit(count: int, first: float, limit: float) -> None:
    assert 0 <= backoff.delay(count, first, limit) <= limit


def test_a_run_is_stable_when_it_lasted() -> None:
    assert backoff.was_stable(NOW, NOW + timedelta(seconds=61), 60)
    assert not backoff.was_stable(NOW, NOW + timedelta(seconds=59), 60)
    assert not backoff.was_stable(None, NOW, 60) and not backoff.was_stable(NOW, None, 60)
    assert not backoff.was_stable(NOW, NOW - timedelta(days=1), 60), "the clock was set back"
