"""dbus-next's connection, with what its last release lacks: it ends with the other side and leaves no socket open."""

from contextlib import suppress
from typing import Any

from dbus_next import BusType
from dbus_next.aio import MessageBus


class Transport(MessageBus):  # type: ignore[misc]  # it has no types
    """A MessageBus on the system bus; the constructor connects and raises OSError where nobody listens."""

    def __init__(self, address: str | None):
        super().__init__(address, BusType.SYSTEM)

    def close(self) -> None:
        """End it at once: calls under way fail, nothing is left registered with the event loop."""
        self._user_disconnect = True
        self._finalize(EOFError("closed"))
        self._close_socket()

    def _setup_socket(self) -> None:
        try:
            super()._setup_socket()
        except BaseException:
            self._close_socket()
            raise

    def _close_socket(self) -> None:
        # Both: the socket stays open for as long as the stream made of it is.
        for end in (getattr(self, "_stream", None), getattr(self, "_sock", None)):
            if end is not None:
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
