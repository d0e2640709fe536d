"""The HTTP/1.1 protocol: limits on a request's head, no decompression, and errors in the API's format."""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import StreamReader

from homed.errors import HeadTooLargeError, HomedError, MalformedRequestError, UrlTooLongError

log = logging.getLogger("homed.api.connections")
_MAX_LINE_BYTES = 8190
_MAX_HEADERS = 128
# All headers together. _MAX_LINE_BYTES limits each one, and alone would allow 1 MB for each connection.
_MAX_HEAD_BYTES = 16 * 1024
# Bytes read from a socket at once, and buffered of an unread body: asyncio's default of 256 KiB and aiohttp's of
# 128 KiB would add up to 100 MB for 256 connections.
_RECEIVE_BYTES = 16 * 1024
_READ_BUFFER_BYTES = 8 * 1024
_KEPT_HEAD_BYTES = 1024
# Longer than the deadlines of homed.api.connections, which distinguish a slow head from an idle connection.
_KEEPALIVE_SECONDS = 90
# How long the rest of a body is read and discarded, so that its sender receives the response.
# After a head was refused: so much of what the client still sends is discarded, for so long.
_MAX_DISCARDED_BYTES = 64 << 10
_DISCARD_SECONDS = 1.0
_DISCARD_POLL_INTERVAL = 0.02
_LINGERING_SECONDS = 1

# Render an error before routing: from the path (as far as it is known) to a response in its family's format.
Refusal = Callable[[str, HomedError], web.Response]
REFUSAL: web.AppKey[Refusal] = web.AppKey("homed.refusal")


def error_of(cause: BaseException | None, head: bytes) -> HomedError:
    """Map a parser's error to an API error (pure). `head` is the beginning of the received bytes."""
    if isinstance(cause, LineTooLong):
        line = cause.args[0]
        start = bytes(line)[:64] if isinstance(line, bytes | bytearray) else str(line).encode()[:64]
        # aiohttp's parsers report only the path, or the request line.
        if head.partition(b" ")[2].startswith(start) or head.startswith(start):
            return UrlTooLongError(f"the request's URL is longer than {_MAX_LINE_BYTES} bytes")
        return HeadTooLargeError(f"a header of the request is longer than {_MAX_LINE_BYTES} bytes")
    if isinstance(cause, HttpProcessingError) and cause.message.startswith("Too many headers"):
        return HeadTooLargeError(f"the request has more than {_MAX_HEADERS} headers")
    return MalformedRequestError("the request cannot be read: it is not valid HTTP/1.1")


def path_of(head: bytes) -> str:
    """Return the path in a request line, or "/" if it has none (pure)."""
    parts = head.partition(b"\r\n")[0].split(b" ")
    target = parts[1].decode("ascii", "replace") if len(parts) > 1 else ""
    return target.partition("?")[0] if target.startswith("/") else "/"


