"""Lists and numbers of jobs: each filter, and that a change is seen by the next question."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from homed.clock import now
from homed.errors import StoreError
from homed.jobs.listing import JobListing
from homed.jobs.records import Archive, Command, Job, Origin, Script, State, Task
from homed.jobs.submission import Query

_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def job(number: int, **given: Any) -> Job:
    at = _BEGAN + timedelta(seconds=number)
    values: dict[str, Any] = {
        "origin": Origin.NEWREMORA,
        "work": Command("df", "-h"),
        "created_at": at,
        "updated_at": at,
    }
    return Job(id=f"j{number}", **(values | given))


def ended(number: int, seconds: float, state: State = State.SUCCEEDED, **given: Any) -> Job:
    at = given.pop("at", _BEGAN)
    return job(number, state=state, started_at=at, finished_at=at + timedelta(seconds=seconds), **given)


@pytest.fixture
async def listing() -> AsyncIterator[JobListing]:
    made = JobListing()
    await made.open()
    yield made
    await made.close()


async def ids(listing: JobListing, **asked: Any) -> list[str]:
    found, total = await listing.page(Query(**({"limit": 100, "descending": False} | asked)))
    assert total == len(found)
    return found


async def test_each_filter_picks_its_own(listing: JobListing) -> None:
    listing.put(job(1, host="h1", node="n1", priority=2), 0)
    listing.put(
        job(2, origin=Origin.RETIRE, work=Task("echo", {"message": "secret"}), priority=5, state=State.RUNNING), 0
    )
    listing.put(job(3, origin=Origin.EXECUTOR, work=Archive("make all", "/uploads/1-a.zip", "a.zip"), priority=8), 0)
    listing.put(job(4, work=Script("#!/bin/sh\nECHO hi\n"), state=State.QUEUED, priority=10), 0)
    assert await ids(listing) == ["j1", "j2", "j3", "j4"]
    assert await ids(listing, origin=Origin.NEWREMORA) == ["j1", "j4"]
    assert await ids(listing, states=(State.RUNNING, State.QUEUED)) == ["j2", "j4"]
    assert await ids(listing, host="h1") == await ids(listing, node="n1") == ["j1"]
    assert await ids(listing, kind="archive") == ["j3"]
    assert await ids(listing, task_type="echo") == ["j2"]
    assert await ids(listing, priorities=(5, 8)) == ["j2", "j3"]
    assert await ids(listing, sort="priority", descending=True, origin=Origin.NEWREMORA) == ["j4", "j1"]


@pytest.mark.parametrize(
    ("search", "found"),
    [("DF -h", ["j1"]), ("echo", ["j2", "j4"]), ("MAKE", ["j3"]), ("%", []), ("2 **", ["j5"]), ("secret", [])],
)
async def test_what_a_person_wrote_can_be_looked_for(listing: JobListing, search: str, found: list[str]) -> None:
    listing.put(job(1), 0)
    listing.put(job(2, work=Task("echo", {"message": "secret"})), 0)
    listing.put(job(3, work=Archive("make all", "/uploads/secret", "a.zip")), 0)
    listing.put(job(4, work=Script("#!/bin/sh\nECHO hi\n")), 0)
    listing.put(job(5, work=Task("python_eval", {"expression": "2 ** 10"})), 0)
    assert await ids(listing, search=search) == found


async def test_a_change_is_seen_by_the_next_question(listing: JobListing) -> None:
    for number in range(200):
        listing.put(job(number), 0)
        if number % 3 == 0:
            listing.put(job(number, state=State.QUEUED), 0)
        if number % 5 == 0:
            listing.drop([f"j{number}"])
        if number % 7 == 0:
            listing.put(job(number, state=State.RUNNING), 0)
        assert (await listing.totals())[State.RUNNING] == number // 7 + 1
    totals = await listing.totals()
    assert set(totals) == set(State)
    queued = [n for n in range(200) if n % 3 == 0 and n % 5 and n % 7]
    assert totals[State.QUEUED] == len(queued)


async def test_statistics_are_of_one_api_or_of_all(listing: JobListing) -> None:
    listing.put(ended(1, 10, origin=Origin.RETIRE), 0)
    listing.put(ended(2, 20, State.FAILED, origin=Origin.RETIRE, priority=8, at=now() - timedelta(minutes=5)), 0)
    listing.put(job(3, origin=Origin.RETIRE, state=State.QUEUED, priority=8), 0)
    listing.put(ended(4, 1000), 0)
    found = await listing.statistics(Origin.RETIRE)
    assert (found.total, found.average_duration, found.ended) == (3, 15.0, 1)
    assert found.by_state[State.SUCCEEDED] == found.by_state[State.FAILED] == found.by_state[State.QUEUED] == 1
    assert found.by_state[State.RUNNING] == 0
    assert found.by_priority == {5: 1, 8: 2}
    assert (await listing.statistics()).total == 4
    assert (await listing.statistics(Origin.EXECUTOR)).average_duration == 0.0


async def test_what_has_ended_is_told_with_the_oldest_first(listing: JobListing) -> None:
    for number, seconds in ((1, 30), (2, 10), (3, 20)):
        listing.put(ended(number, seconds, size=number * 90), number * 10)
    # One that is tried again has not ended, though it had.
    listing.put(job(4, state=State.PENDING, finished_at=_BEGAN, size=5), 0)
    assert await listing.finished() == (3, 600)
    assert await listing.finished_oldest_first(2) == [
        ("j2", _BEGAN + timedelta(seconds=10), 200),
        ("j3", _BEGAN + timedelta(seconds=20), 300),
    ]


async def test_what_nobody_asks_for_is_written_soon(listing: JobListing) -> None:
    listing.put(job(1), 0)
    while listing._changed:
        await asyncio.sleep(0.01)
    assert await ids(listing) == ["j1"]


async def test_what_could_not_be_written_is_kept_for_later(caplog: pytest.LogCaptureFixture) -> None:
    listing = JobListing()
    listing.put(job(1), 0)
    with pytest.raises(StoreError):
        await listing.totals()
    await listing.open()
    assert (await listing.totals())[State.PENDING] == 1
    await listing.close()
