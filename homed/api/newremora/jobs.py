"""`/api/v1/jobs`: the list, one of them, and its end."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from homed.access.scopes import Scope
from homed.api.budget import make_room
from homed.api.newremora import NotCancellableError, answer, aside
from homed.api.newremora.answers import (
    EXCERPT,
    Hosts,
    JobDetails,
    JobList,
    JobShown,
    Pagination,
    details,
    page,
    printed,
    shown,
    shown_status,
    states,
)
from homed.api.newremora.logs import LogsShown, send_logs, send_text
from homed.api.routes import Call, Handler, Route
from homed.errors import JobConflictError
from homed.jobs.jobs import Jobs
from homed.jobs.output.order import Stream
from homed.jobs.records import Job, Origin, State
from homed.jobs.submission import Query

PATH = "/api/v1/jobs"
ONE = {"job_id": "The job's id."}
RESUMED = {"Last-Event-ID": "The id of the last event that was seen: what follows it is sent."}
_MOST = 100
_CANCEL_WAIT = 4.0
Page = Annotated[int, Meta(ge=1, le=1_000_000_000)]


class Listing(msgspec.Struct, frozen=True):
    """What is empty is not asked for. `limit` above 100 is 100. `search` is looked for in commands and scripts."""

    page: Page = 1
    limit: Annotated[int, Meta(ge=1)] = 20
    status: Literal["", "all", "queued", "running", "completed", "failed", "canceled", "cancelled"] = ""
    server_id: Annotated[str, Meta(max_length=64)] = ""
    search: Annotated[str, Meta(max_length=200)] = ""
    sort_by: Literal["", "created_at", "started_at", "finished_at", "updated_at", "priority"] = ""
    sort_order: Literal["", "asc", "desc"] = ""


class Cancelled(msgspec.Struct, frozen=True, kw_only=True):
    """`canceled_at` is null while its processes are still being ended (202)."""

    id: str
    status: str
    canceled_at: datetime | None
    message: str
    job: JobShown


def routes(jobs: Jobs, hosts: Hosts, stream: Handler) -> list[Route]:
    """`stream` follows a job."""
    resource = _Resource(jobs, hosts)

    def route(method: str, path: str, handler: Handler, summary: str, response: Any, **more: Any) -> Route:
        if response is not None:
            response = answer(response)
        return Route(
            method, f"{PATH}{path}", handler, summary, "Jobs", "jobs", scope=Scope.OPERATE, response=response, **more
        )

    one: dict[str, Any] = {"params": ONE, "errors": (404,)}
    return [
        route("GET", "", resource.list, "List jobs", JobList, query=Listing, errors=(400,)),
        route("GET", "/{job_id}", resource.get, "Get a job and what it has printed", JobDetails, **one),
        route("POST", "/{job_id}/cancel", resource.cancel, "Cancel a job", Cancelled, change="job.cancel",
              statuses=(202,), params=ONE, errors=(400, 404)),
        route("GET", "/{job_id}/stream", stream, "Follow a job: its states and what it prints", None,
              streams=("text/event-stream",), statuses=(204,), headers=RESUMED, params=ONE, errors=(404, 503)),
        route("GET", "/{job_id}/logs", resource.logs, "Get all that a job has printed, in order", LogsShown, **one),
        route("GET", "/{job_id}/stdout", resource.stdout, "Get a job's standard output", None,
              streams=("text/plain",), **one),
        route("GET", "/{job_id}/stderr", resource.stderr, "Get a job's standard error", None,
              streams=("text/plain",), **one),
    ]  # fmt: skip


class _Resource:
    def __init__(self, jobs: Jobs, hosts: Hosts):
        self._jobs = jobs
        self._hosts = hosts

    async def list(self, call: Call) -> JobList:
        query = wanted(call.query)
        found = await self._jobs.page(query)
        number, limit = call.query.page, query.limit
        pages = -(-found.total // limit)
        pagination = Pagination(number, limit, found.total, pages, number < pages, number > 1 and found.total > 0)
        jobs = [(shown(job, self._hosts), self._jobs.output(job)) for job in found.jobs]
        return JobList(await asyncio.to_thread(page, jobs), pagination)

    async def get(self, call: Call) -> JobDetails:
        job = await self._jobs.get(call.path["job_id"])
        output = self._jobs.output(job)
        if output is not None:
            await output.load()
            # Memory factor: each stream and both combined, as text and twice as JSON, in which a byte may take six.
            await make_room(call.request, min(output.size, 2 * EXCERPT) * 10)
        text = await asyncio.to_thread(printed, output)
        return details(job, self._hosts, text, self._jobs.refusals(job))

    async def cancel(self, call: Call) -> object:
        id = call.path["job_id"]
        try:
            await self._jobs.cancel(id)
        except JobConflictError as error:
            raise NotCancellableError("the job has ended already", details=error.details) from error
        job = await self._jobs.whole(await self._jobs.ended(id, _CANCEL_WAIT))
        if not job.ended:
            return 202, self._cancelled(job, "Job is being cancelled")
        return self._cancelled(job, "Job cancelled successfully")

    def _cancelled(self, job: Job, message: str) -> Cancelled:
        at = job.finished_at if job.state is State.CANCELLED else None
        status = shown_status(job)
        return Cancelled(id=job.id, status=status, canceled_at=at, message=message, job=aside(shown(job, self._hosts)))

    async def logs(self, call: Call) -> object:
        job = await self._jobs.get(call.path["job_id"])
        return await send_logs(call, job, self._jobs.output(job), shown(job, self._hosts))

    async def stdout(self, call: Call) -> object:
        return await self._stream(call, Stream.STDOUT)

    async def stderr(self, call: Call) -> object:
        return await self._stream(call, Stream.STDERR)

    async def _stream(self, call: Call, stream: Stream) -> object:
        job = await self._jobs.look(call.path["job_id"])
        return await send_text(call, self._jobs.output(job), stream)


def wanted(given: Listing) -> Query:
    """The jobs of this API that are asked for."""
    limit = min(given.limit, _MOST)
    status = {"cancelled": "canceled", "all": ""}.get(given.status, given.status)
    host: Mapping[str, Any] = {} if not given.server_id else {"host": given.server_id}
    return Query(
        origin=Origin.NEWREMORA,
        states=states(status),
        search=given.search,
        sort=given.sort_by or "created_at",
        descending=given.sort_order != "asc",
        offset=(given.page - 1) * limit,
        limit=limit,
        **host,
    )
