"""Which finished jobs are kept: decided from values alone."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from homed.config.jobs import JobKeeping
from homed.jobs.retention import Finished, retain

NOW = datetime(2026, 1, 2, tzinfo=UTC)
FINISHED = st.lists(st.tuples(st.integers(-1000, 5000), st.integers(0, 50)), max_size=30)


def finished(ages: list[tuple[int, int]]) -> list[Finished]:
    """Of (hours ago, bytes), the oldest first."""
    ordered = sorted(ages, key=lambda one: -one[0])
    return [Finished(str(n), NOW - timedelta(hours=age), size) for n, (age, size) in enumerate(ordered)]


def test_what_is_too_old_goes() -> None:
    jobs = finished([(30, 0), (20, 0), (10, 0)])
    assert retain(jobs, 3, 0, NOW, JobKeeping(days=1)) == ["0"]


def test_the_newest_stay_where_there_are_too_many() -> None:
    jobs = finished([(3, 0), (2, 0), (1, 0)])
    assert retain(jobs, 3, 0, NOW, JobKeeping(count=1)) == ["0", "1"]


def test_the_newest_stay_where_their_output_is_too_large() -> None:
    jobs = finished([(3, 10), (2, 10), (1, 10)])
    assert retain(jobs, 3, 30, NOW, JobKeeping(size=15)) == ["0", "1"]


def test_what_ended_in_the_future_by_a_clock_that_went_back_stays() -> None:
    assert retain(finished([(-1000, 0)]), 1, 0, NOW, JobKeeping(days=1)) == []


@given(FINISHED, st.integers(1, 200), st.integers(0, 20), st.integers(0, 300))
def test_what_is_left_keeps_every_bound_and_nothing_goes_needlessly(
    ages: list[tuple[int, int]], hours: int, count: int, size: int
) -> None:
    keep = JobKeeping(days=hours / 24, count=count, size=size)
    jobs = finished(ages)
    gone = retain(jobs, len(jobs), sum(job.size for job in jobs), NOW, keep)
    left = jobs[len(gone) :]
    assert gone == [job.id for job in jobs[: len(gone)]]
    assert len(left) <= count
    assert sum(job.size for job in left) <= size
    earliest = NOW - timedelta(days=keep.days)
    assert all(job.finished_at >= earliest for job in left)
    if gone:
        last = jobs[len(gone) - 1]
        with_it = [last, *left]
        too_old = last.finished_at < earliest
        assert too_old or len(with_it) > count or sum(job.size for job in with_it) > size
