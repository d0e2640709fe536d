"""Jobs from the queue to their end: with a real store and real files, and a runner that does as it is told."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from homed.clock import now
from homed.errors import JobConflictError, JobError, StoreError
from homed.jobs.output.output import Output
from homed.jobs.ports import Attempt
from homed.jobs.records import Archive, Job, Requirements, Result, State
from homed.jobs.transitions import advance
from tests.support.job_world import World, world

ARCHIVE = Archive("make", "/uploads/1-a.zip", "a.zip")


async def test_a_job_goes_all_the_way_and_each_step_is_told(tmp_path: Path) -> None:
    async with world(tmp_path) as board:
        await board.submit("j")
        running = await board.until("j", State.RUNNING)
        assert (running.node, running.attempt, running.handle is not None) == ("board", 1, True)
        board.runner.end("j")
        ended = await board.over("j")
        assert ended.state is State.SUCCEEDED
        assert board.states("j") == ["queued", "assigned", "running", "succeeded"]
        await board.when("j", lambda job: board.runner.released == ["j"])
        assert [job.id for job in board.ended] == ["j"]


async def test_no_more_run_at_once_than_there_are_slots(tmp_path: Path) -> None:
    async with world(tmp_path, slots=2) as board:
        for id in "abc":
            await board.submit(id)
        await board.until("a", State.RUNNING)
        await board.until("b", State.RUNNING)
        assert (await board.ledger.get("c")).state is State.QUEUED
        board.runner.end("a")
        await board.until("c", State.RUNNING)


async def test_no_host_gets_more_sessions_than_it_may(tmp_path: Path) -> None:
    from homed.config.jobs import JobSsh

    async with world(tmp_path, ssh=JobSsh(per_host=1)) as board:
        await board.submit("a", host="h")
        await board.submit("b", host="h")
        await board.submit("c", host="other")
        await board.until("c", State.RUNNING)
        assert (await board.ledger.get("b")).state is State.QUEUED
        board.runner.end("a")
        await board.until("b", State.RUNNING)


async def test_what_fits_nowhere_waits_and_holds_up_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as board:
        await board.submit("gpu", requirements=Requirements(gpu_required=True), priority=10)
        await board.submit("j")
        await board.until("j", State.RUNNING)
        assert (await board.ledger.get("gpu")).state is State.QUEUED


async def test_a_failed_attempt_is_followed_by_another_in_a_folder_of_its_own(tmp_path: Path) -> None:
    async with world(tmp_path) as board:
        board.runner.print = b"out"
        await board.submit("j", max_retries=1)
        await board.until("j", State.RUNNING)
        board.runner.end("j", Result(exit_code=1))
        await board.when("j", lambda job: job.attempt == 2 and job.state is State.RUNNING)
        board.runner.end("j", Result(exit_code=2))
        ended = await board.over("j")
        assert (ended.state, ended.attempt) == (State.FAILED, 2)
        assert ended.result == Result(exit_code=2, code="EXIT", error="it ended with 2")
        assert [(tmp_path / "jobs" / "j" / n / "stdout").read_bytes() for n in "12"] == [b"out", b"out"]
        assert ended.size >= 6


async def test_a_waiting_job_is_cancelled_at_once(tmp_path: Path) -> None:
    async with world(tmp_path, slots=1) as board:
        await board.submit("a")
        await board.until("a", State.RUNNING)
        await board.submit("b")
        ended = await board.scheduler.end("b", State.CANCELLED, "nobody wants it")
        assert ended.state is State.CANCELLED
        assert ended.result == Result(code="CANCELLED", error="nobody wants it")
        board.runner.end("a")
        await board.over("a")
        assert board.runner.begun == ["a"]


async def test_a_running_job_that_is_cancelled_is_killed_and_not_tried_again(tmp_path: Path) -> None:
    async with world(tmp_path) as board:
        await board.submit("j", max_retries=5)
        await board.until("j", State.RUNNING)
        await board.scheduler.end("j", State.CANCELLED, "enough")
        ended = await board.over("j")
        assert (ended.state, board.runner.killed) == (State.CANCELLED, ["j"])
        assert ended.result == Result(signal="SIGTERM", code="CANCELLED", error="enough")


async def test_a_job_that_runs_for_too_long_is_killed(tmp_path: Path) -> None:
    async with world(tmp_path) as board:
        await board.submit("j", timeout=0.05)
        ended = await board.over("j")
        assert (ended.state, board.runner.killed) == (State.TIMED_OUT, ["j"])
        assert ended.result is not None
        assert ended.result.error == "it ran for longer than 0.05 s"


async def test_a_job_that_waits_past_its_deadline_has_timed_out(tmp_path: Path) -> None:
    async with world(tmp_path, slots=1) as board:
        await board.submit("a")
        await board.until("a", State.RUNNING)
        await board.submit("b", deadline=now() + timedelta(seconds=0.05))
        ended = await board.over("b")
        assert (ended.state, ended.attempt) == (State.TIMED_OUT, 0)


async def test_a_runner_that_refuses_fails_the_job_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(attempt: Attempt) -> Result:
        raise JobError("there is no such shell", code="SHELL_NOT_FOUND")

    async with world(tmp_path) as board:
        monkeypatch.setattr(board.runner, "run", refuse)
        await board.submit("j")
        ended = await board.over("j")
        assert ended.result == Result(code="SHELL_NOT_FOUND", error="there is no such shell")


async def test_an_error_of_our_own_ends_the_job_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def stumble(attempt: Attempt) -> Result:
        raise ZeroDivisionError

    async with world(tmp_path) as board:
        with monkeypatch.context() as patched:
            patched.setattr(board.runner, "run", stumble)
            await board.submit("a")
            ended = await board.over("a")
        assert ended.result is not None
        assert (ended.state, ended.result.code, board.runner.killed) == (State.FAILED, "JOB_ERROR", ["a"])
        await board.submit("b")
        await board.until("b", State.RUNNING)
        board.runner.end("b", Result(data={"not text": "\ud800"}))
        ended = await board.over("b")
        assert ended.result is not None
        assert (ended.state, ended.result.code) == (State.FAILED, "JOB_ERROR")
    assert "ZeroDivisionError" in caplog.text


async def test_a_result_is_not_lost_where_the_store_fails_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homed.jobs.scheduler._AGAIN", 0.01)
    async with world(tmp_path) as board:
        await board.submit("j")
        await board.until("j", State.RUNNING)
        write, failures = board.store.write, [3]

        async def fail(*arguments: object) -> Sequence[int]:
            if failures[0]:
                failures[0] -= 1
                raise StoreError("the disk is full")
            return await write(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(board.store, "write", fail)
        board.runner.end("j")
        assert (await board.over("j")).state is State.SUCCEEDED
        assert failures == [0]


async def test_what_goes_on_without_homed_is_taken_up_by_the_next(tmp_path: Path) -> None:
    async with world(tmp_path) as board:
        for id in ("goes-on", "ended", "lost", "never"):
            await board.submit(id)
            await board.until(id, State.RUNNING)
    async with world(tmp_path, slots=4) as board:
        board.runner.end("goes-on")
        assert (await board.over("goes-on")).state is State.SUCCEEDED
        assert board.runner.begun == []


@pytest.mark.parametrize(
    ("found", "state", "attempts"),
    [
        (Result(exit_code=0), State.SUCCEEDED, 1),
        (Result(exit_code=9), State.FAILED, 1),
        (Result(code="JOB_LOST", error="nobody knows"), State.FAILED, 1),
        (None, State.SUCCEEDED, 2),
    ],
)
async def test_what_became_of_a_job_meanwhile_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Result | None, state: State, attempts: int
) -> None:
    async with world(tmp_path) as board:
        await board.submit("j")
        await board.until("j", State.RUNNING)
    made = World.__init__

    def scripted(self: World, *arguments: object) -> None:
        made(self, *arguments)  # type: ignore[arg-type]
        self.runner.found["j"] = found

    monkeypatch.setattr(World, "__init__", scripted)
    async with world(tmp_path) as board:
        if found is None:
            await board.until("j", State.RUNNING)
            await board.when("j", lambda job: job.attempt == 2)
            board.runner.end("j")
        ended = await board.over("j")
        assert (ended.state, ended.attempt, ended.tries) == (state, attempts, 1)


async def test_what_was_to_be_ended_when_homed_was_killed_is_ended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as board:
        await board.submit("j")
        await board.until("j", State.RUNNING)

        async def nothing(job: object) -> None:
            pass

        monkeypatch.setattr(board.runner, "kill", nothing)
        await board.scheduler.end("j", State.CANCELLED, "enough")
    async with world(tmp_path) as board:
        ended = await board.over("j")
        assert (ended.state, board.runner.killed) == (State.CANCELLED, ["j"])


async def test_what_waited_waits_on_after_a_restart_in_its_order(tmp_path: Path) -> None:
    async with world(tmp_path, slots=1) as board:
        await board.submit("first")
        await board.until("first", State.RUNNING)
        await board.submit("low", priority=2)
        await board.submit("urgent", priority=10)
    async with world(tmp_path, slots=1) as board:
        board.runner.end("first")
        await board.until("urgent", State.RUNNING)
        assert (await board.ledger.get("low")).state is State.QUEUED


async def test_a_claim_without_an_owner_is_its_who_reports_first(tmp_path: Path) -> None:
    async with world(tmp_path) as board:
        await board.submit("j", ARCHIVE, metadata={"mode": "distributed"})
        claimed = await board.claims.claim(None)
        assert claimed is not None
        assert (claimed.id, claimed.state, claimed.node) == ("j", State.RUNNING, None)
        assert await board.claims.claim(None) is None
        await board.claims.bind("j", "w1")
        with pytest.raises(JobConflictError) as refused:
            await board.claims.settle("j", "w2", Result(exit_code=0, reported=True))
        assert refused.value.code == "JOB_NOT_YOURS"
        ended = await board.claims.settle("j", "w1", Result(exit_code=0, reported=True))
        assert (ended.state, ended.node) == (State.SUCCEEDED, "w1")
        with pytest.raises(JobConflictError) as refused:
            await board.claims.settle("j", "w1", Result(exit_code=0, reported=True))
        assert refused.value.code == "JOB_ENDED"


async def test_a_claim_of_a_worker_that_is_gone_waits_for_another_but_not_for_ever(tmp_path: Path) -> None:
    async with world(tmp_path) as board:
        await board.submit("j", ARCHIVE, metadata={"mode": "distributed"})
        for _ in range(4):
            claimed = await board.claims.claim("w")
            assert claimed is not None
            await board.claims.give_back("j", claimed.token - 1, "an old one")
            assert (await board.ledger.get("j")).state is State.RUNNING
            await board.claims.give_back("j", claimed.token, "the worker is gone")
        ended = await board.over("j")
        assert ended.result == Result(code="WORKER_LOST", error="the worker is gone")


async def test_a_claim_whose_output_cannot_be_kept_waits_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(id: str, attempt: int) -> Output:
        raise OSError(28, "No space left on device")

    async with world(tmp_path) as board:
        await board.submit("j", ARCHIVE, metadata={"mode": "distributed"})
        with monkeypatch.context() as patched:
            patched.setattr(board.outputs, "create", full)
            with pytest.raises(JobError, match="cannot be kept"):
                await board.claims.claim("w")
        await board.until("j", State.QUEUED)
        claimed = await board.claims.claim("w")
        assert claimed is not None
        assert claimed.tries == 1


async def test_two_claims_at_once_get_two_jobs(tmp_path: Path) -> None:
    async with world(tmp_path) as board:
        for id in "ab":
            await board.submit(id, ARCHIVE, metadata={"mode": "distributed"})
        claimed = await asyncio.gather(*(board.claims.claim(f"w{n}") for n in range(5)))
        assert sorted(job.id for job in claimed if job is not None) == ["a", "b"]


async def test_a_cancelled_claim_that_nobody_reports_on_ends_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homed.jobs.scheduler._PATIENCE", 0.05)
    async with world(tmp_path) as board:
        await board.submit("j", ARCHIVE, metadata={"mode": "distributed"})
        await board.claims.claim("w")
        await board.scheduler.end("j", State.CANCELLED, "enough")
        assert (await board.over("j")).state is State.CANCELLED


async def test_a_job_may_take_longer_than_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path) as board:
        loop = asyncio.get_running_loop()
        await board.submit("j", timeout=7200)
        await board.until("j", State.RUNNING)
        time = loop.time
        monkeypatch.setattr(loop, "time", lambda: time() + 3700)
        await asyncio.sleep(0.1)
        assert (await board.ledger.get("j")).asked_to_end is None
        monkeypatch.setattr(loop, "time", lambda: time() + 7300)
        await asyncio.sleep(0)
        ended = await board.over("j")
        assert ended.state is State.TIMED_OUT
        monkeypatch.undo()


async def test_a_job_that_is_tried_again_begins_when_its_last_attempt_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as board:
        cleared, release = asyncio.Event(), board.runner.release

        async def late(job: Job) -> None:
            await cleared.wait()
            await release(job)

        monkeypatch.setattr(board.runner, "release", late)
        await board.submit("j")
        await board.until("j", State.RUNNING)
        board.runner.end("j", Result(exit_code=1))
        await board.over("j")
        board.scheduler.enqueue(await board.ledger.change("j", lambda job, _: advance(job, State.QUEUED, now())))
        await asyncio.sleep(0.05)
        assert board.runner.begun == ["j"]
        cleared.set()
        await board.until("j", State.RUNNING)
        await board.scheduler.end("j", State.CANCELLED, "enough")
        assert (await board.over("j")).state is State.CANCELLED
        assert board.runner.begun == ["j", "j"]
        assert board.runner.killed == ["j"]
