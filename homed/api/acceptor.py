"""Accept connections: count them, detect TLS by the first byte, and hand them to a protocol."""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import time
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import Any

from aiohttp import web

from homed.api.connections import (
    FIRST_BYTE_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    HEAD_TIMEOUT,
    KEEPALIVE_TIMEOUT,
    Connection,
    Pool,
    Source,
)
from homed.api.limits import client_of
from homed.api.protocol import Protocol, Refusal
from homed.errors import RequestTimeoutError

log = logging.getLogger(__name__)
BACKLOG = 256
_BATCH = 64
_CLIENT_HELLO = b"\x16"
# Time to send a response after its handler has returned: a short one, or a file of the documentation.
_SEND_TIMEOUT = 120.0
# accept() fails with these while the process or the machine lacks a resource, and would fail again immediately.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_EXHAUSTED_DELAY = 0.2
_EXHAUSTED_DROPS = 16  # more than one: homed's own files need descriptors, too
_WARNING_INTERVAL = 60.0
_DRAINED_BYTES = 65_536

Handler = Callable[[Connection], "HttpProtocol"]


def is_loopback_peer(address: str) -> bool:
    """Return whether a peer's numeric address is a loopback address."""
    return address.startswith(("127.", "::ffff:127.")) or address == "::1"


class HttpProtocol(Protocol):
    """A client connection that notifies the pool when a request begins and when its response is sent."""

    __slots__ = ("_pool", "_raw", "_started", "connection")

    def __init__(
        self, manager: web.Server, refusal: Refusal | None, *, pool: Pool, connection: Connection, **more: Any
    ):
        super().__init__(manager, refusal, **more)
        self.connection = connection
        self._pool = pool
        self._started = False
        self._raw: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._raw = transport
        connection = self.connection
        if connection.ended:
            transport.abort()
            return
        connection.served = True
        connection.drop, connection.expire = transport.abort, self._expire
        self._pool.wait(connection, time.monotonic() + HEAD_TIMEOUT)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if not self._started:
            self._started = True
            self._pool.wait(self.connection, time.monotonic() + HEAD_TIMEOUT)
        super().data_received(data)

    def begin(self) -> None:
        """Mark the connection as busy: the head of a request is complete."""
        self._started = True
        self._pool.work(self.connection)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if self.connection.spare and resp is not None:
            resp.force_close()
        try:
            async with asyncio.timeout(_SEND_TIMEOUT):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            if self._raw is not None:
                self._raw.abort()
            return resp, True
        finally:
            self._started = False
            self._pool.wait(self.connection, time.monotonic() + KEEPALIVE_TIMEOUT)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._pool.release(self.connection)
        super().connection_lost(exc)

    def _expire(self) -> None:
        if self._started:
            self.refuse_head(RequestTimeoutError(f"the request's head did not come within {HEAD_TIMEOUT:g} s"))
        else:
            self.force_close()


class _TlsProtocol(SSLProtocol):
    """asyncio's TLS protocol with a small buffer: the default one keeps 256 KB for the life of each connection."""

    max_size = 32 * 1024

    def __init__(self, protocol: HttpProtocol, context: ssl.SSLContext, pool: Pool):
        super().__init__(
            asyncio.get_running_loop(),
            protocol,
            context,
            None,  # type: ignore[arg-type]  # no waiter: after the handshake the connection serves or is closed
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
            ssl_shutdown_timeout=HANDSHAKE_TIMEOUT,
        )
        self._pool = pool
        self._connection = protocol.connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        connection = self._connection
        if connection.ended:
            transport.abort()
            return
        connection.served = True
        connection.drop = connection.expire = transport.abort
        # Its own timeout ends it before.
        self._pool.wait(connection, time.monotonic() + 2 * HANDSHAKE_TIMEOUT)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._pool.release(self._connection)
        super().connection_lost(exc)


