"""dbus-next's connection, with what its last release lacks: it never blocks, and ends with the other side, whole."""

import asyncio
import socket
from contextlib import suppress
from typing import Any

from dbus_next import BusType, Message
from dbus_next.aio import MessageBus


class Transport(MessageBus):  # type: ignore[misc]  # it has no types
    """A MessageBus on the system bus, at a unix socket; the constructor raises OSError where nobody listens."""

    def __init__(self, address: str | None):
        super().__init__(address, BusType.SYSTEM)
        self._writer.sock = _Patient(self._sock)
        self._disconnect_future.add_done_callback(_seen)

    def close(self) -> None:
        """End it at once: calls under way fail, nothing is left registered with the event loop."""
        self._user_disconnect = True
        self._finalize(EOFError("closed"))
        self._close_socket()

    def send(self, msg: Message) -> "asyncio.Future[None]":
        """EOFError where the connection is lost: dbus-next would take it, and never answer a call."""
        if self._disconnected:
            raise EOFError("the connection was lost")
        sent: asyncio.Future[None] = super().send(msg)
        sent.add_done_callback(_seen)
        return sent

    async def call(self, msg: Message) -> Message | None:
        """The reply; of one that came too late, or never, nothing is kept."""
        try:
            return await super().call(msg)
        finally:
            self._method_return_handlers.pop(msg.serial, None)

    def _setup_socket(self) -> None:
        """Connect without waiting: where the bus hangs and its queue is full, dbus-next would block the event loop."""
        problem = OSError("it has no address with a unix socket")
        for kind, options in self._bus_address:
            name = options.get("path") or "\0" + options.get("abstract", "")
            if kind != "unix" or name == "\0":
                continue
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._sock.setblocking(False)
            try:
                self._sock.connect(name)
            except OSError as error:
                self._sock.close()
                problem = error
                continue
            self._stream = self._sock.makefile("rwb")
            self._fd = self._sock.fileno()
            return
        raise problem

    def _close_socket(self) -> None:
        # Both: the socket stays open for as long as the stream made of it is.
        for end in (self._stream, self._sock):
            with suppress(OSError, ValueError):
                end.close()

    async def _auth_readline(self) -> str:
        """Where the bus closes while it authenticates, dbus-next reads nothing for ever, without a pause."""
        line = b""
        while not line.endswith(b"\r\n"):
            received: Any = await self._loop.sock_recv(self._sock, 1)
            if not received or len(line) > 4096:
                raise EOFError("the bus closed the connection")
            line += received
        return line[:-2].decode(errors="replace")


class _Patient:
    """A socket that takes nothing while its buffer is full: dbus-next would end the connection over it."""

    def __init__(self, sock: socket.socket):
        self._sock = sock

    def send(self, data: memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0


def _seen(future: "asyncio.Future[None]") -> None:
    """A loss is told by the calls that fail of it; asyncio must not tell of it once more."""
    if not future.cancelled():
        future.exception()
