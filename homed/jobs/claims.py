"""Jobs that pull workers take themselves: claimed, given an owner, reported on, or given back."""

import asyncio
from collections.abc import Callable

import msgspec

from homed.clock import now
from homed.config.jobs import Jobs as Config
from homed.errors import JobConflictError, JobError
from homed.jobs import transitions
from homed.jobs.ledger import Ledger
from homed.jobs.output.outputs import Outputs
from homed.jobs.placement import WORKER
from homed.jobs.queue import Lane
from homed.jobs.records import Handle, Job, Result, State
from homed.jobs.scheduler import Scheduler
from homed.jobs.transitions import advance

_LOST_TOO_OFTEN = 3


class Claims:
    """A claim without a node has no owner yet: whoever reports on it first becomes it (`bind`)."""

    def __init__(self, ledger: Ledger, scheduler: Scheduler, outputs: Outputs, config: Callable[[], Config]):
        self._ledger = ledger
        self._scheduler = scheduler
        self._outputs = outputs
        self._config = config

    async def claim(self, node: str | None, fits: Callable[[Job], bool] = lambda job: True) -> Job | None:
        """The first that waits and fits, running from now on; None where none does."""
        queue = self._scheduler.queue
        for lane in [one for one in queue.lanes() if one.need == WORKER]:
            for id in list(queue.waiting(lane)):
                job = self._ledger.find(id)
                if job is not None and job.state is State.QUEUED and fits(job):
                    queue.remove(id)
                    claimed = await self._take(job, node)
                    if claimed is not None:
                        return claimed
        return None

    async def _take(self, job: Job, node: str | None) -> Job | None:
        def assign(job: Job, revision: int) -> Job:
            if job.state is not State.QUEUED:
                return job
            return advance(job, State.ASSIGNED, now(), node=node, token=revision)

        def run(job: Job, revision: int) -> Job:
            if job.state is not State.ASSIGNED or job.asked_to_end is not None:
                return job
            return advance(job, State.RUNNING, now(), handle=Handle(runner=WORKER))

        try:
            assigned = await self._ledger.change(job.id, assign)
            if assigned.state is not State.ASSIGNED:
                return None
            await asyncio.to_thread(self._make_output, assigned)
            running = await self._ledger.change(job.id, run)
        except BaseException:
            # Where the store fails, or the one who asked has gone: it waits again.
            left = self._ledger.find(job.id)
            if left is not None and left.state is State.ASSIGNED:
                self._scheduler.give_back(left)
            elif left is not None:
                self._scheduler.enqueue(left)
            raise
        if running.state is not State.RUNNING:
            return None
        self._scheduler.limit(running)
        return running

    def _make_output(self, job: Job) -> None:
        try:
            self._outputs.create(job.id, job.attempt)
        except OSError as error:
            raise JobError(f"the job's output cannot be kept: {error.strerror}") from error

    def waiting(self, fits: Callable[[Job], bool] = lambda job: True) -> bool:
        """Whether there is something to claim."""
        queue = self._scheduler.queue
        lanes: list[Lane] = [one for one in queue.lanes() if one.need == WORKER]
        found = (self._ledger.find(id) for lane in lanes for id in queue.waiting(lane))
        return any(job is not None and fits(job) for job in found)

    async def bind(self, id: str, node: str) -> Job:
        """The claim's owner is `node` from now on. JobConflictError: JOB_NOT_YOURS where it is another's, JOB_ENDED."""

        def decide(job: Job, revision: int) -> Job:
            _check_owner(job, node)
            return job if job.node == node else msgspec.structs.replace(job, node=node, updated_at=now())

        return await self._ledger.change(id, decide)

    async def settle(self, id: str, node: str, result: Result) -> Job:
        """What the worker reports. JobConflictError: JOB_NOT_YOURS, JOB_ENDED."""
        job = await self.bind(id, node)
        output = self._outputs.find(id, job.attempt)
        size = job.size if output is None else await output.finish()

        def decide(job: Job, revision: int) -> Job:
            _check_owner(job, node)
            delay = self._config().retry_delay
            return transitions.concluded(job, result, now(), size=size, delay=delay)

        job = await self._ledger.change(id, decide)
        self._scheduler.settled(job)
        return job

    async def give_back(self, id: str, token: int, why: str, worker: str | None = None) -> None:
        """Requeue a job whose worker is gone, or fail it if that happened too often. The record of a failed job keeps
        its last worker: `worker`, if it had no owner yet.
        """
        before = await self._ledger.get(id)
        if before.token != token:
            return
        output = self._outputs.find(id, before.attempt)
        size = before.size if output is None else await output.finish()

        def decide(job: Job, revision: int) -> Job:
            if job.ended or job.token != token or job.state not in (State.ASSIGNED, State.RUNNING):
                return job
            if job.asked_to_end is None and job.given_back < _LOST_TOO_OFTEN:
                return transitions.given_back(job, now())
            result = Result(code="WORKER_LOST", error=why)
            delay = self._config().retry_delay
            job = msgspec.structs.replace(job, node=job.node or worker)
            return transitions.concluded(job, result, now(), size=size, delay=delay)

        self._scheduler.settled(await self._ledger.change(id, decide))


def _check_owner(job: Job, node: str) -> None:
    if job.state not in (State.ASSIGNED, State.RUNNING):
        if job.node != node:
            raise JobConflictError("the job is not this worker's", code="JOB_NOT_YOURS")
        raise JobConflictError(f"the job is {job.state}", code="JOB_ENDED")
    if job.node is not None and job.node != node:
        raise JobConflictError("the job is another worker's", code="JOB_NOT_YOURS")
