"""The worker's side of the wire: downloads over broken connections, bounds, and what an answer means."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from homed.agent import server as module
from homed.agent.server import AwayError, KeyRefusedError, RefusedError, Server, pause
from homed.errors import ConfigError

DATA = bytes(range(256)) * 4000
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler, key: str | None = None) -> AsyncIterator[Server]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with Server(f"http://127.0.0.1:{runner.addresses[0][1]}", key) as server:
            yield server
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "pause", lambda failures: 0.001)


def breaking(asked: list[str], *, tag: str = '"v1"', after: int = 100_000, whole: bytes = DATA) -> Handler:
    """Breaks off after so many bytes, each time."""

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range", ""))
        start = int(asked[-1].removeprefix("bytes=").removesuffix("-") or 0) if asked[-1] else 0
        if start and request.headers.get("If-Range") != tag:
            start = 0
        headers = {"ETag": tag, "Content-Length": str(len(whole) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        await response.write(whole[start : start + after])
        if start + after < len(whole):
            await asyncio.sleep(0.02)  # what has arrived is to be read before the end
            assert request.transport is not None
            request.transport.abort()
        return response

    return handler


async def test_a_download_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    asked: list[str] = []
    async with serving(breaking(asked)) as server:
        await server.download("/uploads/1-a.zip", tmp_path / "a", 1 << 30)
    assert (tmp_path / "a").read_bytes() == DATA
    assert asked[0] == "" and len(asked) > 5 and all(one.startswith("bytes=") for one in asked[1:])


async def test_what_has_become_another_file_begins_anew(tmp_path: Path) -> None:
    asked: list[str] = []
    first, second = breaking(asked), breaking(asked, tag='"v2"', after=1 << 30, whole=DATA[::-1])

    async def handler(request: web.Request) -> web.StreamResponse:
        return await (second if asked else first)(request)

    async with serving(handler) as server:
        await server.download("/uploads/1-a.zip", tmp_path / "a", 1 << 30)
    assert (tmp_path / "a").read_bytes() == DATA[::-1]


async def test_a_server_that_never_sends_anything_is_given_up(tmp_path: Path) -> None:
    asked: list[str] = []
    async with serving(breaking(asked, after=0)) as server:
        with pytest.raises(AwayError):
            await server.download("/uploads/1-a.zip", tmp_path / "a", 1 << 30)
    assert len(asked) == 10


@pytest.mark.parametrize("where", ["file:///etc/passwd", "http://127.0.0.1:1/"])
async def test_a_server_whose_uploads_lead_elsewhere_is_refused_at_once(tmp_path: Path, where: str) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(status=302, headers={"Location": where})

    async with serving(handler) as server:
        with pytest.raises(RefusedError):
            await server.download("/uploads/1-a.zip", tmp_path / "a", 1 << 30)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {"Content-Range": "bytes 100-999/1000"}, DATA[100:1000]),
        (200, {"Content-Range": "bytes 7-999/1000"}, DATA[7:1000]),
        (206, {}, DATA[100:1000]),
        (206, {"Content-Range": "bytes 0-99/1000"}, DATA[:100]),
        (206, {"Content-Range": "bytes 100-999/2000"}, DATA[100:1000]),
        (206, {"Content-Range": "bytes 100-999/1000", "ETag": '"v2"'}, b"x" * 900),
        (206, {"Content-Range": "bytes 100-1099/1100"}, DATA[100:1100]),
        (206, {"Content-Range": "nonsense"}, DATA[100:1000]),
        (416, {"Content-Range": "bytes */1000"}, b""),
        (200, {}, DATA[:1000]),
    ],
)
async def test_whatever_answers_the_wish_for_the_rest_the_file_is_whole(
    tmp_path: Path, status: int, headers: dict[str, str], body: bytes
) -> None:
    """The first answers break off after 100 of 1000 bytes; the first for a part is what is tried; then all is good."""
    asked: list[str] = []
    good = breaking([], after=1 << 30, whole=DATA[:1000])
    broken = breaking([], after=100, whole=DATA[:1000])

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range", ""))
        if asked[-1] and len([one for one in asked if one]) == 1:
            return web.Response(status=status, headers={"ETag": '"v1"', **headers}, body=body)
        return await (good if any(asked) else broken)(request)

    async with serving(handler) as server:
        await server.download("/uploads/1-a.zip", tmp_path / "a", 1 << 30)
    assert (tmp_path / "a").read_bytes() == DATA[:1000]
    assert "bytes=100-" in asked


async def test_what_is_sent_packed_is_refused(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x", headers={"Content-Encoding": "gzip"})

    async with serving(handler) as server:
        with pytest.raises(RefusedError):
            await server.download("/uploads/1-a.zip", tmp_path / "a", 1 << 30)


async def test_an_address_elsewhere_is_asked_as_it_is_written(tmp_path: Path) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.raw_path)
        if len(asked) == 1:
            return web.Response(status=302, headers={"Location": "/y?sig=%2F%7E"})
        return web.Response(body=b"x")

    async with serving(handler) as elsewhere, serving(handler) as server:
        await server.download(f"{elsewhere.url}x?sig=a%2Fb%3D%2B&x=1%7E", tmp_path / "a", 1000)
    assert asked == ["/x?sig=a%2Fb%3D%2B&x=1%7E", "/y?sig=%2F%7E"]


async def test_a_download_is_bounded(tmp_path: Path) -> None:
    async with serving(breaking([], after=1 << 30)) as server:
        with pytest.raises(RefusedError):
            await server.download("/uploads/1-a.zip", tmp_path / "a", 100_000)


async def test_the_key_goes_to_its_server_only(tmp_path: Path) -> None:
    keys: list[str | None] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        keys.append(request.headers.get("X-API-Key"))
        return web.json_response({"success": True})

    async with serving(handler) as elsewhere, serving(handler, "secret") as server:
        await server.call("GET", "api/x")
        await server.download("/uploads/1-a", tmp_path / "a", 1000)
        await server.download(f"{elsewhere.url}a", tmp_path / "b", 1000)
    assert keys == ["secret", "secret", None]


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, {"error": "no"}, KeyRefusedError), (403, {"error": "this needs the scope"}, KeyRefusedError),
        (403, {"error": "Worker is not assigned to this job"}, RefusedError), (404, {}, RefusedError),
        (400, {"error": "x"}, RefusedError), (413, {}, RefusedError), (429, {}, AwayError), (408, {}, AwayError),
        (500, {}, AwayError), (503, {"error": "x"}, AwayError), (302, {}, AwayError),
    ],
)  # fmt: skip
async def test_an_answer_says_whether_it_may_be_asked_again(
    status: int, body: dict[str, str], error: type[Exception]
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    async with serving(handler) as server:
        with pytest.raises(error):
            await server.call("POST", "api/x", {})


async def test_a_server_that_is_not_there_is_away() -> None:
    async with Server("http://127.0.0.1:9") as server:
        with pytest.raises(AwayError):
            await server.call("GET", "api/x")


@pytest.mark.parametrize("url", ["", "board:8080", "ftp://board", "http://", "http://board/?x=1"])
def test_an_address_is_checked(url: str) -> None:
    with pytest.raises(ConfigError):
        Server(url)


def test_an_authority_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("no certificate")
    for path in (tmp_path / "ca", tmp_path / "none"):
        with pytest.raises(ConfigError):
            Server("https://board", None, path)
    assert issubclass(ssl.SSLError, OSError)


def test_the_pause_grows_and_is_bounded() -> None:
    assert 0.25 <= pause(0) <= 0.5
    assert all(15 <= pause(failures) <= 30 for failures in (6, 100, 10**6))
