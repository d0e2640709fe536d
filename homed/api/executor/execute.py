"""`/api/execute`: commands in an archive, for a worker or run here while the client looks on; and the uploads."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from aiohttp import web

from homed.access.scopes import Scope
from homed.api import transfers
from homed.api.executor import LIMIT, TAG, commands, missing
from homed.api.executor.answers import CANCELLED, Distributed, ExecuteForm, Stopped, Stopping
from homed.api.executor.forms import Form, read
from homed.api.executor.jobs import new_id
from homed.api.routes import HEADERS, STREAMED, Call, Handler, Route
from homed.errors import FieldError, HomedError, JobConflictError, NotFoundError, ValidationError
from homed.jobs.following import Item
from homed.jobs.jobs import Jobs
from homed.jobs.records import Archive, Job, Origin, State
from homed.jobs.submission import NewJob
from homed.jobs.uploads import Uploads

_FIELDS = {"commands": 256 * 1024, "mode": 64, "timeout": 64}
_MODES = ("direct", "distributed")
_QUIET = 5.0  # seconds after which a line break says that it goes on
_WRITE_DEADLINE = 30.0
_KINDS = {".zip": "application/zip", ".gz": "application/gzip", ".tgz": "application/gzip", ".tar": "application/x-tar"}


def routes(jobs: Jobs, uploads: Uploads, max_upload: Callable[[], int], stopping: asyncio.Event) -> list[Route]:
    """`max_upload` in bytes. Who looks on is sent away as soon as `stopping` is set."""
    resource = _Resource(jobs, uploads, max_upload, stopping)

    def route(method: str, path: str, handler: Handler, summary: str, response: object, **more: Any) -> Route:
        return Route(method, path, handler, summary, TAG, LIMIT, response=response, scope=Scope.OPERATE, **more)

    return [
        route("POST", "/api/execute", resource.execute, "Run commands in an archive", Distributed,
              change="job.execute", uploads=("multipart/form-data",), form=ExecuteForm, streams=("text/event-stream",),
              errors=(400, 413, 415, 503, 507)),
        route("DELETE", "/api/execute", resource.stop, "Stop commands that run here", Stopped, body=Stopping,
              change="job.cancel", errors=(404,)),
        route("GET", "/uploads/{upload_name}", resource.download, "Download an upload", None,
              params={"upload_name": "The upload's name."}, streams=tuple(dict.fromkeys(_KINDS.values())),
              statuses=(206, 304), errors=(404, 416)),
    ]  # fmt: skip


class _Resource:
    def __init__(self, jobs: Jobs, uploads: Uploads, max_upload: Callable[[], int], stopping: asyncio.Event):
        self._jobs = jobs
        self._uploads = uploads
        self._max_upload = max_upload
        self._stopping = stopping

    async def execute(self, call: Call) -> object:
        form = await read(call.request, _FIELDS, self._max_upload(), self._uploads.receive, self._uploads.discard)
        try:
            job = await self._submit(call, form)
        except HomedError:
            if form.file is not None:
                await self._uploads.discard(form.file)
            raise
        call.request[HEADERS]["X-Job-Id"] = job.id
        if job.metadata["mode"] == "direct":
            return await self._look_on(call.request, job)
        return Distributed(
            job_id=job.id,
            message="Job created. Waiting for idle worker to pick it up.",
            check_status_url=f"/api/jobs/status?jobId={job.id}",
        )

    async def _submit(self, call: Call, form: Form) -> Job:
        wanted = commands.lines(form.fields.get("commands", ""))
        if form.file is None or not wanted.strip():
            raise missing("file", "commands")
        mode = form.fields.get("mode") or "direct"
        if mode not in _MODES:
            raise ValidationError([FieldError("mode", "must be distributed or direct")])
        return await self._jobs.submit(
            NewJob(
                origin=Origin.EXECUTOR,
                work=Archive(wanted, form.file.url, form.file.name.partition("-")[2]),
                id=new_id(),
                timeout=_seconds(form.fields.get("timeout", "")),
                metadata={"mode": mode},
                submitted_by=call.principal.id,
            )
        )

    async def stop(self, call: Call) -> Stopped:
        if not call.body.exec_id:
            raise missing("execId")
        job = await self._jobs.look(call.body.exec_id)
        if job.origin is not Origin.EXECUTOR:
            raise NotFoundError("Job not found", code="JOB_NOT_FOUND")
        try:
            await self._jobs.cancel(job.id, CANCELLED)
        except JobConflictError:
            return Stopped(stopped=False)
        return Stopped(stopped=True)

    async def download(self, call: Call) -> web.StreamResponse:
        name = call.path["upload_name"]
        path = await asyncio.to_thread(self._uploads.path, name)
        return await transfers.send(call.request, path, _KINDS.get(path.suffix, "application/octet-stream"))

    async def _look_on(self, request: web.Request, job: Job) -> web.StreamResponse:
        """What the job prints, while it does. It goes on where its client goes away: only DELETE stops it."""
        request[STREAMED] = True
        request[HEADERS]["X-Exec-Id"] = job.id
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        try:
            await response.prepare(request)
            async with aclosing(_until(self._jobs, job.id, self._stopping)) as texts:
                async for text in texts:
                    await _write(response, text)
            await response.write_eof()
        except (ConnectionError, TimeoutError):
            transfers.abort(request)
        return response


async def _write(response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(_WRITE_DEADLINE):
        await response.write(text.encode(errors="replace"))


async def _until(jobs: Jobs, id: str, stopping: asyncio.Event) -> AsyncGenerator[str, None]:
    """The job's output to its end, and a line break each time that nothing comes for a while."""
    items = jobs.follow(id)
    stop = asyncio.create_task(stopping.wait())
    coming: asyncio.Task[Item | None] | None = None
    try:
        while True:
            coming = coming or asyncio.create_task(_next(items))
            await asyncio.wait((coming, stop), timeout=_QUIET, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                if stop.done():
                    return
                yield "\n"
                continue
            item, coming = coming.result(), None
            if item is None:
                return
            if item.piece is not None:
                yield item.piece.text
            elif item.complete:
                yield _end(item.job)
    finally:
        stop.cancel()
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        await items.aclose()


async def _next(items: AsyncGenerator[Item, None]) -> Item | None:
    return await anext(items, None)


def _end(job: Job) -> str:
    result = job.result
    ran = job.state is State.SUCCEEDED or (result is not None and result.code == "EXIT")
    why = result.error if result is not None else ""
    return commands.footer(ran=ran, stopped=job.state is State.CANCELLED, why=why)


def _seconds(text: str) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise ValidationError([FieldError("timeout", "must be a number of seconds")]) from error
