"""What happens below the routes: errors before routing, bounds on a request's head, bodies that are encoded."""

import asyncio
import contextlib
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import http_parser, web, web_protocol

from homed.api import protocol
from homed.errors import HomedError
from tests.support.front import Server, raw, serve


@pytest.fixture(params=["c", "python"])
async def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Server]:
    """A server with each of aiohttp's two parsers."""
    if request.param == "python":
        monkeypatch.setattr(web_protocol, "HttpRequestParser", http_parser.HttpRequestParserPy)
    async with serve(tmp_path) as made:
        yield made


def parsed(answer: bytes) -> tuple[int, dict[str, Any]]:
    """The only answer of a connection: its status, and its body in the API's error shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head, answer[:500]
    shown = json.loads(body)
    assert set(shown) == {"error", "timestamp", "request_id"}
    assert set(shown["error"]) == {"code", "message", "details"}
    assert f"X-Request-ID: {shown['request_id']}".encode() in head
    assert b"Server: homed" in head
    return int(head.split(b" ")[1]), shown["error"]


_HOST = b"Host: localhost\r\n"
_CASES = {
    "a URL over 8 KiB": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + _HOST + b"\r\n", 414, "URL_TOO_LONG"),
    "a query over 8 KiB": (b"GET /things?a=" + b"a" * 9000 + b" HTTP/1.1\r\n" + _HOST + b"\r\n", 414, "URL_TOO_LONG"),
    "150 headers": (
        b"GET /things HTTP/1.1\r\n" + _HOST + b"".join(b"X-%d: 1\r\n" % i for i in range(150)) + b"\r\n",
        431,
        "HEADERS_TOO_LARGE",
    ),
    "a header over 8 KiB": (
        b"GET /things HTTP/1.1\r\n" + _HOST + b"X-Long: " + b"a" * 9000 + b"\r\n\r\n",
        431,
        "HEADERS_TOO_LARGE",
    ),
    # More than is taken from a socket at once: the parser gives up while the rest still comes.
    "a URL over 16 KiB": (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n" + _HOST + b"\r\n", 414, "URL_TOO_LONG"),
    "a header over 16 KiB": (
        b"GET /things HTTP/1.1\r\n" + _HOST + b"X-Long: " + b"a" * 40000 + b"\r\n\r\n",
        431,
        "HEADERS_TOO_LARGE",
    ),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64 + b"\r\n\r\n", 400, "MALFORMED_REQUEST"),
    "no target": (b"GET\r\n\r\n", 400, "MALFORMED_REQUEST"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "MALFORMED_REQUEST"),
    "no Host": (b"GET /things HTTP/1.1\r\n\r\n", 400, "MALFORMED_REQUEST"),
    "a header without a name": (b"GET /things HTTP/1.1\r\n" + _HOST + b": x\r\n\r\n", 400, "MALFORMED_REQUEST"),
    "two lengths": (
        b"POST /things HTTP/1.1\r\n" + _HOST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        400,
        "MALFORMED_REQUEST",
    ),
    "a length and chunks": (
        b"POST /things HTTP/1.1\r\n"
        + _HOST
        + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        400,
        "MALFORMED_REQUEST",
    ),
    "options of everything": (b"OPTIONS * HTTP/1.1\r\nConnection: close\r\n" + _HOST + b"\r\n", 404, "NOT_FOUND"),
    "a URL without a path": (
        b"GET http://localhost HTTP/1.1\r\nConnection: close\r\n" + _HOST + b"\r\n",
        404,
        "NOT_FOUND",
    ),
    "a tunnel": (b"CONNECT localhost:80 HTTP/1.1\r\nConnection: close\r\n" + _HOST + b"\r\n", 404, "NOT_FOUND"),
    "a bad chunk": (
        b"POST /things HTTP/1.1\r\n"
        + _HOST
        + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        400,
        "",
    ),
    "gzip as a transfer coding": (
        b"POST /things HTTP/1.1\r\n" + _HOST + b"Content-Type: application/json\r\nTransfer-Encoding: gzip, chunked\r\n"
        b"Connection: close\r\n\r\n0\r\n\r\n",
        415,
        "ENCODING_NOT_SUPPORTED",
    ),
}


@pytest.mark.parametrize("name", _CASES)
async def test_an_error_before_routing_has_the_shape_of_the_api(server: Server, name: str) -> None:
    sent, status, code = _CASES[name]
    got, error = parsed(await raw(server.port, sent))
    assert got == status
    assert not code or error["code"] == code
    assert b"\n" not in error["message"].encode()


async def test_the_head_of_a_request_is_bounded_as_a_whole(server: Server) -> None:
    """128 headers of 8 KiB would be 1 MB for each connection, and nobody asks for so much."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /things HTTP/1.1\r\n" + _HOST)
    sent = 0
    try:
        for number in range(100):
            writer.write(b"X-%d: %s\r\n" % (number, b"a" * 4000))
            await writer.drain()
            sent += 4000
            await asyncio.sleep(0.001)
            if reader.at_eof() or writer.transport.is_closing():
                break
    except ConnectionError:
        pass
    finally:
        writer.close()
    assert sent < 300_000
    async with server.request("GET", "/things/a") as answer:
        assert answer.status == 200


