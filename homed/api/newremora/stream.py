"""A job's states and output as server-sent events: `status`, `output` and `complete`."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

import msgspec
from aiohttp import web

from homed import clock
from homed.api import sse
from homed.api.newremora.answers import exit_code, shown_status
from homed.api.routes import Call
from homed.api.sse import EventStreams
from homed.jobs.following import Item, is_over, place
from homed.jobs.output.order import Stream
from homed.jobs.output.output import Piece
from homed.jobs.records import Job, State

_MOST_HELD = 32


class Followed(Protocol):
    async def get(self, id: str) -> Job: ...

    def follow(self, id: str, last_event_id: str = "") -> AsyncGenerator[Item, None]: ...


class JobStream:
    """What many followers get is encoded once."""

    def __init__(self, jobs: Followed, streams: EventStreams):
        self._jobs = jobs
        self._streams = streams
        self._encoded: dict[tuple[str, str, int], bytes] = {}

    async def follow(self, call: Call) -> web.StreamResponse:
        """`Last-Event-ID` goes on after that event; 204 where it was the last, so that no client asks again."""
        id, last = call.path["job_id"], call.request.headers.get("Last-Event-ID", "")
        job = await self._jobs.get(id)
        if is_over(last, job):
            return web.Response(status=204)
        return await self._streams.serve(call, self._events(job, last))

    async def _events(self, job: Job, last: str) -> AsyncGenerator[bytes, None]:
        told = _told(job, last)
        async with aclosing(self._jobs.follow(job.id, last)) as items:
            async for item in items:
                if item.piece is not None:
                    yield self._shared(item, item.piece)
                elif item.complete or told != (told := _look(item.job)):
                    yield _state(item)

    def _shared(self, item: Item, piece: Piece) -> bytes:
        # One that ends at the same place and is as long is the same.
        key = (item.job.id, item.id, len(piece.text))
        data = self._encoded.get(key)
        if data is None:
            while len(self._encoded) >= _MOST_HELD:
                del self._encoded[next(iter(self._encoded))]
            data = self._encoded[key] = _output(item, piece)
        return data


def _told(job: Job, last: str) -> tuple[str, int] | None:
    """What who comes back has been told of the job's state."""
    at = place(last, job)
    state = at.state
    return None if state is None else _look(msgspec.structs.replace(job, state=state, attempt=at.attempt))


def _look(job: Job) -> tuple[str, int]:
    """What makes a state another one here, where several have one name."""
    return shown_status(job), job.attempt if job.state is State.RUNNING else 0


def _state(item: Item) -> bytes:
    job = item.job
    data: dict[str, object] = {"job_id": job.id, "status": shown_status(job), "timestamp": clock.rfc3339(clock.now())}
    if job.started_at is not None:
        data["started_at"] = clock.rfc3339(job.started_at)
    if job.ended:
        data["finished_at"] = clock.rfc3339(job.finished_at) if job.finished_at is not None else None
        data["exit_code"] = exit_code(job)
        data["error"] = (job.result.error if job.result is not None else "") or None
    return sse.event("complete" if item.complete else "status", data, item.id)


def _output(item: Item, piece: Piece) -> bytes:
    data = {
        "type": piece.stream.word,
        "content": piece.text,
        "job_id": item.job.id,
        "output": piece.text,
        "is_stderr": piece.stream is Stream.STDERR,
        "timestamp": clock.rfc3339(clock.now()),
    }
    return sse.event("output", data, item.id)
