"""What pull workers tell of their jobs: output while it comes, and at the end what came of them."""

import asyncio
import weakref

from homed.errors import JobConflictError, NotFoundError
from homed.jobs import placement
from homed.jobs.jobs import Jobs
from homed.jobs.output.order import Stream
from homed.jobs.output.output import Output
from homed.jobs.placement import WORKER
from homed.jobs.records import Job, Result, State
from homed.jobs.workers import Workers

_RUNS = (State.ASSIGNED, State.RUNNING)


class OffsetError(JobConflictError):
    """Output that does not go on where what was received ends: `expected` is where that is."""

    code = "OUTPUT_OFFSET"

    def __init__(self, expected: int):
        super().__init__(f"the next byte that is expected is {expected}", details={"expected": expected})
        self.expected = expected


def remainder(streamed: bytes, final: bytes) -> bytes | None:
    """Return the text that completes the streamed output to the final one; None if they do not match."""
    return final[len(streamed) :] if final.startswith(streamed) else None


class Reports:
    """Reports on one job are taken one after the other."""

    def __init__(self, jobs: Jobs, workers: Workers):
        self._jobs = jobs
        self._workers = workers
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def stream(self, id: str, worker: str | None, stream: Stream, text: str, offset: int | None = None) -> int:
        """Take output of a running job. With an `offset` (bytes of UTF-8 before it) what was received already is passed
        over, and a gap is an OffsetError. Returns how many bytes of the stream were received.

        NotFoundError (JOB_NOT_FOUND), JobConflictError (JOB_NOT_YOURS, JOB_ENDED).
        """
        async with self._lock(id):
            job = await self._of_a_worker(id)
            if worker is not None:
                job = await self._workers.report(id, worker)
            if job.state not in _RUNS:
                raise JobConflictError(f"the job is {job.state}", code="JOB_ENDED")
            output = await self._output(job)
            data, received = text.encode(errors="replace"), _received(output, stream)
            if offset is not None:
                if offset > received:
                    raise OffsetError(received)
                data = data[received - offset :]
            if data:
                await output.write(stream, data)
            return received + len(data)

    async def settle(self, id: str, worker: str, result: Result, stdout: str | None, stderr: str | None) -> Job:
        """The end of a job. Output that the worker gives is all of that stream, whatever it had streamed: some stream
        each piece, and then the whole of each command once more. Told again, it is as it was.

        NotFoundError (JOB_NOT_FOUND), JobConflictError (JOB_NOT_YOURS, JOB_ENDED).
        """
        async with self._lock(id):
            job = await self._of_a_worker(id)
            if job.ended and job.node == worker and _is_told(job):
                return job
            job = await self._workers.report(id, worker)
            output = await self._output(job)
            for stream, final in ((Stream.STDOUT, stdout), (Stream.STDERR, stderr)):
                if final:
                    await self._complete(output, stream, final.encode(errors="replace"))
            return await self._workers.settle(id, worker, result)

    async def is_over(self, id: str, worker: str | None) -> bool:
        """Whether who runs it is to end it: it was cancelled, took too long, or is another's by now. NotFoundError."""
        job = await self._of_a_worker(id)
        if worker is not None and job.node is not None and job.node != worker:
            return True
        return job.state not in _RUNS or job.asked_to_end is not None

    async def _of_a_worker(self, id: str) -> Job:
        """What runs elsewhere is nothing for workers to speak of."""
        job = await self._jobs.look(id)
        if placement.need(job) != WORKER:
            raise NotFoundError("Job not found", code="JOB_NOT_FOUND")
        return job

    async def _output(self, job: Job) -> Output:
        """Also of a job that an earlier homed gave away."""
        output = self._jobs.output(job)
        if output is None or output.finished:
            output = await asyncio.to_thread(self._jobs.outputs.create, job.id, job.attempt)
        await output.load()
        return output

    async def _complete(self, output: Output, stream: Stream, final: bytes) -> None:
        rest = await asyncio.to_thread(_remainder, output, stream, final)
        if rest is None:
            await output.put_result(stream, final)
        elif rest:
            await output.write(stream, rest)

    def _lock(self, id: str) -> asyncio.Lock:
        lock = self._locks.get(id)
        if lock is None:
            lock = self._locks[id] = asyncio.Lock()
        return lock


def _remainder(output: Output, stream: Stream, final: bytes) -> bytes | None:
    if output.files.result(stream) is not None or output.dropped(stream):
        return None
    return remainder(output.read(stream), final)


def _received(output: Output, stream: Stream) -> int:
    return output.files.came(stream) + output.files.dropped(stream)


def _is_told(job: Job) -> bool:
    """Whether it ended by its worker's word."""
    return job.result is not None and (job.result.reported or job.result.code == "WORKER_FAILED")
