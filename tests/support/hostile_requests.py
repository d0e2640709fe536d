"""Requests that try to cost homed more than they cost their sender. Each is bounded, and goes to 127.0.0.1 alone."""

import asyncio
import base64
import zlib
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from tests.support.hostile_forms import HOSTILE
from tests.support.hostile_world import World, sources

_MIB = 1 << 20
_HOST = b"Host: localhost\r\n"
_FORM = b"Content-Type: multipart/form-data; boundary=B\r\n"
_JSON = b"Content-Type: application/json\r\n"
_PEM, _EXECUTE, _JOBS = b"/api/v1/pem-files/upload", b"/api/execute", b"/api/v1/jobs"


class Attack(NamedTuple):
    """`run` gives the statuses of what was answered; `allowed` are those that may be. `thorough`: it takes long."""

    name: str
    run: Callable[[World], Awaitable[list[int]]]
    allowed: frozenset[int]
    thorough: bool = False


def request(method: bytes, path: bytes, head: bytes = b"", body: bytes | None = None) -> bytes:
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    return b"%s %s HTTP/1.1\r\n" % (method, path) + _HOST + head + length + b"\r\n" + (body or b"")


def chunked(method: bytes, path: bytes, head: bytes, chunks: bytes) -> bytes:
    return request(method, path, head + b"Transfer-Encoding: chunked\r\n") + chunks


@cache
def bomb(mebibytes: int) -> bytes:
    made = zlib.compressobj(9)
    block = b"\0" * _MIB
    return b"".join(made.compress(block) for _ in range(mebibytes)) + made.flush()


async def _each(world: World, requests: list[bytes], *, at_once: int = 10) -> list[int]:
    gate = asyncio.Semaphore(at_once)

    async def one(number: int, data: bytes) -> int:
        async with gate:
            return await world.send(data, f"127.0.0.{2 + number % 8}")

    return list(await asyncio.gather(*(one(i, data) for i, data in enumerate(requests))))


async def _bombs(world: World) -> list[int]:
    paths = (b"/api/v1/services", b"/nothing", b"/health", _EXECUTE, _PEM, b"/api/v1/tasks")
    return await _each(
        world,
        [
            request(b"POST", paths[i % len(paths)], _JSON + b"Content-Encoding: deflate\r\n", bomb(64))
            for i in range(30)
        ],
    )


