"""Submitting, trying again, keeping: what the rest of homed sees of jobs, with a real store, index and files."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from homed.config.jobs import JobKeeping
from homed.errors import (
    ForbiddenError,
    InactiveHostError,
    JobConflictError,
    JobLimitError,
    NotFoundError,
    ValidationError,
)
from homed.jobs.jobs import Jobs, time_ordered
from homed.jobs.keeping import Keeping
from homed.jobs.listing import JobListing
from homed.jobs.records import Command, Job, Origin, Result, Script, State, Task, Work
from homed.jobs.submission import LOCAL_HOST, NewJob, Query
from tests.support.job_world import World, world


class Host(NamedTuple):
    is_active: bool


class Hosts:
    def get(self, id: str) -> Host:
        if id not in ("on", "off"):
            raise NotFoundError("no such host", code="HOST_NOT_FOUND")
        return Host(id == "on")


@dataclass
class Board:
    world: World
    jobs: Jobs
    listing: JobListing

    async def done(self, work: Work, **more: Any) -> Job:
        """A job that has succeeded."""
        job = await self.jobs.submit(new(work, **more))
        await self.world.until(job.id, State.RUNNING)
        self.world.runner.end(job.id)
        return await self.jobs.ended(job.id, 20)


def new(work: Work | None = None, **more: Any) -> NewJob:
    return NewJob(origin=Origin.NEWREMORA, work=work or Command("true"), **more)


@asynccontextmanager
async def board(folder: Path, **config: Any) -> AsyncIterator[Board]:
    async with world(folder, **config) as made:
        listing = JobListing()
        await listing.open()
        for job in made.index.jobs.values():
            listing.put(job, 0)
        made.index.put, made.index.drop = listing.put, listing.drop  # type: ignore[method-assign]
        jobs = Jobs(
            made.ledger, made.scheduler, made.claims, made.nodes, listing, made.outputs, Hosts(), lambda: made.config
        )
        try:
            yield Board(made, jobs, listing)
        finally:
            await listing.close()


async def test_what_is_submitted_is_queued_with_what_the_configuration_says(tmp_path: Path) -> None:
    async with board(tmp_path, timeout=7, slots=1) as b:
        job = await b.jobs.submit(new(priority=8, submitted_by="key:a"))
        assert (job.timeout, job.priority, job.submitted_by, job.attempt) == (7, 8, "key:a", 0)
        assert await b.jobs.get(job.id) == await b.world.ledger.get(job.id)


async def test_the_same_key_gives_the_same_job_however_many_come_at_once(tmp_path: Path) -> None:
    async with board(tmp_path) as b:
        jobs = await asyncio.gather(*(b.jobs.submit(new(key="k", submitted_by="a")) for _ in range(20)))
        assert len({job.id for job in jobs}) == 1
        assert (await b.jobs.submit(new(key="k", submitted_by="b"))).id != jobs[0].id
        with pytest.raises(JobConflictError) as refused:
            await b.jobs.submit(new(Command("false"), key="k", submitted_by="a"))
        assert refused.value.code == "KEY_REUSED"
        assert (await b.jobs.page(Query())).total == 2


async def test_a_key_is_known_after_a_restart_and_after_the_job_has_ended(tmp_path: Path) -> None:
    async with board(tmp_path) as b:
        first = await b.done(Command("true"), key="k")
    async with board(tmp_path) as b:
        assert await b.jobs.submit(new(key="k")) == first


async def test_a_full_queue_takes_no_more(tmp_path: Path) -> None:
    async with board(tmp_path, slots=1, queue=2) as b:
        running = await b.jobs.submit(new())
        await b.world.until(running.id, State.RUNNING)
        for _ in range(2):
            await b.jobs.submit(new())
        with pytest.raises(JobLimitError) as refused:
            await b.jobs.submit(new())
        assert refused.value.code == "QUEUE_FULL"


async def test_a_full_queue_still_knows_a_job_by_its_key(tmp_path: Path) -> None:
    async with board(tmp_path, slots=1, queue=1) as b:
        first = await b.jobs.submit(new(key="k"))
        await b.world.until(first.id, State.RUNNING)
        await b.jobs.submit(new())
        assert (await b.jobs.submit(new(key="k"))).id == first.id


async def test_a_job_that_is_tried_again_while_it_is_to_go_stays_whole(tmp_path: Path) -> None:
    async with board(tmp_path, slots=1) as b:
        bad = await b.jobs.submit(new())
        await b.world.until(bad.id, State.RUNNING)
        b.world.runner.end(bad.id, Result(exit_code=1))
        await b.jobs.ended(bad.id, 20)
        gone, again = await asyncio.gather(
            b.world.ledger.remove([bad.id]), b.jobs.retry(bad.id), return_exceptions=True
        )
        if gone:
            assert isinstance(again, NotFoundError)
        else:
            assert (await b.world.until(bad.id, State.RUNNING)).attempt == 2


async def test_a_board_that_runs_no_jobs_takes_none(tmp_path: Path) -> None:
    async with board(tmp_path, enabled=False) as b:
        with pytest.raises(ForbiddenError) as refused:
            await b.jobs.submit(new())
        assert refused.value.code == "JOBS_DISABLED"


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (new(timeout=0), "timeout"),
        (new(timeout=100_000), "timeout"),
        (new(user="root"), "user"),
        (new(Command(" ")), "command"),
        (new(Command("a\0b")), "command"),
        (new(Command("a", "\0")), "args"),
        (new(Script("")), "script"),
        (new(Script("true", shell="")), "shell"),
        (new(Task("sleep", {})), "payload.duration"),
        (new(Task("nonsense")), "task_type"),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_its_field(tmp_path: Path, wanted: NewJob, field: str) -> None:
    async with board(tmp_path) as b:
        with pytest.raises(ValidationError) as refused:
            await b.jobs.submit(wanted)
        assert [error.field for error in refused.value.errors] == [field]


async def test_a_task_type_that_the_file_does_not_list_is_refused(tmp_path: Path) -> None:
    async with board(tmp_path, task_types=("echo",)) as b:
        assert (await b.jobs.submit(new(Task("echo", {"x": 1})))).state is State.QUEUED
        with pytest.raises(ValidationError):
            await b.jobs.submit(new(Task("command", {"command": "id"})))


async def test_a_host_must_be_there_and_active(tmp_path: Path) -> None:
    async with board(tmp_path) as b:
        assert (await b.jobs.submit(new(host="on"))).host == "on"
        with pytest.raises(NotFoundError):
            await b.jobs.submit(new(host="none"))
        with pytest.raises(InactiveHostError):
            await b.jobs.submit(new(host="off"))


async def test_only_what_did_not_succeed_can_be_tried_again(tmp_path: Path) -> None:
    async with board(tmp_path) as b:
        good = await b.done(Command("true"))
        with pytest.raises(JobConflictError) as refused:
            await b.jobs.retry(good.id)
        assert refused.value.code == "CANNOT_RETRY"
        bad = await b.jobs.submit(new())
        await b.world.until(bad.id, State.RUNNING)
        b.world.runner.end(bad.id, Result(exit_code=1))
        await b.jobs.ended(bad.id, 20)
        assert (await b.jobs.retry(bad.id)).state is State.QUEUED
        await b.world.until(bad.id, State.RUNNING)
        b.world.runner.end(bad.id)
        ended = await b.jobs.ended(bad.id, 20)
        assert (ended.state, ended.attempt) == (State.SUCCEEDED, 2)


async def test_what_has_ended_cannot_be_cancelled(tmp_path: Path) -> None:
    async with board(tmp_path) as b:
        job = await b.done(Command("true"))
        with pytest.raises(JobConflictError) as refused:
            await b.jobs.cancel(job.id)
        assert refused.value.code == "JOB_ENDED"


async def test_a_job_that_waits_says_why(tmp_path: Path) -> None:
    async with board(tmp_path, slots=1) as b:
        first = await b.jobs.submit(new())
        await b.world.until(first.id, State.RUNNING)
        waits = await b.jobs.submit(new())
        assert b.jobs.refusals(waits) == {"board": "it is busy"}
        assert b.jobs.refusals(await b.jobs.get(first.id)) == {}


async def test_lists_are_as_the_records_at_once(tmp_path: Path) -> None:
    async with board(tmp_path, slots=1) as b:
        made = [await b.jobs.submit(new(Command(f"echo {n}"))) for n in range(5)]
        page = await b.jobs.page(Query(search="echo 3", host=LOCAL_HOST))
        assert ([job.id for job in page.jobs], page.total) == ([made[3].id], 1)
        await b.jobs.cancel(made[4].id)
        page = await b.jobs.page(Query(states=(State.CANCELLED,)))
        assert [job.id for job in page.jobs] == [made[4].id]


async def test_finished_jobs_go_with_their_output_and_running_ones_stay(tmp_path: Path) -> None:
    async with board(tmp_path, keep=JobKeeping(count=2)) as b:
        b.world.runner.print = b"output"
        ended = [await b.done(Command("true")) for _ in range(4)]
        runs = await b.jobs.submit(new())
        await b.world.until(runs.id, State.RUNNING)
        keeping = Keeping(b.world.ledger, b.listing, b.world.outputs, lambda: b.world.config)
        assert await keeping.sweep() == 2
        assert await keeping.sweep() == 0
        left = sorted(path.name for path in (tmp_path / "jobs").iterdir())
        assert left == sorted([ended[2].id, ended[3].id, runs.id])
        with pytest.raises(NotFoundError):
            await b.jobs.get(ended[0].id)
        assert (await b.jobs.page(Query())).total == 3


def test_ids_that_are_made_later_sort_later_and_are_uuids_of_version_7() -> None:
    ids = [time_ordered() for _ in range(50)]
    assert len(set(ids)) == 50
    assert {id[14] for id in ids} == {"7"}
    assert {id[19] for id in ids} <= set("89ab")
    stamp = int(ids[0].replace("-", "")[:12], 16) / 1000
    assert abs(datetime.fromtimestamp(stamp, UTC) - datetime.now(UTC)) < timedelta(minutes=1)
