"""Server-sent events: an answer that goes on. One task beats for all streams, and who reads nothing is dropped."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing

import msgspec
from aiohttp import web

from homed.access.scopes import Principal
from homed.api.routes import STREAMED, Call
from homed.containers.logs import FollowerLimit
from homed.errors import HomedError

log = logging.getLogger(__name__)
_BEAT = 15.0
_LOOK = 5.0
_WRITE_DEADLINE = 30.0
_LAST_WORDS = 2.0
_MOST_WAITING = 16 * 1024
_KEEP_ALIVE = b": keep-alive\n\n"
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
}


def event(kind: str, data: object, id: str = "") -> bytes:
    """One event; its data is JSON, which has no line break in it."""
    head = f"id: {id}\n" if id else ""
    return b"%sevent: %s\ndata: %s\n\n" % (head.encode(), kind.encode(), msgspec.json.encode(data))


class _Stream:
    """One client. Its writer's buffer is short: what it does not read waits where it came from."""

    def __init__(self, request: web.Request, principal: Principal, task: asyncio.Task[object], deadline: float):
        self.request = request
        self.principal = principal
        self.task = task
        self.is_ending = False
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._written_at = self._loop.time()
        assert request.transport is not None
        request.transport.set_write_buffer_limits(_MOST_WAITING)

    @property
    def is_gone(self) -> bool:
        transport = self.request.transport
        return transport is None or transport.is_closing()

    async def write(self, data: bytes) -> None:
        """TimeoutError where the client reads nothing for as long as it may; ConnectionError."""
        writer = self.request.writer
        # It would wait for the client by itself, and for ever, each time that this much was written.
        writer.buffer_size = 0
        await writer.write(data)
        self._written_at = self._loop.time()
        if self.request.transport is not None and self.request.transport.get_write_buffer_size() > _MOST_WAITING:
            async with asyncio.timeout(self._deadline):
                await writer.drain()

    async def beat(self, quiet: float) -> None:
        """A sign of life, where there was none for so many seconds and none is on its way."""
        transport = self.request.transport
        if self.is_gone or transport is None or transport.get_write_buffer_size():
            return
        if self._loop.time() - self._written_at >= quiet:
            with contextlib.suppress(ConnectionError):
                await self.write(_KEEP_ALIVE)

    def end(self) -> None:
        """Have its task write the end, as soon as it does not wait for something else."""
        self.is_ending = True
        self.task.cancel()

    def abort(self) -> None:
        if self.request.transport is not None:
            self.request.transport.abort()


class EventStreams:
    """`followers` bounds how many are open; `dropped` is called for each client that was too slow.

    `holds` says whether a caller may still read: asked each `look` seconds. A silence is at most `beat` seconds long;
    a client may read nothing for `deadline` seconds.
    """

    def __init__(
        self,
        followers: FollowerLimit,
        dropped: Callable[[], None],
        holds: Callable[[Principal], Awaitable[bool]],
        *,
        beat: float = _BEAT,
        look: float = _LOOK,
        deadline: float = _WRITE_DEADLINE,
    ):
        self._beat = beat
        self._look = look
        self._deadline = deadline
        self._followers = followers
        self._dropped = dropped
        self._holds = holds
        self._open: set[_Stream] = set()
        self._keeper: asyncio.Task[None] | None = None

    async def serve(
        self, call: Call, events: AsyncGenerator[bytes, None], headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        """Encoded events as they come, until there are no more. BusyError where too many are open."""
        if call.request.method == "HEAD":
            await events.aclose()
            return web.StreamResponse(headers={**_HEADERS, **(headers or {})})
        with self._followers:
            async with aclosing(events) as source:
                response = web.StreamResponse(headers={**_HEADERS, **(headers or {})})
                call.request[STREAMED] = True
                task = asyncio.current_task()
                assert task is not None
                stream = _Stream(call.request, call.principal, task, self._deadline)
                with self._kept(stream):
                    await self._write(stream, response, source)
                return response

    async def close(self) -> None:
        """End every stream: clients are told the end, and may come back with the id of their last event."""
        streams = list(self._open)
        for stream in streams:
            stream.end()
        if streams:
            await asyncio.wait([stream.task for stream in streams], timeout=_LAST_WORDS)
        for stream in list(self._open):
            stream.abort()

    async def _write(self, stream: _Stream, response: web.StreamResponse, source: AsyncGenerator[bytes, None]) -> None:
        try:
            await response.prepare(stream.request)
            async for data in source:
                await stream.write(data)
            await self._end(stream, response)
        except asyncio.CancelledError:
            if not stream.is_ending or stream.task.uncancel():
                raise
            await self._end(stream, response)
        except TimeoutError:
            log.info("A stream's reader was too slow and was dropped")
            self._dropped()
            stream.abort()
        except HomedError as error:
            log.info("A stream ended: %s", error.message)
            stream.abort()
        except ConnectionError:
            pass

    async def _end(self, stream: _Stream, response: web.StreamResponse) -> None:
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await response.write_eof()
        except (ConnectionError, TimeoutError):
            stream.abort()

    @contextlib.contextmanager
    def _kept(self, stream: _Stream) -> Iterator[None]:
        self._open.add(stream)
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep(), name="event streams")
        try:
            yield
        finally:
            self._open.discard(stream)
            if not self._open and self._keeper is not None:
                self._keeper.cancel()
                self._keeper = None

    async def _keep(self) -> None:
        """See to all of them: signs of life, clients that have gone, keys that were revoked."""
        while True:
            await asyncio.sleep(self._look)
            held: dict[Principal, bool] = {}
            for stream in list(self._open):
                if stream.is_gone:
                    stream.end()
                    continue
                if stream.principal not in held:
                    held[stream.principal] = await self._holds(stream.principal)
                if held[stream.principal]:
                    # Nothing is looked at between two looks.
                    await stream.beat(self._beat - self._look)
                else:
                    stream.end()
