"""The connection to one host, and who is on it."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncssh


class Line:
    """`used` counts its sessions, and `since` is when the last one ended; `changed` is told of each end.

    `retired`: nobody new goes by it.
    """

    def __init__(self) -> None:
        self.connection: asyncssh.SSHClientConnection | None = None
        self.used = 0
        self.retired = False
        self.since = time.monotonic()
        self.dialing = asyncio.Lock()
        self.changed = asyncio.Condition()
        self._idle: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> "asyncssh.SSHClientConnection | None":
        return None if self.connection is None or self.connection.is_closed() else self.connection

    def keep(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def let_go(self, seconds: float, act: Callable[[], None]) -> None:
        """Have `act` be called once nobody has used it for so long."""
        self.keep()
        self.since = time.monotonic()
        self._idle = asyncio.get_running_loop().call_later(seconds, act)

    async def wait_for_end(self, most: float) -> None:
        """Until a session on it ends, or so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most), self.changed:
                await self.changed.wait()

    def hang_up(self) -> None:
        self.keep()
        if self.connection is not None:
            self.connection.close()
            self.connection = None
