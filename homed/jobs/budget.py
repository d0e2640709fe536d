"""A shared memory budget: a user that needs more than is left waits, first come, first served."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """A budget of `total` bytes. A request for more gets all of it, once nobody else holds any."""

    def __init__(self, total: int):
        self._total = total
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        return self._used

    @asynccontextmanager
    async def held(self, size: int) -> AsyncIterator[None]:
        """Hold so many bytes within the context."""
        size = min(size, self._total)
        await self._take(size)
        try:
            yield
        finally:
            self._give(size)

    async def _take(self, size: int) -> None:
        if not self._waiting and self._used + size <= self._total:
            self._used += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (size, turn)
        self._waiting.append(place)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give(size)
            elif place in self._waiting:
                self._waiting.remove(place)
                self._let_in()
            raise

    def _give(self, size: int) -> None:
        self._used -= size
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._used + self._waiting[0][0] <= self._total:
            size, turn = self._waiting.popleft()
            if turn.cancelled():
                continue  # it was cancelled at the same time
            self._used += size
            turn.set_result(None)