class Acceptor:
    """Accepts connections on one listening socket. `control`: the socket is the command line's. `full` is the error for
    clients that are rejected when all connections are in use.

    With `tls`, clients on this machine may still use plain HTTP; others get an error that tells them to use https.
    """

    def __init__(
        self,
        listening: socket.socket,
        pool: Pool,
        handler: Handler,
        tls: ssl.SSLContext | None,
        *,
        full: Callable[[], bytes],
        control: bool = False,
    ):
        self._full = full
        self._listening = listening
        self._pool = pool
        self._handler = handler
        self._tls = tls
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._warned = -_WARNING_INTERVAL
        self._retry: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._listening.setblocking(False)
        self._listening.listen(BACKLOG)
        self._loop.add_reader(self._listening, self._accept)

    def close(self) -> None:
        """Stop accepting connections."""
        if self._retry is not None:
            self._retry.cancel()
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
            self._listening.close()

    def _accept(self) -> None:
        for _ in range(_BATCH):
            try:
                one, address = self._listening.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._rest(error)
                elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EINTR):
                    log.debug("Cannot accept a connection: %s", error.strerror)
                return
            one.setblocking(False)
            self._take(one, address)

    def _rest(self, error: OSError) -> None:
        """Pause accepting for a moment and drop idle connections: pending ones would wake the loop continuously."""
        dropped = sum(self._pool.drop_idlest() for _ in range(_EXHAUSTED_DROPS))
        now = time.monotonic()
        if now - self._warned >= _WARNING_INTERVAL:
            self._warned = now
            log.warning(
                "Cannot accept a connection: %s (%d are open, %d idle ones were dropped)",
                error.strerror,
                len(self._pool),
                dropped,
            )
        self._loop.remove_reader(self._listening)
        self._retry = self._loop.call_later(_EXHAUSTED_DELAY, self._loop.add_reader, self._listening, self._accept)

    def _take(self, one: socket.socket, address: Any) -> None:
        source, client = self._source(address)
        connection = self._pool.admit(source, client)
        if connection is None:
            _refuse(one, None if self._tls is not None else self._full())
        elif self._tls is None:
            self._serve(one, connection, tls=False)
        else:
            connection.drop = connection.expire = lambda: self._discard(one, connection)
            self._pool.wait(connection, time.monotonic() + FIRST_BYTE_TIMEOUT)
            self._look(one, connection, source)

    def _source(self, address: Any) -> tuple[Source, str]:
        if self._control:
            return Source.CONTROL, ""
        if not isinstance(address, tuple):
            return Source.LOCAL, ""
        local = is_loopback_peer(address[0])
        return (Source.LOCAL if local else Source.REMOTE), client_of(address[0])

    def _look(self, one: socket.socket, connection: Connection, source: Source) -> None:
        """Detect TLS once the first byte has arrived. Until then a connection costs only its socket."""
        try:
            first = one.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            self._loop.add_reader(one, self._look, one, connection, source)
            return
        except OSError:
            first = b""
        self._loop.remove_reader(one)
        if not first:
            self._discard(one, connection)
            return
        connection.plain = first != _CLIENT_HELLO and source is Source.REMOTE
        self._serve(one, connection, tls=first == _CLIENT_HELLO)

    def _discard(self, one: socket.socket, connection: Connection) -> None:
        self._loop.remove_reader(one)
        one.close()
        self._pool.release(connection)

    def _serve(self, one: socket.socket, connection: Connection, *, tls: bool) -> None:
        # From here on the transport owns the socket; a connection dropped before it exists is closed once it does.
        connection.drop = connection.expire = lambda: None
        task = self._loop.create_task(self._connect(one, connection, tls=tls))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, one: socket.socket, connection: Connection, *, tls: bool) -> None:
        def protocol() -> asyncio.Protocol | asyncio.BufferedProtocol:
            made = self._handler(connection)
            if not tls:
                return made
            assert self._tls is not None
            return _TlsProtocol(made, self._tls, self._pool)

        try:
            await self._loop.connect_accepted_socket(protocol, one)
        except Exception:
            log.exception("Cannot serve a connection")
            one.close()
            self._pool.release(connection)


def _refuse(one: socket.socket, answer: bytes | None) -> None:
    """Close a connection over the limit, with an error response if the client can read one."""
    with one, contextlib.suppress(OSError):
        if answer is not None:
            one.send(answer)
            one.shutdown(socket.SHUT_WR)
            # Unread data would make the kernel reset the connection, and the response would be lost.
            one.recv(_DRAINED_BYTES)
