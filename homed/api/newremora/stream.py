"""A job's states and output as server-sent events: `status`, `output` and `complete`."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

import msgspec
from aiohttp import web

from homed import clock
from homed.api import sse
from homed.api.newremora.answers import Hosts, brief, printed, shown, shown_status, with_output
from homed.api.routes import Call
from homed.api.sse import EventStreams
from homed.jobs.following import Item, is_over, place
from homed.jobs.output.order import Stream
from homed.jobs.output.output import Output, Piece
from homed.jobs.records import Job, State

_MOST_HELD = 32
_EXCERPT = 64 * 1024  # bytes of each stream in the last event, which is held for each follower


class Followed(Protocol):
    async def look(self, id: str) -> Job: ...

    def output(self, job: Job) -> Output | None: ...

    def follow(self, id: str, last_event_id: str = "") -> AsyncGenerator[Item, None]: ...


class JobStream:
    """The event stream of a job, encoded once for all followers. State events hold the whole job like `/jobs/ID`, so
    that a web page can build its row from one event.
    """

    def __init__(self, jobs: Followed, hosts: Hosts, streams: EventStreams):
        self._jobs = jobs
        self._hosts = hosts
        self._streams = streams
        self._encoded: dict[tuple[str, str, int], bytes] = {}

    async def follow(self, call: Call) -> web.StreamResponse:
        """`Last-Event-ID` goes on after that event; 204 where it was the last, so that no client asks again."""
        id, last = call.path["job_id"], call.request.headers.get("Last-Event-ID", "")
        job = await self._jobs.look(id)
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
                    yield await self._state(item)

    async def _state(self, item: Item) -> bytes:
        job = brief(shown(item.job, self._hosts))
        data: dict[str, Any] = {"job_id": job.id, "timestamp": clock.now()}
        if not item.complete:
            return sse.event("status", data | _fields(job), item.id)
        output = self._jobs.output(item.job)
        whole = with_output(job, await asyncio.to_thread(printed, output, _EXCERPT))
        return await asyncio.to_thread(sse.event, "complete", data | _fields(whole), item.id)

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


def _fields(value: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__struct_fields__}


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