async def _chunked_bombs(world: World) -> list[int]:
    data = bomb(64)
    return await _each(
        world,
        [
            chunked(b"POST", b"/api/v1/services", head, b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
            for head in (_JSON + b"Content-Encoding: deflate\r\n", _JSON + b"Transfer-Encoding: gzip\r\n")
            for _ in range(5)
        ],
    )


async def _forms(world: World) -> list[int]:
    bodies = [body for name, body in HOSTILE.items() if name not in ("nothing",)]
    small = [body[: 250 * 1024] for body in bodies]
    return await _each(
        world,
        [request(b"POST", _PEM, _FORM, body) for body in small]
        + [request(b"POST", _EXECUTE, _FORM, body) for body in bodies]
        + [
            chunked(b"POST", _EXECUTE, _FORM, b"800000\r\n" + b"\r\n" * (4 * _MIB) + b"\r\n0\r\n\r\n"),
            request(b"POST", _PEM, b"Content-Type: multipart/form-data" + b";" * 7000 + b"\r\n", b"x"),
            request(b"POST", _PEM, b"Content-Type: multipart/form-data; a=" + b"(" * 7000 + b"\r\n", b"x"),
        ],
        at_once=4,
    )


BODIES: Mapping[str, bytes] = {
    "arrays in arrays": b"[" * (_MIB - 1),
    "objects in objects": b'{"a":' * (_MIB // 5 - 1),
    "closed arrays in arrays": b"[" * 400 + b"]" * 400,
    "empty arrays": b'{"name":[' + b"[]," * (_MIB // 3 - 10) + b"[]]}",
    "65,000 keys": b"{" + b",".join(b'"%d":1' % i for i in range(65_000)) + b"}",
    "49,000 keys": b"{" + b",".join(b'"%d":1' % i for i in range(49_000)) + b"}",
    "a number of a megabyte": b"9" * (_MIB - 1),
    "numbers of 4,000 digits": b"[" + b",".join([b"9" * 4000] * 250) + b"]",
    "a float beyond all bounds": b'{"name":1e400}',
    "escapes": b'{"name":"' + b"\\u0001" * (_MIB // 6 - 10) + b'"}',
    "quotes": b'"\\' * (_MIB // 2 - 1),
    "no UTF-8": b'{"name":"' + b"\xff" * (_MIB - 100) + b'"}',
}


async def _json(world: World) -> list[int]:
    paths = (b"/api/v1/services", _JOBS, b"/api/v1/tasks", b"/api/jobs/create", b"/api/v1/config")
    methods = {b"/api/v1/config": b"PUT"}
    return await _each(
        world,
        [request(methods.get(path, b"POST"), path, _JSON, body) for body in BODIES.values() for path in paths],
        at_once=8,
    )


_EVIL = {
    b"semicolons": b";" * 7900,
    b"parameters": b"a/b" + b";a=b" * 1900,
    b"parentheses": b"(" * 7900,
    b"commas": b"," * 7900,
    b"quotes": b'"\\' * 3900,
    b"encoded words": b"=?utf-8?q?a?= " * 560,
    b"ranges": b"bytes=" + b"0-1," * 1900,
    b"digits": b"9" * 7900,
    b"brackets": b"[" * 7900,
    b"cookies": b"a=b; " * 1500,
    b"bytes": b"\xff\xfe" * 3900,
    b"nested JWT": b"Bearer " + base64.urlsafe_b64encode(b"[" * 5000).rstrip(b"=") + b".e30.e30",
    b"nested JWT object": b"Bearer " + base64.urlsafe_b64encode(b'{"a":' * 1000).rstrip(b"=") + b".e30.e30",
    b"basic": b"Basic " + b"QUFB" * 1900,
}
_NAMES = (
    b"Content-Type", b"Accept", b"Accept-Encoding", b"Accept-Language", b"Authorization", b"X-API-Key", b"Cookie",
    b"Range", b"If-Range", b"If-None-Match", b"If-Modified-Since", b"Forwarded", b"X-Forwarded-For", b"Origin",
    b"Referer", b"Host", b"Last-Event-ID", b"Idempotency-Key", b"X-Request-ID", b"Expect", b"Upgrade", b"Connection",
    b"Access-Control-Request-Method", b"Sec-WebSocket-Extensions", b"Sec-WebSocket-Key", b"Sec-WebSocket-Protocol",
    b"Content-Disposition", b"Transfer-Encoding", b"Content-Length", b"TE", b"Trailer",
)  # fmt: skip


async def _headers(world: World) -> list[int]:
    requests = [
        request(b"GET", path, b"Connection: close\r\n%s: %s\r\n" % (name, value))
        for name in _NAMES
        for value in _EVIL.values()
        for path in (b"/api/v1/services", b"/docs/assets/swagger-ui.css")
    ]
    return await _each(world, requests)


async def _urls(world: World) -> list[int]:
    tails = (
        b"/" * 8000, b"a/" * 4000, b"%2f" * 2600, b"../" * 2600, b"?" + b"&" * 7900, b"?" + b"a=b&" * 1900,
        b"?limit=" + b"9" * 7900, b"?type=" + b"*a" * 30, b"?" + b"type=*a*a*a*b&" * 500, b"?" + b"%ff" * 2600,
        b"?since=" + b"9" * 7000, b"?search=" + b"(" * 7000, b"?tail=" + b"9" * 7000, b"#" * 7000, b";" * 7900,
    )  # fmt: skip
    bases = (b"/", b"/api/v1/services", b"/api/v1/jobs", b"/api/v1/tasks", b"/ws/events", b"/api/jobs/status")
    return await _each(
        world, [request(b"GET", base + tail, b"Connection: close\r\n") for base in bases for tail in tails]
    )


async def _heads(world: World) -> list[int]:
    """Heads that never end: each connection may hold little."""
    endless = b"GET /health HTTP/1.1\r\n" + _HOST + b"".join(b"X-%d: %s\r\n" % (i, b"a" * 8000) for i in range(120))
    return await world.hold(endless, sources(240), 1.0)


async def _unfinished(world: World) -> list[int]:
    """S15: a megabyte of which the last byte is missing, 240 times."""
    body = b'{"name":"' + b"a" * (_MIB - 20)
    return await world.hold(request(b"POST", b"/api/v1/services", _JSON, body)[:-1], sources(240), 1.5)


async def _unfinished_chunks(world: World) -> list[int]:
    sent = chunked(b"POST", b"/api/v1/services", _JSON, b"f0000\r\n" + b"[" * 0xF0000 + b"\r\n")
    return await world.hold(sent, sources(240), 1.5)


async def _unread_bodies(world: World) -> list[int]:
    """Bodies on paths that take none: what nobody reads is not held either."""
    return await world.hold(request(b"POST", b"/nothing", b"", b"x" * _MIB) * 2, sources(240), 1.0)


async def _trailers(world: World) -> list[int]:
    trailers = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 8000) for i in range(120))
    return await world.hold(chunked(b"POST", b"/api/v1/services", _JSON, b"0\r\n" + trailers), sources(120), 1.0)


async def _extensions(world: World) -> list[int]:
    return await world.hold(chunked(b"POST", b"/api/v1/services", _JSON, b"1;" + b"a" * (2 * _MIB)), sources(60), 1.0)


async def _tiny_chunks(world: World) -> list[int]:
    chunks = b"1\r\n[\r\n" * 300_000 + b"0\r\n\r\n"
    return await _each(world, [chunked(b"POST", b"/api/v1/services", _JSON, chunks) for _ in range(8)])


async def _pipelined(world: World) -> list[int]:
    """Requests behind each other, whose answers nobody reads."""
    return await world.hold(request(b"GET", b"/openapi.json") * 2000, sources(180), 1.5)


async def _idle(world: World) -> list[int]:
    return await world.hold(b"", sources(240, each=240), 1.0)


async def _slow_readers(world: World) -> list[int]:
    """Long answers that nobody reads: the description of the API, and a file of the pages."""
    paths = (b"/openapi.json", b"/docs/assets/swagger-ui-bundle.js")
    held = 0
    for path in paths:
        held += (await world.hold(request(b"GET", path), sources(120), 1.0))[0]
    return [held]


_UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def frame(first: int, payload: bytes, said: int | None = None) -> bytes:
    length = len(payload) if said is None else said
    head = bytes([first, 0x80 | (127 if length > 0xFFFF else 126)])
    head += length.to_bytes(8 if length > 0xFFFF else 2, "big")
    return head + b"\0\0\0\0" + payload


async def _sockets(world: World) -> list[int]:
    """Compressed frames though nothing was agreed, frames that say they are huge, messages that never end, pings."""
    deflate = _UPGRADE + b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=15\r\n"
    frames = [
        frame(0xC1, bomb(64)[2:]),
        frame(0x82, b"x" * _MIB),
        frame(0x82, b"x" * 1000, said=1 << 62),
        b"".join(frame(0x02 if i == 0 else 0x00, b"x" * 1000) for i in range(1000)),
        frame(0x89, b"x" * 125) * 5000,
        frame(0x82, b"") * 50_000,
    ]
    held = 0
    for head in (deflate, _UPGRADE):
        for sent in frames:
            held += (await world.hold(request(b"GET", b"/ws/events", head) + sent, sources(8, each=4), 0.2))[0]
    return [held]


async def every_route(world: World, description: Mapping[str, Any]) -> list[int]:
    """Every route of the API's description that takes a body, with all that a body can be."""
    requests = []
    for path, methods in description["paths"].items():
        target = path.replace("{", "x").replace("}", "").encode()
        for method, operation in methods.items():
            if "requestBody" not in operation:
                continue
            for kind in operation["requestBody"]["content"]:
                requests += variants(method.upper().encode(), target, b"Content-Type: %s" % kind.encode())
    return await _each(world, requests, at_once=8)


def variants(method: bytes, path: bytes, kind: bytes) -> list[bytes]:
    boundary = b"; boundary=B" if b"multipart" in kind else b""
    head = kind + boundary + b"\r\nConnection: close\r\n"
    bodies = [*HOSTILE.values()] if boundary else [*BODIES.values()]
    return [
        request(method, path, head + b"Content-Encoding: deflate\r\n", bomb(64)),
        request(method, path, kind + b";" * 7000 + b"\r\nConnection: close\r\n", b"{}"),
        chunked(method, path, head, (b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 40),
        chunked(method, path, head, b"1\r\n \r\n" * 20_000 + b"0\r\n\r\n"),
        chunked(method, path, head, b"zz\r\n"),
        *(request(method, path, head, body[:_MIB]) for body in bodies),
    ]


_REFUSED = frozenset({400, 401, 403, 404, 405, 408, 413, 414, 415, 417, 421, 426, 429, 431, 503})
_HELD = frozenset(range(1, 500))
ATTACKS = (
    Attack("bombs of deflate", _bombs, frozenset({415})),
    Attack("bombs of deflate in chunks", _chunked_bombs, frozenset({415, 400})),
    Attack("forms", _forms, frozenset({400, 413, 503})),
    Attack("JSON", _json, frozenset({400, 413, 422, 503})),
    Attack("240 unfinished bodies", _unfinished, _HELD),
    Attack("240 unfinished bodies in chunks", _unfinished_chunks, _HELD, thorough=True),
    Attack("240 heads without an end", _heads, _HELD, thorough=True),
    Attack("240 connections that read nothing of long answers", _slow_readers, _HELD, thorough=True),
    Attack("sockets", _sockets, _HELD, thorough=True),
    Attack("headers", _headers, _REFUSED | {200, 304, 206, 416, 501, 0}, thorough=True),
    Attack("URLs", _urls, _REFUSED | {200, 0}, thorough=True),
    Attack("bodies where none is taken", _unread_bodies, _HELD, thorough=True),
    Attack("trailers without an end", _trailers, _HELD, thorough=True),
    Attack("chunk extensions without an end", _extensions, _HELD, thorough=True),
    Attack("chunks of a byte", _tiny_chunks, frozenset({400, 413, 503}), thorough=True),
    Attack("180 times 2,000 requests behind each other", _pipelined, _HELD, thorough=True),
    Attack("240 idle connections of one client", _idle, _HELD, thorough=True),
)
