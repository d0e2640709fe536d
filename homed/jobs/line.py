"""Those that wait for something that only one of them can have: the first is told, and who cannot use it tells on."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Line:
    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken: set[asyncio.Future[None]] = set()

    @contextmanager
    def join(self) -> Iterator["asyncio.Future[None]"]:
        """A place in the line. Who is told before it `wait`s for it, or leaves, has it told to the next."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            yield place
        finally:
            if place in self._taken:
                self._taken.discard(place)
            elif place.done():
                self.wake_one()
            else:
                self._waiting.remove(place)

    async def wait(self, place: "asyncio.Future[None]", most: float) -> None:
        """Until it is told, so many seconds at most. Who is told looks again by itself."""
        await asyncio.wait({place}, timeout=max(0.0, most))
        if place.done():
            self._taken.add(place)

    def wake_one(self) -> None:
        if self._waiting:
            self._waiting.popleft().set_result(None)
