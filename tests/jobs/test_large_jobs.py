"""Jobs with much content: it lies beside their records, whole, once, and counts."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from homed.config.jobs import JobKeeping
from homed.errors import JobConflictError, JobError, JobLimitError, JobSpaceError, NotFoundError, ValidationError
from homed.jobs import contents
from homed.jobs.keeping import Keeping
from homed.jobs.records import BUCKET, Archive, Command, Job, Origin, Requirements, Result, Script, State, Task, encode
from homed.jobs.submission import NewJob, Query
from tests.jobs.test_jobs import Board, board, new
from tests.support.job_world import World, world
from tests.support.stored_jobs import keys

LARGE = Script("echo hello\n" + "#" * 50_000)
ANSWER = {"answer": "x" * 20_000}


async def stored(w: World) -> set[str]:
    """What lies beside records, without the numbers of its pieces."""
    return {record.key.rpartition("/")[0] for record in await w.store.list(contents.BUCKET)}


async def ended(b: Board, result: Result, work: Any = LARGE, **more: Any) -> Job:
    job = await b.jobs.submit(new(work, **more))
    await b.world.until(job.id, State.RUNNING)
    b.world.runner.end(job.id, result)
    return await b.jobs.ended(job.id, 20)


def data(job: Job) -> Any:
    assert job.result is not None
    return msgspec.json.decode(job.result.data) if isinstance(job.result.data, msgspec.Raw) else job.result.data


async def test_a_large_job_is_whole_for_who_asks_and_small_in_memory(tmp_path: Path) -> None:
    async with board(tmp_path, slots=1) as b:
        first = await ended(b, Result(exit_code=0, data=ANSWER), metadata={"note": "n" * 5000})
        waits = await b.jobs.submit(new(LARGE, requirements=Requirements(required_role="nobody")))
        assert waits.work == LARGE  # who submits it gets it back
        assert len(encode(b.world.ledger.active()[0])) < 3000
        assert (await b.jobs.look(first.id)).work != LARGE
    async with board(tmp_path, slots=1) as b:
        for id in (first.id, waits.id):
            assert (await b.jobs.get(id)).work == LARGE
        found = await b.jobs.get(first.id)
        assert (data(found), found.metadata) == (ANSWER, {"note": "n" * 5000})
        assert len(encode(b.world.ledger.active()[0])) < 3000
        page = await b.jobs.page(Query(search="echo hello"))
        assert {job.id for job in page.jobs} == {first.id, waits.id}
        assert all(len(encode(job)) < 3000 for job in page.jobs)


async def test_a_work_of_some_size_is_whole_in_lists(tmp_path: Path) -> None:
    async with board(tmp_path, slots=1) as b:
        work = Script("#" * 6000)
        job = await b.jobs.submit(new(work))
        assert (await b.jobs.look(job.id)).work != work
        assert [one.work for one in (await b.jobs.page(Query())).jobs] == [work]


async def test_the_runner_gets_all_of_it_also_after_a_restart(tmp_path: Path) -> None:
    got: list[Any] = []

    async def run(self: Any, attempt: Any) -> Result:
        async with attempt.whole() as job:
            got.append(job.work)
        return Result(exit_code=0)

    requirements = Requirements(required_role="later")
    async with board(tmp_path) as b:
        job = await b.jobs.submit(new(LARGE, requirements=requirements))
    async with board(tmp_path) as b:
        b.world.runner.run = run.__get__(b.world.runner)  # type: ignore[method-assign]
        b.world.configure(node=msgspec.structs.replace(b.world.config.node, role="later"))
        b.world.scheduler.wake()
        await b.world.over(job.id)
    assert got == [LARGE]


async def test_a_job_that_failed_with_many_words_is_whole_for_its_next_try(tmp_path: Path) -> None:
    async with board(tmp_path) as b:
        job = await ended(b, Result(exit_code=1, code="EXIT", error="\x01" * 5000))
    async with board(tmp_path) as b:
        assert (await b.jobs.get(job.id)).work == LARGE
        assert (await b.jobs.retry(job.id)).beside.work
        assert (await b.jobs.get(job.id)).work == LARGE


async def test_a_result_that_an_older_homed_left_outlives_a_change_of_its_job(tmp_path: Path) -> None:
    async with board(tmp_path) as b:
        old = await b.jobs.get((await ended(b, Result(exit_code=1))).id)
        old = msgspec.structs.replace(old, id="old", result=Result(exit_code=1, data=ANSWER))
        await b.world.store.put(BUCKET, old.id, encode(old), 0)
        await b.world.ledger.change("old", lambda job, _: msgspec.structs.replace(job, why="it was looked at"))
        found = await b.jobs.get("old")
        assert (found.work, data(found), found.why) == (LARGE, ANSWER, "it was looked at")


async def test_each_result_replaces_the_one_before_and_all_goes_with_the_job(tmp_path: Path) -> None:
    async with board(tmp_path, keep=JobKeeping(count=0)) as b:
        job = await ended(b, Result(exit_code=1, data=ANSWER))
        assert await stored(b.world) == {f"{job.id}/work", f"{job.id}/1"}
        again = await b.jobs.retry(job.id)
        assert again.result is None
        assert await stored(b.world) == {f"{job.id}/work"}
        await b.world.until(job.id, State.RUNNING)
        b.world.runner.end(job.id, Result(exit_code=0, data=ANSWER | {"second": 2}))
        await b.jobs.ended(job.id, 20)
        assert data(await b.jobs.get(job.id)) == ANSWER | {"second": 2}
        assert await stored(b.world) == {f"{job.id}/work", f"{job.id}/2"}
        keeping = Keeping(b.world.ledger, b.listing, b.world.outputs, lambda: b.world.config)
        assert await keeping.sweep() == 1
        assert await stored(b.world) == set()
        with pytest.raises(NotFoundError):
            await b.jobs.get(job.id)


async def test_a_result_of_a_try_that_is_followed_by_another_is_not_left_behind(tmp_path: Path) -> None:
    async with board(tmp_path, slots=1) as b:
        job = await b.jobs.submit(new(max_retries=1))
        await b.world.until(job.id, State.RUNNING)
        b.world.runner.end(job.id, Result(exit_code=1, data=ANSWER))
        await b.world.when(job.id, lambda one: one.attempt == 2 and one.state is State.RUNNING)
        assert await stored(b.world) == set()
        b.world.runner.end(job.id)
        await b.world.over(job.id)


async def test_what_an_older_homed_has_written_is_read_run_and_kept(tmp_path: Path) -> None:
    """Everything was inside its record then."""
    async with board(tmp_path) as b:
        made = await ended(b, Result(exit_code=1))
        old = await b.jobs.get(made.id)
        waits = msgspec.structs.replace(
            old, id="waits", state=State.QUEUED, attempt=0, node=None, token=0, handle=None, result=None,
            started_at=None, finished_at=None,
        )  # fmt: skip
        failed = msgspec.structs.replace(
            old, id="failed", result=Result(exit_code=1, data=ANSWER), work=Task("echo", keys(100_000))
        )
        for one in (waits, failed):
            await b.world.store.put(BUCKET, one.id, encode(one), 0)
    async with board(tmp_path) as b:
        assert (await b.jobs.get("failed")) == failed
        assert len(encode((await b.jobs.page(Query(search="echo"))).jobs[0])) < 3000
        await b.world.until("waits", State.RUNNING)
        assert (await b.jobs.get("waits")).work == LARGE
        assert "waits/work" in await stored(b.world)
        b.world.runner.end("waits", Result(exit_code=0, data=ANSWER))
        assert data(await b.jobs.get((await b.world.over("waits")).id)) == ANSWER
        again = await b.jobs.retry("failed")
        assert (again.state, again.result) == (State.QUEUED, None)
        assert (await b.jobs.get("failed")).work == failed.work
    async with board(tmp_path) as b:
        assert (await b.jobs.get("failed")).work == failed.work
        assert (await b.jobs.get("waits")).work == LARGE


async def test_content_that_is_gone_from_the_store_is_an_error_and_no_shorter_job(tmp_path: Path) -> None:
    async with board(tmp_path) as b:
        job = await b.jobs.submit(new(LARGE, requirements=Requirements(required_role="nobody")))
        await b.world.store.delete(contents.BUCKET, f"{job.id}/work/00001", None)
        with pytest.raises(JobError) as error:
            await b.jobs.get(job.id)
        assert error.value.code == "JOB_CONTENT_MISSING"
        assert [one.id for one in (await b.jobs.page(Query())).jobs] == [job.id]


async def test_a_record_too_deep_to_be_read_does_not_keep_the_others_from_being_read(tmp_path: Path) -> None:
    async with board(tmp_path) as b:
        job = await ended(b, Result(exit_code=0))
        for size in (5_000, 50_000):
            await b.world.store.put(BUCKET, f"deep{size}", b'{"work":' + b"[" * size + b"]" * size + b"}", 0)
    async with board(tmp_path) as b:
        assert (await b.jobs.get(job.id)).work == LARGE
        with pytest.raises(NotFoundError):
            await b.jobs.get("deep5000")


async def test_content_that_is_damaged_is_an_error_of_that_job_alone(tmp_path: Path) -> None:
    async with board(tmp_path, slots=1) as b:
        jobs = [await b.jobs.submit(new(LARGE, requirements=Requirements(required_role="nobody"))) for _ in range(2)]
        key = f"{jobs[0].id}/work/00000"
        piece = await b.world.store.get(contents.BUCKET, key)
        assert piece is not None
        await b.world.store.put(contents.BUCKET, key, b"\xff" + piece.value[1:], None)
        with pytest.raises(JobError) as error:
            await b.jobs.get(jobs[0].id)
        assert error.value.code == "JOB_CONTENT_DAMAGED"
        assert (await b.jobs.get(jobs[1].id)).work == LARGE
        assert (await b.jobs.page(Query())).total == 2


async def test_records_payloads_and_results_count_in_what_is_kept(tmp_path: Path) -> None:
    async with board(tmp_path, keep=JobKeeping(size=150_000)) as b:
        jobs = [await ended(b, Result(exit_code=0, data=ANSWER)) for _ in range(4)]
        count, size = await b.listing.finished()
        assert count == 4
        assert 4 * 70_000 < size < 4 * 75_000
        keeping = Keeping(b.world.ledger, b.listing, b.world.outputs, lambda: b.world.config)
        assert await keeping.sweep() == 2
        assert {job.id for job in (await b.jobs.page(Query())).jobs} == {jobs[2].id, jobs[3].id}
        await keeping.give_back()


async def test_a_store_gives_the_space_of_forgotten_jobs_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homed.jobs.keeping._SPARE_BYTES", 1 << 20)
    async with board(tmp_path, keep=JobKeeping(count=0)) as b:
        for _ in range(8):
            await ended(b, Result(exit_code=0), Script("#" * 1_000_000))
        keeping = Keeping(b.world.ledger, b.listing, b.world.outputs, lambda: b.world.config)
        assert await keeping.sweep() == 8
        await keeping.give_back()
    assert (tmp_path / "homed.db").stat().st_size < 3 << 20


async def test_the_bytes_of_the_queue_are_bounded_however_many_come_at_once(tmp_path: Path) -> None:
    async with board(tmp_path, slots=1, queue_bytes=1 << 20) as b:
        nobody = Requirements(required_role="nobody")
        work = Script("#" * 100_000)
        made = await asyncio.gather(
            *(b.jobs.submit(new(work, requirements=nobody)) for _ in range(30)), return_exceptions=True
        )
        jobs = [one for one in made if isinstance(one, Job)]
        refused = [one for one in made if isinstance(one, JobSpaceError)]
        assert (len(jobs), len(refused)) == (10, 20)
        assert (refused[0].code, refused[0].status, refused[0].retry_after) == ("QUEUE_SPACE", 507, 10)
        await b.jobs.submit(new())  # a small one has room
        assert b.world.ledger.unfinished_bytes == sum(
            [len(r.value) for r in [*await b.world.store.list(BUCKET), *await b.world.store.list(contents.BUCKET)]]
        )
    async with board(tmp_path, slots=1, queue_bytes=1 << 20) as b:
        with pytest.raises(JobSpaceError):
            await b.jobs.submit(new(work, requirements=nobody))
        await b.jobs.cancel(jobs[0].id)
        with pytest.raises(JobSpaceError):  # it takes as much once more
            await asyncio.gather(b.jobs.submit(new(work, requirements=nobody)), b.jobs.retry(jobs[0].id))


async def test_jobs_that_wait_for_their_next_try_are_counted_as_waiting(tmp_path: Path) -> None:
    async with board(tmp_path, slots=4, queue=3, retry_delay=3600) as b:
        for _ in range(3):
            job = await b.jobs.submit(new(max_retries=5))
            await b.world.until(job.id, State.RUNNING)
            b.world.runner.end(job.id, Result(exit_code=1))
            await b.world.until(job.id, State.PENDING)
        assert b.world.ledger.waiting == 3
        with pytest.raises(JobLimitError):
            await b.jobs.submit(new())


@pytest.mark.parametrize(
    ("work", "host", "field"),
    [
        (Command("x" * 131_072), None, "command"),
        (Command("é" * 60_000, "é" * 6_000), None, "command"),
        (Archive("x" * 131_072, "/uploads/1-a.zip", "a.zip"), None, "command"),
        (Archive("x" * 1_000_000, "/uploads/1-a.zip", "a.zip"), None, "command"),
        (Archive("true", "https://a.example/" + "x" * 5000, "a.zip"), None, "fileUrl"),
        (Script("x" * (1 << 20)), None, "script"),
        (Script("true", "x" * 5000), None, "shell"),
        (Command("x" * (1 << 20)), "on", "command"),
        (Task("echo", {"a": "x" * (1 << 20)}), None, "payload"),
        (Task("command", {"command": "é" * 65_536}), None, "payload.command"),
        (Task("command", {"command": "true", "args": "x" * 131_072}), None, "payload.command"),
        (Task("command", {"command": "true", "args": ["é" * 65_536]}), None, "payload.args"),
        (Task("command", {"command": "true", "env": {"A": "x" * 131_072}}), None, "payload.env.A"),
    ],
)
async def test_what_could_never_run_or_be_held_is_refused(
    tmp_path: Path, work: Any, host: str | None, field: str
) -> None:
    async with board(tmp_path) as b:
        with pytest.raises(ValidationError) as error:
            await b.jobs.submit(new(work, host=host))
        assert [one.field for one in error.value.errors] == [field]
        assert (await b.jobs.page(Query())).total == 0


async def test_the_longest_line_that_a_program_can_be_given_is_taken(tmp_path: Path) -> None:
    async with board(tmp_path) as b:
        for work in (Command("x" * 131_071), Archive("x" * 131_071, "/uploads/1-a.zip", "a.zip")):
            assert (await b.jobs.get((await b.jobs.submit(new(work))).id)).work == work


async def test_requirements_that_would_be_held_are_small(tmp_path: Path) -> None:
    async with board(tmp_path) as b:
        tags = tuple("\U0001f600" * 60 + str(i) for i in range(60))
        with pytest.raises(ValidationError) as error:
            await b.jobs.submit(new(requirements=Requirements(required_tags=tags)))
        assert [one.field for one in error.value.errors] == ["requirements"]


async def test_what_waits_holds_no_content_in_memory_and_is_cancelled_at_once(tmp_path: Path) -> None:
    """Of each waiting job a few hundred bytes are held, however large its work is."""
    async with world(tmp_path, slots=1, queue=20_000) as w:
        made = [await w.submit(f"j{i}", LARGE, requirements=Requirements(required_role="nobody")) for i in range(50)]
        assert sum(len(encode(job)) for job in w.ledger.active()) < 50 * 3000
        await asyncio.gather(*(w.scheduler.end(job.id, State.CANCELLED, "enough") for job in made))
        assert (w.ledger.unfinished, w.ledger.unfinished_bytes, w.ledger.waiting) == (0, 0, 0)


async def test_a_claim_of_what_is_removed_meanwhile_is_no_shorter_job(tmp_path: Path) -> None:
    async with board(tmp_path) as b:
        new_one = NewJob(
            origin=Origin.EXECUTOR, work=Archive("true\n" * 20_000, "/uploads/1-a.zip", "a.zip"),
            metadata={"mode": "distributed"},
        )  # fmt: skip
        job = await b.jobs.submit(new_one)
        claimed = await b.jobs.claims.claim("w")
        assert claimed is not None
        assert claimed.id == job.id
        assert (await b.jobs.whole(claimed)).work == new_one.work
        settled = await b.jobs.claims.settle(job.id, "w", Result(exit_code=0, reported=True))
        assert settled.ended
        with pytest.raises(JobConflictError):
            await b.jobs.cancel(job.id)
