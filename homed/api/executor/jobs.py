"""Jobs for pull workers: made and looked at by who wants them done, taken and reported on by who does them."""

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import msgspec
from aiohttp import web

from homed import validation
from homed.access.scopes import Scope
from homed.api import decode
from homed.api.budget import make_room
from homed.api.executor import LIMIT, NOT_ASSIGNED, TAG, missing
from homed.api.executor.answers import (
    CANCELLED,
    Answered,
    CancelQuery,
    Checked,
    Creating,
    ExecutorJob,
    ExecutorJobs,
    Failing,
    JobQuery,
    ListQuery,
    Naming,
    Polled,
    Polling,
    Reporting,
    Sending,
    Sent,
    ToRun,
    in_list,
    shown,
    status,
)
from homed.api.idempotency import HEADERS as IDEMPOTENCY
from homed.api.idempotency import idempotency_key
from homed.api.routes import HEADERS, Call, Handler, Route
from homed.errors import (
    FieldError,
    ForbiddenError,
    HomedError,
    JobConflictError,
    MethodNotAllowedError,
    NotFoundError,
    ValidationError,
)
from homed.jobs.claimants import Refusal
from homed.jobs.jobs import Jobs
from homed.jobs.output.order import Stream
from homed.jobs.records import Archive, Job, Origin, Result
from homed.jobs.reports import OffsetError, Reports
from homed.jobs.submission import NewJob, Query
from homed.jobs.uploads import is_upload
from homed.jobs.workers import Workers

_PATH = "/api/jobs"
_MAX_LISTED = 10_000
# Bytes of each stream in the response for one job, and for each job of a list (fewer in a long list).
_ONE, _MANY, _FEW = 1 << 20, 2048, 128
_LIST_BYTES = 1 << 20
_BATCH = 200
_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?([/?][\x21-\x7e]*)?")
_LONG_REPORT, _LONGEST_REPORT = 1 << 20, 16 << 20
_STREAMS = {"stdout": Stream.STDOUT, "stderr": Stream.STDERR}


def new_id() -> str:
    return f"job-{int(time.time() * 1000)}-{secrets.token_hex(4)}"


def lines(commands: str) -> str:
    """With the line breaks that a shell knows."""
    return commands.replace("\r\n", "\n")


def routes(
    jobs: Jobs, workers: Workers, reports: Reports, hold: Callable[[], float], stopping: asyncio.Event
) -> list[Route]:
    """`hold` is how many seconds an idle poll is held open. Who waits is sent away as soon as `stopping` is set."""
    resource = _Resource(jobs, workers, reports, hold, stopping)

    def route(method: str, path: str, handler: Handler, summary: str, response: object, **more: Any) -> Route:
        return Route(
            method, f"{_PATH}{path}", handler, summary, TAG, LIMIT,
            response=response, scope=Scope.OPERATE, **more,
        )  # fmt: skip

    return [
        route("POST", "/create", resource.create, "Create a job for a worker", Answered, body=Creating,
              headers=IDEMPOTENCY, change="job.create", errors=(409, 503, 507)),
        route("GET", "/create", resource.list, "List the jobs", ExecutorJobs, query=ListQuery, errors=(400,)),
        route("GET", "/get-job", resource.take, "Take the next job", Polled, query=Polling, statuses=(202,), acts=True,
              errors=(400, 404)),
        route("GET", "/status", resource.status, "Get a job", ExecutorJob, query=JobQuery, errors=(400, 404)),
        route("POST", "/submit-result", resource.submit, "Report a job's result", Answered,
              uploads=("application/json",), form=Reporting, change="job.report", errors=(400, 404, 409, 413, 415)),
        route("PUT", "/submit-result", resource.fail, "Report that a job failed", Answered, body=Failing,
              change="job.report", errors=(404, 409)),
        route("POST", "/stream-output", resource.stream, "Send output of a running job", Sent, body=Sending,
              errors=(404, 409)),
        route("GET", "/check-cancel", resource.check, "Ask whether a job is to be ended", Checked, query=CancelQuery,
              errors=(400, 404)),
        route("POST", "/cancel", resource.cancel, "Cancel a job", Answered, body=Naming, change="job.cancel",
              errors=(404,)),
    ]  # fmt: skip