class Protocol(web.RequestHandler):
    """One connection of a client."""

    __slots__ = (
        "_barren", "_body", "_body_bytes", "_discarded", "_head", "_head_bytes", "_refusal", "_seen", "_unreadable",
    )  # fmt: skip

    def __init__(self, manager: web.Server, refusal: Refusal | None, **more: Any):
        super().__init__(manager, **more)
        self._refusal = refusal
        self._body: StreamReader | None = None  # body of the newest request
        self._head = b""
        self._head_bytes = 0
        self._seen = 0
        self._body_bytes = 0
        self._barren = 0
        self._discarded: int | None = None  # bytes that came after a head was refused; None before
        self._unreadable = False  # the parser gave up: what still comes belongs to the head that it could not read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if hasattr(transport, "max_size"):
            transport.max_size = _RECEIVE_BYTES

    def data_received(self, data: bytes) -> None:
        if self._discarded is not None:
            self._discarded += len(data)
            if self._discarded > _MAX_DISCARDED_BYTES:
                self.force_close()
            return
        if self._upgraded or self._payload_parser is not None:
            super().data_received(data)
            return
        if not self._unreadable and (self._body is None or self._body.is_eof()):
            if not self._head_bytes:
                self._head = data[:_KEPT_HEAD_BYTES]
            elif len(self._head) < _KEPT_HEAD_BYTES:
                self._head += data[: _KEPT_HEAD_BYTES - len(self._head)]
            self._head_bytes += len(data)
        super().data_received(data)
        if self._body is not None and not self._body.is_eof() and self._is_barren(self._body, len(data)):
            self.force_close()
            return
        if self._request_count != self._seen:
            self._seen = self._request_count
            self._head_bytes = 0
            if self._messages:
                self._unreadable = not isinstance(self._messages[-1][0], RawRequestMessage)
                self._body = self._messages[-1][1]
                self._body_bytes, self._barren = -1, 0
        elif self._head_bytes > _MAX_HEAD_BYTES and not self._upgraded:
            self.refuse_head(HeadTooLargeError(f"the request's headers are longer than {_MAX_HEAD_BYTES} bytes in all"))

    def _is_barren(self, body: StreamReader, received: int) -> bool:
        """Return whether too much arrived without a byte of the body: endless trailers or chunk extensions."""
        if body.total_bytes != self._body_bytes:
            self._body_bytes, self._barren = body.total_bytes, 0
        else:
            self._barren += received
        return self._barren > _MAX_HEAD_BYTES + _RECEIVE_BYTES

    def refuse_head(self, error: HomedError) -> None:
        """Send an error and close the connection; what is still sent of the head is read for a moment and discarded.

        Closed with bytes unread, the kernel resets the connection, and the client loses the response.
        """
        transport, waits = self.transport, self._waiter is not None
        if self._discarded is not None:
            return
        if transport is None or not waits or self._refusal is None:
            self.force_close()
            return
        transport.write(_bytes_of(self._refusal(path_of(self._head), error)))
        if not transport.can_write_eof():  # TLS
            self.force_close()
            return
        transport.write_eof()
        self._discarded = 0
        self._loop.call_later(_DISCARD_SECONDS, self.force_close)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what a handler raised. What it raised because the client has gone is nobody's error, and ends it."""
        if isinstance(exc, ConnectionError) and (self.transport is None or self.transport.is_closing()):
            raise exc
        response = super().handle_error(request, status, exc, message)
        if self._refusal is None:
            return response
        if isinstance(exc, HttpProcessingError):
            refused = self._refusal(path_of(self._head), error_of(exc, self._head))
            answer: web.Response = _LastResponse(
                self, body=refused.body, status=refused.status, headers=refused.headers
            )
        else:
            answer = self._refusal(request.path, HomedError("an internal error: see the log"))
        answer.force_close()
        return answer

    async def discard_rest(self) -> None:
        """End the sending side, and discard for a moment what the client still sends."""
        transport = self.transport
        if transport is None or transport.is_closing() or not transport.can_write_eof():
            return
        transport.write_eof()
        self._discarded = 0
        end = self._loop.time() + _DISCARD_SECONDS
        while self.transport is not None and not self.transport.is_closing() and self._loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(_DISCARD_POLL_INTERVAL)


class _LastResponse(web.Response):
    """The response to a head that cannot be read, after which the connection is closed."""

    def __init__(self, protocol: Protocol, **more: Any):
        super().__init__(**more)
        self._protocol_to_end = protocol

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        await self._protocol_to_end.discard_rest()


P = TypeVar("P", bound=Protocol)


class Server(web.Server):
    """A factory of one `Protocol` for each connection."""

    def __init__(self, made: web.Server, refusal: Refusal | None, settings: dict[str, Any]):
        factory = made.request_factory
        super().__init__(made.request_handler, request_factory=_with_path(factory), handler_cancellation=True)
        self._refusal = refusal
        self._settings = settings

    def __call__(self) -> web.RequestHandler:
        return self.make(Protocol)

    def rendered(self, error: HomedError) -> bytes:
        """Render the response to a request that is not read; the connection is closed after it."""
        response = web.Response(status=error.status) if self._refusal is None else self._refusal("/", error)
        if response.status == HTTPStatus.SERVICE_UNAVAILABLE:
            response.headers["Retry-After"] = "1"
        return _bytes_of(response)

    def make(self, kind: type[P], **more: Any) -> P:
        """Create a connection's protocol of this class with the arguments `more`."""
        return kind(self, self._refusal, loop=asyncio.get_running_loop(), **self._settings, **more)


class Runner(web.AppRunner):
    """Serves an application by `Server`."""

    def __init__(self, application: web.Application):
        super().__init__(application, access_log=None, shutdown_timeout=3)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        settings: dict[str, Any] = {
            "access_log": None,
            "logger": log,
            "keepalive_timeout": _KEEPALIVE_SECONDS,
            "lingering_time": _LINGERING_SECONDS,
            "max_line_size": _MAX_LINE_BYTES,
            "max_field_size": _MAX_LINE_BYTES,
            "max_headers": _MAX_HEADERS,
            "read_bufsize": _READ_BUFFER_BYTES,
            # No route accepts an encoded body, and aiohttp would decompress it on the event loop before routing.
            "auto_decompress": False,
        }
        return Server(made, self.app.get(REFUSAL), settings)


def _with_path(factory: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """Set a path for a request without one (`OPTIONS *`, `GET http://board`, CONNECT), so that it is routed."""

    def make(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        if not message.url.raw_path.startswith("/"):
            message = message._replace(url=message.url.with_path("/*"))
        elif message.url.absolute and not message.url.relative().raw_path:
            message = message._replace(url=message.url.with_path("/", keep_query=True))
        return factory(message, payload, protocol, writer, task)

    return make


def _bytes_of(response: web.Response) -> bytes:
    body = response.body if isinstance(response.body, bytes) else b""
    headers = {**response.headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
