"""HEAD is answered wherever GET is: the headers, no body, and nothing is followed, read or held for it."""

from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from aiohttp import web

from homed.api import transfers
from homed.api.access import metrics as metrics_routes
from homed.api.routes import Call, Route
from homed.api.sse import EventStreams
from homed.api.streaming import Streaming
from homed.containers.frames import Line
from homed.containers.logs import FollowerLimit
from homed.events import Events
from homed.metrics import Metrics
from tests.support.front import Server, serve


async def test_head_answers_the_headers_of_a_get_and_takes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "archive.tar"
    file.write_bytes(b"x" * 300_000)
    limit = FollowerLimit(0)  # nobody may follow
    begun: list[str] = []

    async def holds(_: object) -> bool:
        return True

    streaming = Streaming(Events(), limit, lambda: None, holds)
    streams = EventStreams(limit, lambda: None, holds)

    async def lines() -> AsyncGenerator[list[Line], None]:
        begun.append("lines")
        yield []

    async def events() -> AsyncGenerator[bytes, None]:
        begun.append("events")
        yield b""

    async def download(call: Call) -> web.StreamResponse:
        return await transfers.send(call.request, file, "application/x-tar")

    async def log(call: Call) -> web.StreamResponse:
        return await streaming.text(call, lines())

    async def follow(call: Call) -> web.StreamResponse:
        return await streams.serve(call, events())

    async def socket(call: Call) -> web.StreamResponse:
        return await streaming.events(call, ())

    def routes(_: Callable[[], Server]) -> list[Route]:
        base = ("Things", "services")
        return [
            *metrics_routes.routes(Metrics("0"), lambda: True),
            Route("GET", "/archive", download, "Download", *base, streams=("application/x-tar",), change="x.download"),
            Route("GET", "/log", log, "Log", *base, streams=("text/plain",)),
            Route("GET", "/follow", follow, "Follow", *base, streams=("text/event-stream",)),
            Route("GET", "/socket", socket, "Socket", *base, socket=True),
        ]

    async with serve(tmp_path, routes=routes) as server:
        expected = {
            "/metrics": (200, "text/plain"),
            "/archive": (200, "application/x-tar"),
            "/log": (200, "text/plain"),
            "/follow": (200, "text/event-stream"),
            "/socket": (400, "application/json"),
        }
        for path, (status, kind) in expected.items():
            for slash in ("", "/"):
                async with server.request("HEAD", path + slash) as answer:
                    assert (answer.status, answer.content_type) == (status, kind), path
                    assert await answer.read() == b""
        async with server.request("HEAD", "/archive") as answer:
            assert answer.content_length == 300_000
        async with server.request("HEAD", "/archive", headers={"Range": "bytes=0-9"}) as answer:
            assert (answer.status, answer.content_length) == (206, 10)
        assert (begun, limit.count) == ([], 0)
        assert await server.store.entries(10, None) == []  # a HEAD downloads nothing
