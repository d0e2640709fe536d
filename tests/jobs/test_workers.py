"""Pull workers: known, heard of, given jobs, and their jobs given to others when they are lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from homed.clock import now
from homed.config.jobs import JobWorkers
from homed.errors import JobConflictError, JobLimitError, NotFoundError, ValidationError
from homed.jobs import workers as module
from homed.jobs.claimants import Refusal, Status
from homed.jobs.jobs import Jobs
from homed.jobs.output.order import Stream
from homed.jobs.records import Archive, Job, Requirements, Result, State
from homed.jobs.reports import OffsetError, Reports, remainder
from homed.jobs.workers import Load, Worker, Workers
from tests.support.front import Clock
from tests.support.job_world import World, world

HERE, THERE = "10.0.0.1", "10.0.0.2"


class Place:
    """A world of jobs with workers in it, and a clock that is turned by hand."""

    def __init__(self, made: World):
        self.world = made
        self.clock = Clock()
        self.jobs = Jobs(
            made.ledger, made.scheduler, made.claims, made.nodes, made.index, made.outputs, None, lambda: made.config,  # type: ignore[arg-type]
        )  # fmt: skip
        config: Callable[[], JobWorkers] = lambda: made.config.workers  # noqa: E731
        self.workers = Workers(made.store, self.jobs, made.events, config, self.clock)
        self.reports = Reports(self.jobs, self.workers)

    async def register(self, id: str, address: str = HERE) -> None:
        at = now()
        await self.workers.register(
            Worker(id=id, hostname=f"{id}.example", os="linux", registered_at=at, seen_at=at), address
        )

    async def submit(self, id: str, **more: Any) -> None:
        await self.world.submit(
            id, Archive("true", "/uploads/1-a.zip", "a.zip"), metadata={"mode": "distributed"}, **more
        )

    async def take(self, id: str | None = None, address: str = HERE, **more: Any) -> str:
        """The id of the job that it gets, or why it gets none."""
        found = await self.workers.poll(id, address, 0, **more)
        return found.id if isinstance(found, Job) else str(found)

    async def job(self, id: str) -> Job:
        return await self.jobs.get(id)

    def statuses(self) -> dict[str, Status]:
        return {one.worker.id: one.status for one in self.workers.all()}


@asynccontextmanager
async def place(folder: Path, **config: Any) -> AsyncIterator[Place]:
    async with world(folder, **config) as made:
        here = Place(made)
        await here.workers.load()
        try:
            yield here
        finally:
            await here.workers.close()


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as made:
        yield made


async def test_a_worker_is_there_as_long_as_it_is_heard_of(here: Place) -> None:
    await here.register("a")
    assert here.statuses() == {"a": Status.IDLE}
    here.clock.now += 29
    await here.workers.beat("a", Load(5.0, 100, 200), HERE)
    here.clock.now += 29
    assert here.statuses() == {"a": Status.IDLE}
    assert here.workers.all()[0].load == Load(5.0, 100, 200)
    here.clock.now += 2
    assert here.statuses() == {"a": Status.OFFLINE}
    await here.workers.beat("a", Load(), HERE)
    assert here.statuses() == {"a": Status.IDLE}


async def test_who_is_not_registered_is_not_known(here: Place) -> None:
    for call in (here.workers.beat("x", Load(), HERE), here.workers.poll("x", HERE, 0)):
        with pytest.raises(NotFoundError) as caught:
            await call
        assert caught.value.code == "WORKER_NOT_FOUND"


@pytest.mark.parametrize("id", ["", "a\nb", "x" * 129])
async def test_an_id_is_a_printable_word(here: Place, id: str) -> None:
    with pytest.raises(ValidationError):
        await here.register(id)


async def test_workers_are_known_over_a_restart_and_have_their_time_to_come_back(tmp_path: Path) -> None:
    async with place(tmp_path) as before:
        await before.register("a")
        await before.submit("j")
        assert await before.take("a") == "j"
    async with place(tmp_path) as after:
        assert after.statuses() == {"a": Status.BUSY}
        after.clock.now += 29
        await after.workers.look()
        assert (await after.job("j")).state is State.RUNNING
        after.clock.now += 2
        await after.workers.look()
        assert (await after.job("j")).state is State.QUEUED


async def test_the_number_of_workers_is_bounded(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 2)
    await here.register("a")
    here.clock.now += 1
    await here.register("b")
    with pytest.raises(JobLimitError) as caught:
        await here.register("c")
    assert caught.value.code == "TOO_MANY_WORKERS"
    await here.register("a")
    here.clock.now += 40
    await here.register("b")
    await here.register("c")
    assert set(here.statuses()) == {"b", "c"}


async def test_who_stays_away_for_a_month_is_forgotten(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await here.register("a")
    monkeypatch.setattr(module, "_FORGET_AFTER", now() - now())
    await here.workers.look()
    assert set(here.statuses()) == {"a"}, "it is there"
    here.clock.now += 31
    await here.workers.look()
    assert here.statuses() == {}
    assert await here.world.store.list(module.BUCKET) == []


async def test_a_named_claim_is_its_own_at_once(here: Place) -> None:
    await here.register("a")
    await here.register("b")
    await here.submit("j")
    assert await here.take("b") == "j"
    job = await here.job("j")
    assert (job.node, job.state) == ("b", State.RUNNING)
    assert here.statuses() == {"a": Status.IDLE, "b": Status.BUSY}
    assert await here.take("b") == Refusal.NO_WORKER
    assert await here.take("a") == Refusal.NO_JOB


async def test_an_unnamed_claim_is_bound_by_the_first_report(here: Place) -> None:
    await here.register("a")
    await here.register("b")
    await here.submit("1")
    await here.submit("2")
    assert [await here.take(), await here.take(), await here.take()] == ["1", "2", Refusal.NO_WORKER]
    assert (await here.job("1")).node is None
    assert here.workers.owner(await here.job("1")) == "a", "the first is shown until it is known better"
    await here.reports.stream("1", "b", Stream.STDOUT, "x")
    assert (await here.job("1")).node == "b"
    assert here.workers.owner(await here.job("2")) == "a"
    for call in (
        here.reports.stream("1", "a", Stream.STDOUT, "y"),
        here.reports.settle("1", "a", Result(exit_code=0), None, None),
        here.reports.stream("2", "unknown", Stream.STDOUT, "y"),
    ):
        with pytest.raises(JobConflictError) as caught:
            await call
        assert caught.value.code == "JOB_NOT_YOURS"
    await here.reports.settle("2", "a", Result(exit_code=0, reported=True), None, None)
    await here.reports.settle("1", "b", Result(exit_code=0, reported=True), None, None)
    assert here.statuses() == {"a": Status.IDLE, "b": Status.IDLE}


async def test_at_once_no_more_is_given_than_there_are_idle_workers(here: Place) -> None:
    for id in ("a", "b"):
        await here.register(id)
    for number in range(6):
        await here.submit(str(number))
    found = await asyncio.gather(*(here.take() for _ in range(6)))
    assert sorted(found)[:2] == ["0", "1"] and found.count(Refusal.NO_WORKER) == 4
    again = await asyncio.gather(*(here.take("a", slots=3) for _ in range(6)))
    assert sorted(again)[:3] == ["2", "3", "4"] and again.count(Refusal.NO_WORKER) == 3


async def test_the_jobs_of_a_lost_worker_wait_for_another(here: Place) -> None:
    await here.register("a")
    await here.submit("j")
    assert await here.take("a") == "j"
    first = await here.job("j")
    here.clock.now += 31
    await here.register("b")
    await here.workers.look()
    job = await here.job("j")
    assert (job.state, job.node, job.attempt) == (State.QUEUED, None, 1)
    assert await here.take("b") == "j"
    job = await here.job("j")
    assert (job.node, job.attempt) == ("b", 2) and job.token > first.token
    with pytest.raises(JobConflictError) as caught:
        await here.reports.settle("j", "a", Result(exit_code=0), None, None)
    assert caught.value.code == "JOB_NOT_YOURS"


async def test_a_job_that_is_lost_over_and_over_has_failed(here: Place) -> None:
    await here.submit("j")
    for number in range(4):
        await here.register(str(number))
        assert await here.take(str(number)) == "j"
        here.clock.now += 31
        await here.workers.look()
    job = await here.job("j")
    assert job.state is State.FAILED and job.result is not None and job.result.code == "WORKER_LOST"


async def test_an_unnamed_claim_is_lost_with_all_that_it_may_be_of(here: Place) -> None:
    await here.register("a", HERE)
    await here.register("b", HERE)
    await here.register("elsewhere", THERE)
    await here.submit("j")
    assert await here.take(address=HERE) == "j"
    here.clock.now += 20
    await here.workers.beat("elsewhere", Load(), THERE)
    await here.workers.beat("b", Load(), HERE)
    here.clock.now += 20
    await here.workers.look()
    assert (await here.job("j")).state is State.RUNNING
    here.clock.now += 20
    await here.workers.beat("elsewhere", Load(), THERE)
    await here.workers.look()
    assert (await here.job("j")).state is State.QUEUED


async def test_what_a_worker_does_not_know_of_never_arrived(here: Place) -> None:
    await here.register("a")
    for id in ("1", "2"):
        await here.submit(id)
    assert await here.take("a", slots=3, holds=[]) == "1"
    assert await here.take("a", slots=3, holds=["1"]) == "2"
    # The answer with the second was lost.
    assert await here.take("a", slots=3, holds=["1"]) == "2"
    assert (await here.job("2")).attempt == 2
    assert await here.take("a", slots=0, holds=["1"]) == Refusal.NO_WORKER
    assert (await here.job("2")).state is State.QUEUED
    assert (await here.job("1")).state is State.RUNNING


async def test_a_held_poll_gets_a_job_as_soon_as_there_is_one(here: Place) -> None:
    await here.register("a")
    polls = [asyncio.create_task(here.workers.poll("a", HERE, 60, slots=2)) for _ in range(2)]
    await asyncio.sleep(0.05)
    for id in ("1", "2"):
        await here.submit(id)
    found = await asyncio.gather(*polls)
    assert sorted(one.id for one in found if isinstance(one, Job)) == ["1", "2"]


async def test_a_poll_that_is_given_up_loses_no_job(here: Place) -> None:
    await here.register("a")
    for number in range(30):
        poll = asyncio.create_task(here.workers.poll("a", HERE, 60))
        await asyncio.sleep(0)
        submitting = asyncio.create_task(here.submit(f"{number}"))
        for _ in range(number):
            await asyncio.sleep(0.0005)
        poll.cancel()
        given = (await asyncio.gather(poll, return_exceptions=True))[0]
        await submitting
        if not isinstance(given, Job):
            await here.workers.close()
            assert (await here.job(f"{number}")).state is State.QUEUED
            assert await here.take("a") == f"{number}"
        await here.reports.settle(f"{number}", "a", Result(exit_code=0, reported=True), None, None)


async def test_an_answer_that_could_not_be_sent_gives_the_job_back(here: Place) -> None:
    await here.register("a")
    await here.submit("j")
    found = await here.workers.poll("a", HERE, 0)
    assert isinstance(found, Job)
    here.workers.undo(found)
    await here.workers.close()
    assert (await here.job("j")).state is State.QUEUED
    assert here.statuses() == {"a": Status.IDLE}


async def test_a_worker_gets_what_it_can_run(here: Place) -> None:
    await here.register("a")
    await here.submit("big", requirements=Requirements(min_memory_gb=4))
    await here.submit("small")
    assert await here.take("a", slots=9) == "small"
    await here.workers.beat("a", Load(1, 1024, 8192), HERE)
    assert await here.take("a", slots=9) == "big"


async def test_a_cancelled_job_is_over_for_its_worker_and_keeps_its_output(here: Place) -> None:
    await here.register("a")
    await here.submit("j")
    await here.take("a")
    assert not await here.reports.is_over("j", "a")
    assert await here.reports.is_over("j", "b"), "it is another's"
    await here.jobs.cancel("j", "why")
    assert await here.reports.is_over("j", "a") and await here.reports.is_over("j", None)
    await here.reports.settle("j", "a", Result(exit_code=130, reported=True), "all", None)
    job = await here.job("j")
    assert job.state is State.CANCELLED
    output = here.jobs.output(job)
    assert output is not None and output.read(Stream.STDOUT) == b"all"


async def test_output_goes_on_over_a_restart(tmp_path: Path) -> None:
    async with place(tmp_path) as before:
        await before.register("a")
        await before.submit("j")
        await before.take("a")
        assert await before.reports.stream("j", "a", Stream.STDOUT, "añ", 0) == 3
    async with place(tmp_path) as after:
        assert await after.reports.stream("j", "a", Stream.STDOUT, "ñb", 1) == 4
        with pytest.raises(OffsetError) as caught:
            await after.reports.stream("j", "a", Stream.STDOUT, "x", 9)
        assert caught.value.expected == 4
        await after.reports.settle("j", "a", Result(exit_code=0, reported=True), None, None)
        output = after.jobs.output(await after.job("j"))
        assert output is not None and output.read(Stream.STDOUT).decode() == "añb"


@pytest.mark.parametrize(
    ("streamed", "final", "rest"),
    [
        (b"", b"all", b"all"), (b"a\n", b"a\nb\n", b"b\n"), (b"a\n", b"a", None), (b"a\nb\n", b"a\nb\n", b""),
        (b" a\nb\n", b"a\nb", None), (b"lost the beginning", b"The beginning, and the rest", None),
    ],
)  # fmt: skip
def test_the_final_text_goes_on_from_what_was_streamed_or_takes_its_place(
    streamed: bytes, final: bytes, rest: bytes | None
) -> None:
    assert remainder(streamed, final) == rest