class _Resource:
    def __init__(
        self, jobs: Jobs, workers: Workers, reports: Reports, hold: Callable[[], float], stopping: asyncio.Event
    ):
        self._jobs = jobs
        self._workers = workers
        self._reports = reports
        self._hold = hold
        self._stopping = stopping
        self._long_reports = asyncio.Semaphore(1)

    async def create(self, call: Call) -> Answered:
        given: Creating = call.body
        if not given.command or not given.file_url or not given.filename:
            raise missing("command", "fileUrl", "filename")
        if not is_upload(given.file_url) and _URL.fullmatch(given.file_url) is None:
            said = "must be the address of an upload (/uploads/NAME) or begin with http:// or https://"
            raise ValidationError([FieldError("fileUrl", said)])
        job = await self._jobs.submit(
            NewJob(
                origin=Origin.EXECUTOR,
                work=Archive(lines(given.command), given.file_url, given.filename),
                id=new_id(),
                timeout=given.timeout,
                metadata={"mode": "distributed"},
                key=idempotency_key(call),
                submitted_by=call.principal.id,
            )
        )
        call.request[HEADERS]["X-Job-Id"] = job.id
        return Answered(job_id=job.id, message="Job created successfully")

    async def list(self, call: Call) -> ExecutorJobs:
        limit = min(call.query.limit, _MAX_LISTED)
        ids, total = await self._jobs.ids(Query(origin=Origin.EXECUTOR, offset=call.query.offset, limit=limit))
        ids.reverse()
        most = max(_FEW, min(_MANY, _LIST_BYTES // max(1, len(ids))))
        jobs: list[ExecutorJob] = []
        for first in range(0, len(ids), _BATCH):
            found = await self._jobs.several(ids[first : first + _BATCH])
            jobs += await self._shown(found, most, is_list=True)
        return ExecutorJobs(jobs=jobs, count=len(jobs), total=total, limit=limit)

    async def status(self, call: Call) -> ExecutorJob:
        job = await self._jobs.whole(await self._job(call.query.job_id))
        output = self._jobs.output(job)
        if output is not None:
            await output.load()
            await make_room(call.request, min(output.size, 2 * _ONE) * 5)
        return (await self._shown([job], _ONE))[0]

    async def take(self, call: Call) -> object:
        request, asked = call.request, call.query
        _check_that_it_is_meant(request)
        found = await self._polled(request, asked)
        if isinstance(found, Refusal):
            return 202, Polled(success=False, message=str(found), job=None)
        try:
            work = (await self._jobs.whole(found)).work
            assert isinstance(work, Archive)
            answer = Polled(
                success=True,
                job=ToRun(job_id=found.id, command=work.command, file_url=work.url, filename=work.filename),
            )
            return await _told(request, answer)
        except (ConnectionError, HomedError, asyncio.CancelledError):
            self._workers.undo(found)
            raise

    async def _polled(self, request: web.Request, asked: Polling) -> Job | Refusal:
        poll = asyncio.create_task(
            self._workers.poll(
                asked.worker_id or None,
                request.remote or "",
                self._hold() if asked.wait is None else asked.wait,
                slots=1 if asked.slots is None else asked.slots,
                holds=None if asked.slots is None else asked.holds,
            )
        )
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({poll, stop}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # It may have got one in this very moment, that nobody waits for any more.
            poll.add_done_callback(self._undo)
            raise
        finally:
            stop.cancel()
            if not poll.done():
                poll.cancel()
                await asyncio.wait({poll})
        return Refusal.NO_JOB if poll.cancelled() else poll.result()

    def _undo(self, poll: "asyncio.Task[Job | Refusal]") -> None:
        if not poll.cancelled() and poll.exception() is None and isinstance(found := poll.result(), Job):
            self._workers.undo(found)

    async def submit(self, call: Call) -> Answered:
        given = await self._report(call.request)
        if not given.job_id or not given.worker_id or given.exit_code is msgspec.UNSET:
            raise missing("jobId", "workerId", "exitCode")
        code = given.exit_code
        result = Result(exit_code=code, reported=True)
        if code is None:  # a process that was ended by a signal has none
            result = Result(code="SIGNAL", error="it ended without an exit code", reported=True)
        await self._settle(given.job_id, given.worker_id, result, given.stdout, given.stderr)
        return Answered(job_id=given.job_id, message="Job result submitted successfully")

    async def _report(self, request: web.Request) -> Reporting:
        """Older agents send all of the output with it, so it may be longer than other bodies: then one at a time."""
        is_long = request.content_length is None or request.content_length > _LONG_REPORT
        async with self._long_reports if is_long else nullcontext():
            data = await decode.read_body(request, _LONGEST_REPORT)
            decode.check_json(request)
            return await asyncio.to_thread(validation.decode_json, data, Reporting)

    async def fail(self, call: Call) -> Answered:
        given: Failing = call.body
        if not given.job_id or not given.worker_id:
            raise missing("jobId", "workerId")
        said = given.error_message or "the worker gave no reason"
        await self._settle(given.job_id, given.worker_id, Result(code="WORKER_FAILED", error=said), None, None)
        return Answered(job_id=given.job_id, message="Job failure recorded successfully")

    async def stream(self, call: Call) -> object:
        given: Sending = call.body
        if not given.job_id or given.data is None:
            raise missing("jobId", "data")
        try:
            received = await self._reports.stream(
                given.job_id, given.worker_id or None, _STREAMS[given.type], given.data, given.offset
            )
        except OffsetError as error:
            return 409, Sent(success=False, job_id=given.job_id, received=error.expected)
        except JobConflictError as error:
            raise _forbidden(error) from error
        return Sent(success=True, job_id=given.job_id, received=received)

    async def check(self, call: Call) -> Checked:
        if not call.query.job_id:
            raise missing("jobId")
        is_over = await self._reports.is_over(call.query.job_id, call.query.worker_id or None)
        return Checked(job_id=call.query.job_id, cancelled=is_over, cancel_requested=is_over)

    async def cancel(self, call: Call) -> Answered:
        job = await self._job(call.body.job_id)
        try:
            await self._jobs.cancel(job.id, CANCELLED)
        except JobConflictError:
            job = await self._jobs.look(job.id)
            return Answered(job_id=job.id, message=f"Job has ended already: it is {status(job)}")
        return Answered(job_id=job.id, message="Job cancelled successfully")

    async def _settle(self, id: str, worker: str, result: Result, stdout: str | None, stderr: str | None) -> None:
        try:
            await self._reports.settle(id, worker, result, stdout, stderr)
        except JobConflictError as error:
            raise _forbidden(error) from error

    async def _job(self, id: str | None) -> Job:
        """One of this family's."""
        if not id:
            raise missing("jobId")
        job = await self._jobs.look(id)
        if job.origin is not Origin.EXECUTOR:
            raise NotFoundError("Job not found", code="JOB_NOT_FOUND")
        return job

    async def _shown(self, jobs: Sequence[Job], most: int, *, is_list: bool = False) -> Sequence[ExecutorJob]:
        owned = [(job, self._workers.owner(job)) for job in jobs]

        def read() -> Sequence[ExecutorJob]:
            one = in_list if is_list else shown
            return [one(job, worker, self._jobs.output(job), most) for job, worker in owned]

        return await asyncio.to_thread(read)


def _forbidden(error: JobConflictError) -> JobConflictError | ForbiddenError:
    if error.code != "JOB_NOT_YOURS":
        return error
    return ForbiddenError(NOT_ASSIGNED, code=error.code)


def _check_that_it_is_meant(request: web.Request) -> None:
    """Taking a job is a change, though it is a GET: no page of another site may have a browser do it."""
    if request.method != "GET":
        raise MethodNotAllowedError("HEAD takes no job")
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise ForbiddenError("pages of other sites may not do this", code="ORIGIN_NOT_ALLOWED")


async def _told(request: web.Request, answer: Polled) -> web.StreamResponse:
    """Sent here rather than after the handler: who is gone by now is not given it. ConnectionError."""
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError("the worker is gone")
    response = web.Response(body=msgspec.json.encode(answer), content_type="application/json")
    await response.prepare(request)
    await response.write_eof()
    return response