async def test_the_shape_is_that_of_the_family_whose_path_it_has() -> None:
    told: list[str] = []

    def refusal(path: str, error: HomedError) -> web.Response:
        told.append(path)
        return web.json_response({"code": error.code}, status=error.status)

    application = web.Application()
    application[protocol.REFUSAL] = refusal
    runner = protocol.Runner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        long = b"/api/jobs/status?jobId=" + b"a" * 9000
        assert b'"URL_TOO_LONG"' in await raw(port, b"GET " + long + b" HTTP/1.1\r\n" + _HOST + b"\r\n")
        assert b'"MALFORMED_REQUEST"' in await raw(port, b"GET /api/v1/tasks HTTP/9.9\r\n" + _HOST + b"\r\n")
        header = b"X-Long: " + b"a" * 40000
        assert b'"HEADERS_TOO_LARGE"' in await raw(port, b"GET /api/v1/jobs HTTP/1.1\r\n" + header + b"\r\n\r\n")
    finally:
        await runner.cleanup()
    assert told == ["/api/jobs/status", "/api/v1/tasks", "/api/v1/jobs"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_encoded_body_is_never_inflated(
    server: Server, monkeypatch: pytest.MonkeyPatch, encoding: str, chunked: bool
) -> None:
    inflated: list[str] = []

    def fail(*_: object, **__: object) -> None:
        inflated.append(encoding)
        raise AssertionError("a body was inflated")

    monkeypatch.setattr(http_parser.DeflateBuffer, "__init__", fail)
    data = gzip.compress(b" " * 10_000) if encoding == "gzip" else zlib.compress(b" " * 10_000)
    head = b"POST /things HTTP/1.1\r\n" + _HOST + b"Content-Type: application/json\r\nContent-Encoding: %s\r\n"
    framed = (
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)
        if chunked
        else b"Content-Length: %d\r\n\r\n%s" % (len(data), data)
    )
    answer = await raw(server.port, head % encoding.encode() + b"Connection: close\r\n" + framed)
    status, error = parsed(answer)
    assert (status, error["code"], inflated) == (415, "ENCODING_NOT_SUPPORTED", [])


@pytest.mark.parametrize("said", [b"identity", b"Identity", b""])
async def test_a_body_that_says_it_is_not_encoded_is_taken(server: Server, said: bytes) -> None:
    head = b"POST /things HTTP/1.1\r\n" + _HOST + b"Content-Type: application/json\r\nContent-Encoding: %s\r\n" % said
    answer = await raw(server.port, head + b'Connection: close\r\nContent-Length: 12\r\n\r\n{"name":"b"}')
    assert answer.startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("endless", [b"0\r\n" + b"X-Trailer: aaaa\r\n" * 20_000, b"1;" + b"a" * 400_000])
async def test_trailers_and_extensions_of_chunks_that_do_not_end_end_the_connection(
    server: Server, endless: bytes
) -> None:
    head = (
        b"POST /things HTTP/1.1\r\n" + _HOST + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with contextlib.suppress(ConnectionError):
        await raw(server.port, head + endless)  # ends long before a body's deadline: its own is 20 s
    body = b'2\r\n{"\r\n8;ext=1\r\nname":"a\r\n2\r\n"}\r\n0\r\nX-Trailer: 1\r\n\r\n'
    closing = head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert (await raw(server.port, closing + body)).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("gone", [True, False])
async def test_a_client_that_goes_while_it_is_answered_is_no_error_of_homed(
    gone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What fails in the same way while the client is there is one."""
    ended = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        try:
            if gone:
                assert request.transport is not None
                request.transport.abort()
            raise ConnectionResetError("cannot write to a closing transport")
        finally:
            ended.set()

    application = web.Application()
    application.router.add_get("/", handler)
    runner = protocol.Runner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        with contextlib.suppress(ConnectionError):
            answer = await raw(runner.addresses[0][1], b"GET / HTTP/1.1\r\n" + _HOST + b"Connection: close\r\n\r\n")
            assert answer.startswith(b"" if gone else b"HTTP/1.1 500 ")
        await ended.wait()
    finally:
        await runner.cleanup()
    assert bool([one for one in caplog.records if one.levelname == "ERROR"]) is not gone
