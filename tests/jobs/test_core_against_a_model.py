"""The core of jobs against a model that knows only what was promised: nothing is lost, done twice, or taken back."""

import asyncio
import contextlib
import tempfile
from pathlib import Path

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from homed.errors import JobConflictError
from homed.jobs.records import ENDED, Archive, Command, Job, Result, State, Work
from homed.jobs.transitions import advance
from tests.support.job_world import World, world

SLOTS = 2
ARCHIVE = Archive("make", "/uploads/1-a.zip", "a.zip")
LARGE = "#" * 5000  # it lies beside the job's record
RETRIED = (State.FAILED, State.CANCELLED, State.TIMED_OUT)


class Core(RuleBasedStateMachine):
    """`ended` are the jobs that were told as ended, and as what; `claimed` those that a worker has, by their token."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.ids: list[str] = []
        self.works: dict[str, Work] = {}
        self.ended: dict[str, State] = {}
        self.answers: dict[str, str | None] = {}
        self.claimed: dict[str, int] = {}
        self.begin()

    def begin(self) -> None:
        self.context = world(Path(self.folder.name), slots=SLOTS)
        self.board: World = self.loop.run_until_complete(self.context.__aenter__())

    def stop(self) -> None:
        self.loop.run_until_complete(self.context.__aexit__(None, None, None))

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.stop()
            self.loop.close()
            self.folder.cleanup()

    def job(self, id: str) -> Job:
        return self.loop.run_until_complete(self.board.ledger.get(id))

    def whole(self, id: str) -> Job:
        return self.loop.run_until_complete(self.board.ledger.whole(self.job(id)))

    def in_state(self, *states: State, local: bool) -> list[str]:
        return [
            id for id in self.ids if (job := self.job(id)).state in states and isinstance(job.work, Command) is local
        ]

    def quiet(self) -> None:
        """Until all that can go on by itself has."""

        async def wait() -> None:
            async with asyncio.timeout(20):
                while not await self.is_quiet():
                    await asyncio.sleep(0.002)

        self.loop.run_until_complete(wait())

    async def is_quiet(self) -> bool:
        jobs = [await self.board.ledger.get(id) for id in self.ids]
        local = [job for job in jobs if isinstance(job.work, Command)]
        running = [job for job in local if job.state is State.RUNNING]
        between = any(job.state in (State.ASSIGNED, State.PENDING) for job in local)
        ending = any(job.asked_to_end is not None for job in running)
        waiting = any(job.state is State.QUEUED for job in local)
        return not between and not ending and (len(running) == SLOTS or not waiting)

    def drain(self) -> None:
        """Everything comes to an end, whatever was done before."""
        self.quiet()
        for id in list(self.claimed):
            self.settle(id, good=True)
        while running := self.in_state(State.RUNNING, local=True):
            self.end(running[0], Result(exit_code=0))
            self.wait_for_a_change(running[0], self.job(running[0]).attempt)
            self.quiet()
        while (claimed := self.claim_one()) is not None:
            self.settle(claimed, good=True)
        assert {self.job(id).state for id in self.ids} <= ENDED

    def end(self, id: str, result: Result) -> None:
        async def end() -> None:
            self.board.runner.end(id, result)

        self.loop.run_until_complete(end())

    def wait_for_a_change(self, id: str, attempt: int) -> None:
        self.loop.run_until_complete(
            self.board.when(id, lambda job: job.state is not State.RUNNING or job.attempt != attempt)
        )

    @rule(priority=st.integers(1, 10), retries=st.integers(0, 2), archive=st.booleans(), large=st.booleans())
    def submit(self, priority: int, retries: int, archive: bool, large: bool) -> None:
        id = f"j{len(self.ids)}"
        rest = LARGE if large else ""
        work = msgspec.structs.replace(ARCHIVE, command=f"make {rest}") if archive else Command(f"true {rest}")
        self.works[id] = work
        metadata = {"mode": "distributed"} if archive else {}
        self.loop.run_until_complete(
            self.board.submit(id, work, priority=priority, max_retries=retries, metadata=metadata)
        )
        self.ids.append(id)
        self.quiet()

    @precondition(lambda self: self.in_state(State.RUNNING, local=True))
    @rule(data=st.data(), good=st.booleans(), answer=st.sampled_from([None, "small", LARGE]))
    def finish(self, data: st.DataObject, good: bool, answer: str | None) -> None:
        id = data.draw(st.sampled_from(self.in_state(State.RUNNING, local=True)))
        before = self.job(id)
        self.end(id, Result(exit_code=0 if good else 1, data=answer))
        self.wait_for_a_change(id, before.attempt)
        self.quiet()
        after = self.job(id)
        if after.ended:
            self.answers[id] = answer
        if good:
            assert after.state is State.SUCCEEDED
        elif before.tries > before.max_retries:
            assert after.state is State.FAILED
        else:
            assert after.state in (State.QUEUED, State.RUNNING)

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(self.ids))
        if self.job(id).ended or id in self.claimed:
            return
        self.loop.run_until_complete(self.board.scheduler.end(id, State.CANCELLED, "enough"))
        self.loop.run_until_complete(self.board.over(id))
        self.quiet()
        assert self.job(id).state is State.CANCELLED

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(self.ids))
        job = self.job(id)
        with contextlib.suppress(JobConflictError):
            again = self.loop.run_until_complete(
                self.board.ledger.change(id, lambda job, revision: advance(job, State.QUEUED, job.updated_at))
            ) if job.ended else job  # fmt: skip
            if again is not job:
                assert job.state in RETRIED
                self.ended.pop(id, None)
                self.answers.pop(id, None)
                self.board.scheduler.enqueue(again)
        self.quiet()

    def claim_one(self) -> str | None:
        claimed = self.loop.run_until_complete(self.board.claims.claim("w"))
        if claimed is None:
            return None
        assert claimed.id not in self.claimed
        self.claimed[claimed.id] = claimed.token
        return claimed.id

    @rule()
    def claim(self) -> None:
        waiting = self.in_state(State.QUEUED, local=False)
        assert (self.claim_one() is not None) is bool(waiting)

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), good=st.booleans())
    def report(self, data: st.DataObject, good: bool) -> None:
        self.settle(data.draw(st.sampled_from(sorted(self.claimed))), good=good)

    def settle(self, id: str, *, good: bool) -> None:
        del self.claimed[id]
        result = Result(exit_code=0 if good else 1, reported=True)
        settled = self.loop.run_until_complete(self.board.claims.settle(id, "w", result))
        if settled.state is State.PENDING:
            self.loop.run_until_complete(self.board.until(id, State.QUEUED))

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def lose_the_worker(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.claimed)))
        token = self.claimed.pop(id)
        self.loop.run_until_complete(self.board.claims.give_back(id, token, "it is gone"))
        assert self.job(id).state in (State.QUEUED, State.FAILED, State.PENDING)
        if self.job(id).state is State.PENDING:
            self.loop.run_until_complete(self.board.until(id, State.QUEUED))

    @rule()
    def restart(self) -> None:
        """What runs goes on meanwhile."""
        before = {id: self.job(id) for id in self.ids}
        self.stop()
        self.begin()
        self.quiet()
        for id, job in before.items():
            after = self.job(id)
            assert (after.state, after.attempt) == (job.state, job.attempt)
            assert self.whole(id).work == self.works[id]
        for id, answer in self.answers.items():
            result = self.whole(id).result
            assert result is not None
            data = result.data
            assert (msgspec.json.decode(data) if isinstance(data, msgspec.Raw) else data) == answer

    @invariant()
    def no_more_run_than_there_is_room_for(self) -> None:
        assert len(self.in_state(State.RUNNING, local=True)) <= SLOTS

    @invariant()
    def what_has_ended_stays_so_and_all_else_is_counted(self) -> None:
        jobs = {id: self.job(id) for id in self.ids}
        ledger, waiting = self.board.ledger, (State.QUEUED, State.PENDING)
        assert ledger.unfinished == sum(not job.ended for job in jobs.values())
        assert ledger.waiting == sum(job.state in waiting for job in jobs.values())
        assert (ledger.unfinished_bytes > 0) is any(not job.ended for job in jobs.values())
        for id, job in jobs.items():
            if id in self.ended:
                assert job.state is self.ended[id]
            elif job.ended:
                self.ended[id] = job.state

    @invariant()
    def each_attempt_was_begun_once(self) -> None:
        for id in self.ids:
            if self.job(id).state is State.RUNNING and id not in self.claimed:
                assert self.board.runner.begun.count(id) <= self.job(id).attempt


TestCoreAgainstItsModel = Core.TestCase
TestCoreAgainstItsModel.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
