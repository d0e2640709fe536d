"""The connection to one host, and who is on it."""

import asyncio
import time
from collections.abc import Callable

import asyncssh

_UNBOUNDED = 1 << 30


class Line:
    """`used` counts its sessions; `most` is how many the host was seen to give at once. `changed` is told when one ends.

    `retired`: nobody new goes by it.
    """

    def __init__(self) -> None:
        self.connection: asyncssh.SSHClientConnection | None = None
        self.used = 0
        self.most = _UNBOUNDED
        self.retired = False
        self.since = time.monotonic()
        self.dialing = asyncio.Lock()
        self.changed = asyncio.Condition()
        self._idle: asyncio.TimerHandle | None = None

    def keep(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def let_go(self, seconds: float, act: Callable[[], None]) -> None:
        """Have `act` be called once nobody has used it for so long."""
        self.keep()
        self.since = time.monotonic()
        self._idle = asyncio.get_running_loop().call_later(seconds, act)

    async def wait_for_room(self) -> bool:
        """The host gives no more sessions than there are now: wait until one ends. False where there is no other."""
        async with self.changed:
            others = self.used - 1
            if others < 1:
                return False
            # The one that was refused waits here, and counts among the used.
            self.most = max(1, min(self.most, others))
            before = self.used
            self.changed.notify_all()
            await self.changed.wait_for(lambda: self.used < before)
            return True

    def succeeded(self) -> None:
        """What a host gave is what it gives."""
        self.most = max(self.most, self.used)

    def forget(self, connection: asyncssh.SSHClientConnection | None) -> None:
        """It is gone."""
        if connection is None or connection is self.connection:
            self.connection = None

    def hang_up(self) -> None:
        self.keep()
        if self.connection is not None:
            self.connection.close()
            self.connection = None
