"""A job's states and output as one sequence: taken up again anywhere, nothing is lost and nothing comes twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from homed.jobs.following import Following, Item, is_over, place
from homed.jobs.ledger import Entry
from homed.jobs.output.order import Stream
from homed.jobs.output.outputs import Outputs
from homed.jobs.records import Command, Job, Origin, Result, State

AT = datetime(2026, 1, 1, tzinfo=UTC)


class Records:
    """One job, whose states are set by the test."""

    def __init__(self) -> None:
        job = Job(id="job", origin=Origin.NEWREMORA, work=Command("true"), created_at=AT, updated_at=AT)
        self.held = Entry(job, 1)

    async def entry(self, id: str) -> Entry:
        return self.held

    def set(self, state: State, attempt: int = 0, result: Result | None = None) -> None:
        job = msgspec.structs.replace(self.held.job, state=state, attempt=attempt, result=result)
        self.held.tell(job, self.held.revision + 1)


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
async def outputs(tmp_path: Path) -> AsyncIterator[Outputs]:
    made = Outputs(tmp_path, lambda: 1 << 20)
    watch = asyncio.create_task(made.run())
    yield made
    watch.cancel()
    with suppress(asyncio.CancelledError):
        await watch
    made.close()


def shown(items: list[Item]) -> list[str]:
    return [
        "complete" if item.complete else item.piece.text if item.piece is not None else str(item.job.state)
        for item in items
    ]


async def gathered(following: Following, last: str = "") -> list[Item]:
    return [item async for item in following.follow("job", last)]


async def tried(records: Records, outputs: Outputs, attempt: int, text: str, state: State) -> None:
    """One attempt, from its assignment to its end."""
    records.set(State.ASSIGNED, attempt)
    output = outputs.create("job", attempt)
    records.set(State.RUNNING, attempt)
    await asyncio.sleep(0.02)
    for word in text.split():
        await output.write(Stream.STDOUT, word.encode())
        await asyncio.sleep(0.01)
    await output.finish()
    records.set(state, attempt)
    await asyncio.sleep(0.02)


async def test_a_job_is_followed_from_its_queue_to_its_end(records: Records, outputs: Outputs) -> None:
    following = Following(records, outputs)
    records.set(State.QUEUED)
    follower = asyncio.create_task(gathered(following))
    await asyncio.sleep(0.02)
    await tried(records, outputs, 1, "one two", State.SUCCEEDED)
    items = await follower
    assert shown(items) == ["queued", "running", "one", "two", "succeeded", "complete"]
    assert len({item.id for item in items}) == len(items)


async def test_a_late_follower_gets_the_state_all_output_and_the_end(records: Records, outputs: Outputs) -> None:
    await tried(records, outputs, 1, "one two", State.FAILED)
    assert shown(await gathered(Following(records, outputs))) == ["failed", "onetwo", "complete"]


async def test_output_of_several_attempts_comes_in_order(records: Records, outputs: Outputs) -> None:
    following = Following(records, outputs)
    follower = asyncio.create_task(gathered(following))
    await asyncio.sleep(0.02)
    await tried(records, outputs, 1, "first", State.PENDING)
    await tried(records, outputs, 2, "second", State.SUCCEEDED)
    assert shown(await follower) == [
        "pending", "running", "first", "pending", "running", "second", "succeeded", "complete"
    ]  # fmt: skip


async def test_from_any_event_on_exactly_the_rest_comes(records: Records, outputs: Outputs) -> None:
    """The rest of the output and the end, without anything twice; states that have passed are passed over."""
    following = Following(records, outputs)
    follower = asyncio.create_task(gathered(following))
    await asyncio.sleep(0.02)
    await tried(records, outputs, 1, "a b c", State.PENDING)
    await tried(records, outputs, 2, "d e f", State.FAILED)
    items = await follower
    for number, item in enumerate(items):
        rest = await gathered(following, item.id)
        written = "".join(one.piece.text for one in rest if one.piece is not None)
        assert written == "".join(one.piece.text for one in items[number + 1 :] if one.piece is not None)
        states = [word for word in shown(rest) if word in (*State, "complete")]
        assert states == ["failed", "complete"][max(0, 2 - (len(items) - number - 1)) :]
        assert len({one.id for one in rest}) == len(rest)
        assert is_over(item.id, records.held.job) == (number == len(items) - 1)


@pytest.mark.parametrize("id", ["", "nonsense", "9-0-1", "1-99-4", "1-2-77", "-1-0-0", "1-1-1-1", "１-0-4", "1" * 4000])
async def test_an_id_of_nothing_is_the_start(records: Records, outputs: Outputs, id: str) -> None:
    await tried(records, outputs, 1, "one two", State.SUCCEEDED)
    assert shown(await gathered(Following(records, outputs), id)) == ["succeeded", "onetwo", "complete"]


async def test_one_that_was_tried_again_by_hand_goes_on(records: Records, outputs: Outputs) -> None:
    following = Following(records, outputs)
    await tried(records, outputs, 1, "one", State.FAILED)
    last = (await gathered(following))[-1].id
    assert await gathered(following, last) == []
    records.set(State.QUEUED, 1)
    follower = asyncio.create_task(gathered(following, last))
    await asyncio.sleep(0.02)
    await tried(records, outputs, 2, "two", State.SUCCEEDED)
    assert shown(await follower) == ["queued", "running", "two", "succeeded", "complete"]


async def test_a_job_that_ended_without_having_begun_is_complete(records: Records, outputs: Outputs) -> None:
    records.set(State.CANCELLED)
    assert shown(await gathered(Following(records, outputs))) == ["cancelled", "complete"]


async def test_output_that_nobody_finished_ends_with_its_job(tmp_path: Path, records: Records) -> None:
    first = Outputs(tmp_path, lambda: 1 << 20)
    await first.create("job", 1).write(Stream.STDOUT, b"one")
    first.close()
    records.set(State.FAILED, 1)
    second = Outputs(tmp_path, lambda: 1 << 20)
    assert shown(await gathered(Following(records, second))) == ["failed", "one", "complete"]
    second.close()


async def test_output_whose_folder_comes_late_is_seen(records: Records, outputs: Outputs) -> None:
    records.set(State.RUNNING, 1)
    following = Following(records, outputs)
    async with aclosing(following.follow("job")) as items:
        assert shown([await anext(items)]) == ["running"]
        waiting = asyncio.ensure_future(anext(items))
        await asyncio.sleep(0.02)
        await outputs.create("job", 1).write(Stream.STDERR, b"late")
        assert shown([await waiting]) == ["late"]


async def test_nothing_is_kept_of_followers_that_are_gone(records: Records, outputs: Outputs) -> None:
    records.set(State.RUNNING, 1)
    output = outputs.create("job", 1)
    following = Following(records, outputs)
    before = asyncio.all_tasks()
    followers = [asyncio.create_task(gathered(following)) for _ in range(10)]
    await asyncio.sleep(0.02)
    assert output.followed
    for follower in followers:
        follower.cancel()
    await asyncio.gather(*followers, return_exceptions=True)
    await asyncio.sleep(0.02)
    assert not output.followed
    assert asyncio.all_tasks() == before


def test_an_id_says_its_place() -> None:
    records = Records()
    records.set(State.RUNNING, 2)
    found = place("1-25-4", records.held.job)
    assert (found.attempt, found.position, found.told, found.id) == (1, 25, 4, "1-25-4")
