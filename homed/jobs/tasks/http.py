"""The task http_request: one request, to where it may go, and as much of the answer as is allowed."""

import asyncio
import base64
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import msgspec

from homed import http_client
from homed.config.jobs import JobHttp
from homed.jobs.records import Result
from homed.jobs.tasks.addresses import is_allowed
from homed.jobs.tasks.types import HttpRequest

_REDIRECTS = 10
_LONGEST_HEADER = 4096


class _RefusedError(OSError):
    pass


class _Gate:
    """Makes the sockets of one request. What it is asked for is what is connected to, so no name can resolve to
    another address meanwhile, and each redirect passes here again.
    """

    def __init__(self, config: JobHttp, is_own: Callable[[str, int], bool]):
        self._config = config
        self._is_own = is_own
        self.refused: str | None = None
        self.own = False

    def socket(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, where = info
        if not is_allowed(str(where[0]), allow_private=self._config.allow_private):
            self.refused = str(where[0])
            raise _RefusedError(f"{where[0]} may not be connected to")
        if self._is_own(str(where[0]), int(where[1])):
            self.refused, self.own = str(where[0]), True
            raise _RefusedError(f"{where[0]} port {where[1]} is homed itself")
        return socket.socket(family, kind, protocol)


async def request(
    wanted: HttpRequest,
    config: JobHttp,
    is_own: Callable[[str, int], bool],
    hold: Callable[[int], Awaitable[None]] | None = None,
) -> Result:
    """Make a request; a response with any status is a success. Error codes: ADDRESS_NOT_ALLOWED, HTTP_FAILED.

    `is_own` tells whether homed itself listens at an address and port: that is never asked, whatever is allowed.
    `hold` is awaited with how many bytes the answer may take, before it is read.
    """
    gate, began = _Gate(config, is_own), time.monotonic()
    try:
        data = await _ask(wanted, gate, config.response_limit, hold or _hold_nothing)
    except (aiohttp.ClientError, OSError, ValueError, UnicodeError) as error:
        if gate.own:
            said = f"{gate.refused} is homed itself, which no task may ask: call its API with a key instead"
            return Result(code="ADDRESS_NOT_ALLOWED", error=said)
        if gate.refused is not None:
            return Result(
                code="ADDRESS_NOT_ALLOWED",
                error=f"{gate.refused} is not an address on the internet: see jobs.http.allow_private",
            )
        if isinstance(error, TimeoutError):
            return Result(code="HTTP_FAILED", error=f"there was no whole answer within {wanted.timeout:g} s")
        return Result(code="HTTP_FAILED", error=_said(error))
    return Result(data={**data, "elapsed": round(time.monotonic() - began, 6)})


async def _hold_nothing(size: int) -> None:
    pass


async def _ask(wanted: HttpRequest, gate: _Gate, limit: int, hold: Callable[[int], Awaitable[None]]) -> dict[str, Any]:
    # No session is shared: neither cookies nor connections go from one job to another.
    connector = aiohttp.TCPConnector(socket_factory=gate.socket, use_dns_cache=False, force_close=True)
    async with (
        aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False,
            timeout=aiohttp.ClientTimeout(total=wanted.timeout),
        ) as session,
        asyncio.timeout(wanted.timeout),
    ):  # fmt: skip
        answer, hops = await http_client.request(
            session, wanted.method, wanted.url, headers=_headers(wanted), data=_body(wanted), max_redirects=_REDIRECTS
        )
        async with answer:
            known = answer.content_length if "Content-Encoding" not in answer.headers else None
            await hold(limit if known is None else min(known, limit))
            body = bytearray()
            while len(body) <= limit and (chunk := await answer.content.read(limit + 1 - len(body))):
                body += chunk
            return {
                "status": answer.status,
                "reason": _text(answer.reason or ""),
                "url": str(hops[-1]),
                "headers": _shown(answer.headers),
                **_content(bytes(body[:limit]), answer.charset),
                "truncated": len(body) > limit,
            }


def _headers(wanted: HttpRequest) -> dict[str, str]:
    named = {name.lower() for name in wanted.headers}
    added = {"User-Agent": "homed"} if "user-agent" not in named else {}
    if wanted.json is not msgspec.UNSET and "content-type" not in named:
        added["Content-Type"] = "application/json"
    return {**added, **wanted.headers}


def _body(wanted: HttpRequest) -> bytes | None:
    if wanted.json is not msgspec.UNSET:
        return msgspec.json.encode(wanted.json)
    return None if wanted.body is None else wanted.body.encode()


def _shown(headers: Mapping[str, str]) -> dict[str, str]:
    shown: dict[str, str] = {}
    for name, value in headers.items():
        name_, text = _text(name), _text(value)[:_LONGEST_HEADER]
        shown[name_] = f"{shown[name_]}, {text}" if name_ in shown else text
    return shown


def _content(body: bytes, charset: str | None) -> dict[str, str]:
    """As text where it is text, else in base64."""
    for encoding in dict.fromkeys(("utf-8", charset or "utf-8")):
        try:
            text = body.decode(encoding)
            # Some know halves of characters, which are no text.
            text.encode()
        except (UnicodeError, LookupError, ValueError):
            continue
        if "\0" not in text:
            return {"body": text, "encoding": "text"}
    return {"body": base64.b64encode(body).decode(), "encoding": "base64"}


def _said(error: Exception) -> str:
    return _text(str(error) or type(error).__name__)[:1000]


def _text(sent: str) -> str:
    """Bytes that are no UTF-8 come as halves of characters: no JSON can hold them."""
    return sent.encode("utf-8", "replace").decode()
