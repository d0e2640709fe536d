"""Takes jobs from the queue to their end: assigns them, has a runner run them, and writes down what came of it."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import msgspec

from homed.clock import now
from homed.config.jobs import Jobs as Config
from homed.errors import HomedError, NotFoundError, StoreError
from homed.jobs import placement, transitions
from homed.jobs.answering import with_answer
from homed.jobs.ledger import Ledger
from homed.jobs.nodes import Nodes
from homed.jobs.output.outputs import Outputs
from homed.jobs.ports import Attempt, Runner
from homed.jobs.queue import Lane, Queue
from homed.jobs.records import Handle, Job, Result, State, Task
from homed.jobs.transitions import advance

log = logging.getLogger(__name__)
_AGAIN = 1.0
_KILL_AGAIN = 3.0
_PATIENCE = 15.0
_LOOK = 300.0
_FAULT = Result(code="JOB_ERROR", error="an error of homed's own: the journal tells of it")
_LOOK_AGAIN = 3600.0


class Scheduler:
    """`runners` by what they are needed for (`placement.need`). `ended` is called with each job that has ended;
    `boot` names this boot.
    """

    def __init__(
        self,
        ledger: Ledger,
        nodes: Nodes,
        runners: Mapping[str, Runner],
        outputs: Outputs,
        config: Callable[[], Config],
        ended: Callable[[Job], None],
        boot: str,
    ):
        self._ledger = ledger
        self._nodes = nodes
        self._runners = runners
        self._outputs = outputs
        self._config = config
        self._ended = ended
        # Written down with the assignment: after a restart it tells whether what is not there can have begun.
        self._handle = Handle(runner="", boot=boot)
        self.queue = Queue()
        self.progress: dict[str, float] = {}
        self._running: Counter[str | None] = Counter()  # sessions by host
        self._carried: dict[str, asyncio.Task[None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._limits: dict[str, asyncio.TimerHandle] = {}
        self._acts: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = False

    async def load(self) -> None:
        """Take up what an earlier homed has left, whatever it was doing."""
        for job in self._ledger.active():
            self._time(job)
            if job.state in (State.ASSIGNED, State.RUNNING):
                if job.node == self._nodes.own and placement.need(job) in self._runners:
                    self._nodes.take(placement.need(job))
                    self._running[job.host] += 1
                    self._carry(job, resumed=True)
                elif job.asked_to_end is not None:
                    self._act(self._force(job))
                else:
                    self.limit(job)
            else:
                self.enqueue(job)

    async def run(self) -> None:
        """Hand out what waits, each time that something may have become possible."""
        while not self._stopping:
            self._wake.clear()
            self._hand_out()
            await self._wake.wait()

    async def stop(self) -> None:
        """Let go of what runs, and begin nothing more; what can goes on without homed."""
        self._stopping = True
        for timer in (*self._timers.values(), *self._limits.values()):
            timer.cancel()
        tasks = [*self._carried.values(), *self._acts]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        self._wake.set()

    def enqueue(self, job: Job) -> None:
        """A job that is pending or queued, at its time."""
        self._time(job)
        if job.state is State.QUEUED:
            self.queue.add(job, self._config().ageing)
            self.wake()

    def settled(self, job: Job) -> None:
        """Somebody else has brought an attempt to its end."""
        self._drop_timer(self._limits, job.id)
        if job.ended:
            self._gone(job)
        elif job.state in (State.PENDING, State.QUEUED):
            self.enqueue(job)

    def give_back(self, job: Job) -> None:
        """Have an assignment that never began undone, as soon as the store lets us."""

        def decide(now_: Job, revision: int) -> Job:
            same = now_.state is State.ASSIGNED and now_.token == job.token
            return transitions.given_back(now_, now()) if same else now_

        async def undo() -> None:
            self.settled(await self._write(job.id, decide))

        self._act(undo())

    async def end(self, id: str, state: State, why: str) -> Job:
        """Have it end as cancelled or timed out: at once where it waits, else as soon as its processes are gone."""

        def decide(job: Job, revision: int) -> Job:
            if job.ended or job.asked_to_end is not None:
                return job
            code = "CANCELLED" if state is State.CANCELLED else "TIMEOUT"
            if job.state in (State.PENDING, State.QUEUED):
                return advance(job, state, now(), result=Result(code=code, error=why), why=why)
            return msgspec.structs.replace(job, asked_to_end=state, why=why, updated_at=now())

        job = await self._ledger.change(id, decide)
        if job.ended:
            self._gone(job)
        elif job.id in self._carried:
            self._act(self._kill(job))
        else:
            self._act(self._force(job))
        return job

    def _hand_out(self) -> None:
        """Each lane as far as there is room for it."""
        for lane in self.queue.lanes():
            while (id := self.queue.first(lane)) is not None:
                job = self._ledger.find(id)
                if job is None or job.state is not State.QUEUED or id in self._carried:
                    # Where what was left of its last attempt is still being cleared, it is back after that.
                    self.queue.remove(id)
                    continue
                if lane.need not in self._runners or not self._has_session(lane):
                    break
                node = placement.place(job, self._nodes.all()).node
                if node != self._nodes.own:
                    break
                self.queue.remove(id)
                self._nodes.take(lane.need)
                self._running[job.host] += 1
                self._carry(job, resumed=False)

    def _has_session(self, lane: Lane) -> bool:
        return lane.host is None or self._running[lane.host] < self._config().ssh.per_host

    def _carry(self, job: Job, *, resumed: bool) -> None:
        task = asyncio.create_task(self._to_its_end(job, resumed=resumed), name=f"job {job.id}")
        self._carried[job.id] = task

        def done(task: asyncio.Task[None]) -> None:
            self._carried.pop(job.id, None)
            self._nodes.give(placement.need(job))
            self._running[job.host] -= 1
            if not self._running[job.host]:
                del self._running[job.host]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("Job %s was not brought to its end", job.id, exc_info=error)
            left = self._ledger.find(job.id)
            if left is not None and left.state in (State.PENDING, State.QUEUED):
                self.enqueue(left)
            self.wake()

        task.add_done_callback(done)

    async def _to_its_end(self, job: Job, *, resumed: bool) -> None:
        runner = self._runners[placement.need(job)]
        if not resumed:
            try:
                job = await self._ledger.change(job.id, self._assign)
            except HomedError as error:
                log.warning("Job %s cannot be assigned: %s", job.id, error.message)
                await asyncio.sleep(_AGAIN)
                return
            if job.state is not State.ASSIGNED:
                return  # it was cancelled meanwhile
        try:
            result, size = await self._attempt(runner, job, resumed=resumed)
        except Exception:
            log.exception("Job %s met an error of homed's own", job.id)
            with contextlib.suppress(HomedError):
                await runner.kill(job)
            result, size = _FAULT, job.size
        self._drop_timer(self._limits, job.id)
        self.progress.pop(job.id, None)
        try:
            job = await self._write(job.id, partial(self._conclude, token=job.token, result=result, size=size))
        except Exception:
            # Of what a stranger's server or program said something may be no text: it must end all the same.
            log.exception("The result of job %s cannot be written down", job.id)
            job = await self._write(job.id, partial(self._conclude, token=job.token, result=_FAULT, size=size))
        if job.ended:
            self._gone(job)
        # Only now that it is durable.
        await runner.release(job)

    def _assign(self, job: Job, revision: int) -> Job:
        if job.state is not State.QUEUED:
            return job
        return advance(job, State.ASSIGNED, now(), node=self._nodes.own, token=revision, handle=self._handle)

    async def _attempt(self, runner: Runner, job: Job, *, resumed: bool) -> tuple[Result | None, int]:
        """What came of it, None where it never began; and the bytes that the job's output takes."""
        try:
            output = await asyncio.to_thread(self._outputs.create, job.id, job.attempt)
        except OSError as error:
            return Result(code="JOB_NOT_STARTED", error=f"its output cannot be kept: {error.strerror}"), job.size
        attempt = Attempt(
            job, output, partial(self._started, job.id, job.token), partial(self.progress.__setitem__, job.id),
            self._ledger.content,
        )  # fmt: skip
        if job.state is State.RUNNING:
            self.limit(job)
        if job.asked_to_end is not None:
            self._act(self._kill(job))
        result: Result | None
        try:
            result = await (runner.resume(attempt) if resumed else runner.run(attempt))
        except HomedError as error:
            result = Result(code=error.code, error=error.message)
        # Not where homed is stopping: then more may come.
        size = await output.finish()
        if result is None:
            return None, size
        if isinstance(job.work, Task) and job.work.type == "python_eval":
            job = await self._ledger.whole(job)  # it answers its expression
        return await with_answer(job, result, output), size

    async def _started(self, id: str, token: int, handle: Handle) -> None:
        def decide(job: Job, revision: int) -> Job:
            if job.state is not State.ASSIGNED or job.token != token:
                return job
            return advance(job, State.RUNNING, now(), handle=handle)

        self.limit(await self._write(id, decide))

    def _conclude(self, job: Job, revision: int, token: int, result: Result | None, size: int) -> Job:
        """The result of the attempt with this token; somebody else's is let be."""
        if job.ended or job.token != token:
            return job
        return transitions.concluded(job, result, now(), size=size, delay=self._config().retry_delay)

    async def _write(self, id: str, decide: Callable[[Job, int], Job]) -> Job:
        """A change that must not be lost: again and again, until the store takes it."""
        failed = False
        while True:
            try:
                return await self._ledger.change(id, decide)
            except StoreError as error:
                if not failed:
                    log.error("Job %s cannot be written down, trying on: %s", id, error.message)  # noqa: TRY400
                failed = True
                await asyncio.sleep(_AGAIN)

    async def _kill(self, job: Job) -> None:
        """Until it has ended."""
        runner = self._runners[placement.need(job)]
        carried = self._carried.get(job.id)
        while carried is not None and not carried.done():
            try:
                await runner.kill(job)
            except HomedError as error:
                log.warning("Job %s cannot be ended, trying on: %s", job.id, error.message)
            await asyncio.wait({carried}, timeout=_KILL_AGAIN)

    async def _force(self, job: Job) -> None:
        """Who runs it elsewhere is given some time to end it and say so; then it has ended for us."""
        await asyncio.sleep(_PATIENCE)
        output = self._outputs.find(job.id, job.attempt)
        size = job.size if output is None else await output.finish()
        job = await self._write(job.id, partial(self._conclude, token=job.token, result=Result(), size=size))
        if job.ended:
            self._gone(job)

    def limit(self, job: Job) -> None:
        """From when it runs, it has its time-out."""
        if job.state is not State.RUNNING or job.timeout is None or job.started_at is None:
            return
        # Never more than all of it, where the clock was set back.
        left = min(job.timeout, (job.started_at - now()).total_seconds() + job.timeout)
        said = f"it ran for longer than {job.timeout:g} s"
        self._set_timer(self._limits, job.id, left, lambda: self._act(self._time_out(job.id, said)))

    def _time(self, job: Job) -> None:
        """What is due at a time: its deadline, or the end of its backoff."""
        due = [moment for moment in (job.deadline, job.not_before) if moment is not None]
        if due:
            # The clock may be set meanwhile: what is due is looked at again.
            left = min(_LOOK_AGAIN, (min(due) - now()).total_seconds())
            self._set_timer(self._timers, job.id, left, lambda: self._act(self._due(job.id)))

    async def _due(self, id: str) -> None:
        job = self._ledger.find(id)
        if job is None or job.ended:
            return
        moment = now()
        if job.deadline is not None and moment >= job.deadline:
            await self._time_out(id, f"it had to end by {job.deadline:%Y-%m-%d %H:%M:%S} UTC")
            return
        if job.state is State.PENDING and transitions.is_due(job, moment):
            job = await self._write(id, _queue)
        self.enqueue(job)

    async def _time_out(self, id: str, why: str) -> None:
        try:
            await self.end(id, State.TIMED_OUT, why)
        except StoreError:
            await asyncio.sleep(_AGAIN)
            self._act(self._time_out(id, why))

    def _set_timer(
        self, timers: dict[str, asyncio.TimerHandle], id: str, seconds: float, act: Callable[[], None]
    ) -> None:
        self._drop_timer(timers, id)
        timers[id] = asyncio.get_running_loop().call_later(max(0.0, seconds), act)

    def _drop_timer(self, timers: dict[str, asyncio.TimerHandle], id: str) -> None:
        timer = timers.pop(id, None)
        if timer is not None:
            timer.cancel()

    def _gone(self, job: Job) -> None:
        self.queue.remove(job.id)
        self._drop_timer(self._timers, job.id)
        self._drop_timer(self._limits, job.id)
        self._ended(job)

    def _act(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._acts.add(task)
        task.add_done_callback(self._acted)

    def _acted(self, task: "asyncio.Task[None]") -> None:
        """What is done beside must not fail unseen; a job that is gone needs nothing more."""
        self._acts.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, NotFoundError):
            log.error("Something about a job failed", exc_info=error)


def _queue(job: Job, revision: int) -> Job:
    return advance(job, State.QUEUED, now()) if job.state is State.PENDING else job
