"""Server-sent events over real connections: what comes, and what a client can do to others, which is nothing."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from homed.access.scopes import LOCAL, Principal
from homed.api import sse
from homed.api.routes import Call
from homed.api.sse import EventStreams
from homed.containers.logs import FollowerLimit
from homed.errors import BusyError, JobError

Events = Callable[[], AsyncGenerator[bytes, None]]


class Server:
    """Serves what `events` makes, for each request anew."""

    def __init__(self, events: Events, **settings: Any):
        self.dropped = 0
        self.held = True
        self.limit = FollowerLimit(settings.pop("followers", 10))
        self.streams = EventStreams(self.limit, self._drop, self._holds, **settings)
        self.handlers: list[asyncio.Task[object]] = []
        self.requests: list[web.Request] = []
        self._events = events
        self.port = 0

    def _drop(self) -> None:
        self.dropped += 1

    async def _holds(self, principal: Principal) -> bool:
        return self.held

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self.handlers.append(task)
        self.requests.append(request)
        try:
            return await self.streams.serve(Call(request, LOCAL, "", {}), self._events(), {"X-Exec-Id": "7"})
        except BusyError:
            return web.Response(status=429)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        application = web.Application()
        application.router.add_get("/", self._serve)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await self.streams.close()
            await runner.cleanup()


@contextlib.asynccontextmanager
async def asked(server: Server) -> AsyncIterator[aiohttp.ClientResponse]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{server.port}/") as answer:
        yield answer


async def some(count: int, size: int) -> AsyncGenerator[bytes, None]:
    for number in range(count):
        yield sse.event("output", {"text": "x" * size}, str(number))


async def silence() -> AsyncGenerator[bytes, None]:
    yield sse.event("status", {})
    await asyncio.Event().wait()


async def eventually(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not look():
            await asyncio.sleep(0.01)


def test_an_event_is_three_lines_and_an_empty_one() -> None:
    assert (
        sse.event("output", {"content": "a\nb"}, "1-2-3") == b'id: 1-2-3\nevent: output\ndata: {"content":"a\\nb"}\n\n'
    )
    assert sse.event("status", None) == b"event: status\ndata: null\n\n"


async def test_events_come_to_their_end_with_the_heads_that_clients_and_proxies_want() -> None:
    async with Server(lambda: some(2, 1)).running() as server, asked(server) as answer:
        assert answer.status == 200
        heads = {"Content-Type", "Cache-Control", "Connection", "X-Accel-Buffering", "X-Exec-Id"}
        assert {name: answer.headers[name] for name in heads} == {
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-cache",
            "Connection": "keep-alive",
            "X-Accel-Buffering": "no",
            "X-Exec-Id": "7",
        }
        assert await answer.read() == b"".join([event async for event in some(2, 1)])


async def test_one_that_reads_nothing_holds_up_nobody_and_loses_nothing() -> None:
    count, size = 3000, 10_000
    whole = b"".join([event async for event in some(count, size)])
    async with Server(lambda: some(count, size)).running() as server, asked(server) as slow:
        await asyncio.sleep(0.2)
        async with asked(server) as fast:
            assert await fast.read() == whole
        transport = server.requests[0].transport
        assert transport is not None
        assert transport.get_write_buffer_size() < 64 * 1024
        assert not server.handlers[0].done()
        assert await slow.read() == whole


async def test_one_that_reads_nothing_for_too_long_is_dropped() -> None:
    async with Server(lambda: some(3000, 10_000), deadline=0.3).running() as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await eventually(lambda: server.dropped == 1)
            await eventually(lambda: server.limit.count == 0)


async def test_a_silence_is_broken_by_comments() -> None:
    async with Server(silence, beat=0.2, look=0.05).running() as server, asked(server) as answer:
        found = await answer.content.readuntil(b": keep-alive\n\n: keep-alive\n\n")
        assert found == b"event: status\ndata: {}\n\n" + b": keep-alive\n\n" * 2


async def test_a_revoked_key_ends_its_streams() -> None:
    async with Server(silence, look=0.05).running() as server, asked(server) as answer:
        server.held = False
        assert await answer.read() == b"event: status\ndata: {}\n\n"


async def test_a_stop_ends_all_streams_in_good_order() -> None:
    async with Server(silence).running() as server, asked(server) as first, asked(server) as second:
        await server.streams.close()
        assert await first.read() == await second.read() == b"event: status\ndata: {}\n\n"


async def test_a_stop_does_not_wait_for_who_reads_nothing() -> None:
    async with Server(lambda: some(3000, 10_000)).running() as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await eventually(lambda: server.limit.count == 1)
            await asyncio.sleep(0.2)
            await server.streams.close()
            await eventually(lambda: server.limit.count == 0)


async def test_only_so_many_may_follow() -> None:
    async with Server(silence, followers=1).running() as server, asked(server) as first:
        async with asked(server) as second:
            assert second.status == 429
        assert first.status == 200


async def test_what_a_client_that_goes_away_leaves_is_closed() -> None:
    closed = asyncio.Event()

    async def watched() -> AsyncGenerator[bytes, None]:
        try:
            async with contextlib.aclosing(silence()) as source:
                async for event in source:
                    yield event
        finally:
            closed.set()

    async with Server(watched, look=0.05).running() as server:
        async with asked(server) as answer:
            await answer.content.readuntil(b"\n\n")
        async with asyncio.timeout(30):
            await closed.wait()
        await eventually(lambda: server.limit.count == 0)


async def test_an_error_in_the_middle_is_no_end_in_good_order() -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        yield sse.event("status", {})
        raise JobError("the job's output cannot be read")

    async with Server(broken).running() as server, asked(server) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
