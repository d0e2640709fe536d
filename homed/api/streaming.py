"""Answers that go on: text over HTTP, lines and events over WebSockets. A slow reader never holds up anything else.

Reading from the engine stops while a client's buffer is full, so a follower costs one buffer; the event queue
cannot wait, so who lags behind it is told and dropped.
"""

import asyncio
import contextlib
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from homed.access.scopes import Principal
from homed.api.routes import STREAMED, Call
from homed.containers.frames import Line
from homed.containers.logs import FollowerLimit
from homed.errors import HomedError
from homed.events import Events

log = logging.getLogger(__name__)
_PING = 30.0
_LOOK = 5.0
_WRITE_DEADLINE = 30.0
_LAST_WORDS = 2.0


class Streaming:
    """`sockets` bounds how many are open; `dropped` is called for each client that was too slow.

    `holds` says whether a caller may still read: asked every few seconds of an open socket.
    """

    def __init__(
        self,
        events: Events,
        sockets: FollowerLimit,
        dropped: Callable[[], None],
        holds: Callable[[Principal], Awaitable[bool]],
    ):
        self._events = events
        self._holds = holds
        self._sockets = sockets
        self._dropped = dropped
        self._open: weakref.WeakSet[web.WebSocketResponse] = weakref.WeakSet()
        self._tasks: set[asyncio.Task[object]] = set()

    async def text(self, call: Call, batches: AsyncIterator[list[Line]]) -> web.StreamResponse:
        """Lines as text/plain, while they come. An error before the first byte is an ordinary answer."""
        request = call.request
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        request[STREAMED] = True
        if request.method == "HEAD":
            return response  # the source was not started, and holds no resources
        async with aclosing(batches) as source:  # type: ignore[type-var]
            first = asyncio.ensure_future(anext(source, None))
            try:
                # An error comes at once or not at all; a silent log must not hold back the answer's head.
                await asyncio.wait({first}, timeout=0.2)
                if first.done():
                    first.result()
                self._track()
                await self._write(request, response, first, source)
            finally:
                # Also where the client goes away this early: a source that still reads cannot be closed.
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
        return response

    async def _write(
        self,
        request: web.Request,
        response: web.StreamResponse,
        first: "asyncio.Future[list[Line] | None]",
        source: AsyncIterator[list[Line]],
    ) -> None:
        try:
            await response.prepare(request)
            batch = await first
            while batch is not None:
                data = b"".join(line.text + b"\n" for line in batch)
                async with asyncio.timeout(_WRITE_DEADLINE):
                    await response.write(data)
                batch = await anext(source, None)
            await response.write_eof()
        except (HomedError, TimeoutError) as error:
            log.info("A followed log ended: %s", error or "its reader was too slow")
            if isinstance(error, TimeoutError):
                self._dropped()
            self._abort(request)

    async def lines(self, call: Call, batches: AsyncIterator[list[Line]]) -> web.StreamResponse:
        """Each line as a text message; closed when the log ends."""
        async with self._socket(call) as socket, aclosing(batches) as source:  # type: ignore[type-var]

            async def send() -> None:
                async for batch in source:
                    for line in batch:
                        await socket.send_str(line.text.decode(errors="replace"))

            await self._serve(call, socket, send())
            return socket

    async def events(self, call: Call, patterns: tuple[str, ...]) -> web.StreamResponse:
        """Each event as a JSON message."""
        subscription = self._events.subscribe(patterns)
        try:
            async with self._socket(call) as socket:

                async def send() -> None:
                    while (event := await subscription.next()) is not None:
                        await socket.send_str(msgspec.json.encode(event).decode())

                await self._serve(call, socket, _until(subscription.overflow, send()))
                return socket
        finally:
            self._events.unsubscribe(subscription)

    async def close(self) -> None:
        """End every stream: sockets are told that the server goes away."""
        farewells = [
            socket.close(code=WSCloseCode.GOING_AWAY, message=b"homed is stopping") for socket in list(self._open)
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await asyncio.gather(*farewells, return_exceptions=True)
        for task in list(self._tasks):
            task.cancel()

    @contextlib.asynccontextmanager
    async def _socket(self, call: Call) -> AsyncIterator[web.WebSocketResponse]:
        if call.request.method == "HEAD":
            raise NotASocket("this is a WebSocket: connect with ws:// or wss://")
        with self._sockets:
            socket = web.WebSocketResponse(heartbeat=_PING, max_msg_size=4096, compress=False)
            if not socket.can_prepare(call.request):
                raise NotASocket("this is a WebSocket: connect with ws:// or wss://")
            await socket.prepare(call.request)
            call.request[STREAMED] = True
            self._open.add(socket)
            self._track()
            yield socket

    async def _serve(self, call: Call, socket: web.WebSocketResponse, work: Coroutine[Any, Any, None]) -> None:
        """Send until the source ends, the client goes, is too slow, or its key is revoked."""
        sender, reader = asyncio.create_task(work), asyncio.create_task(_read(socket))
        try:
            done: set[asyncio.Task[None]] = set()
            while not done and await self._holds(call.principal):
                done, _ = await asyncio.wait({sender, reader}, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"the key was revoked")
                return
            if sender.done():
                sender.result()
            await socket.close()
        except SlowReader:
            self._dropped()
            log.info("A socket's reader was too slow and was dropped")
            await self._last_words(call.request, socket)
        except HomedError as error:
            message = error.message.encode()[:120]
            await socket.close(code=WSCloseCode.INTERNAL_ERROR, message=message)
        except ConnectionError:
            pass
        finally:
            for task in (sender, reader):
                task.cancel()
            await asyncio.gather(sender, reader, return_exceptions=True)

    async def _last_words(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        """Tell the client why, if it still reads within two seconds; then end the connection."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(_LAST_WORDS):
                await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"too slow: events were lost")
        self._abort(request)

    def _abort(self, request: web.Request) -> None:
        if request.transport is not None:
            request.transport.abort()

    def _track(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class SlowReader(Exception):
    """The client did not read as fast as events came."""


class NotASocket(HomedError):
    code = "WEBSOCKET_REQUIRED"
    status = 400
    grpc = "INVALID_ARGUMENT"


async def _until(overflow: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, but give it up with SlowReader on overflow: it may be stuck in a full buffer."""
    sender, watcher = asyncio.create_task(work), asyncio.create_task(overflow.wait())
    try:
        await asyncio.wait({sender, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if overflow.is_set():
            raise SlowReader
        sender.result()
    finally:
        sender.cancel()
        watcher.cancel()
        await asyncio.gather(sender, watcher, return_exceptions=True)


async def _read(socket: web.WebSocketResponse) -> None:
    """Nothing is expected from the client but its end; small messages are passed over."""
    async for message in socket:
        if message.type is WSMsgType.ERROR:
            break
