"""The memory for requests: bodies while they are read and worked on, and answers while they are sent.

Connections, bodies and answers are bounded each, but their product exceeds the machine. So all of them share one
budget: whoever finds it used up waits a little, then is told to come again. One client may hold half of it.
"""

import asyncio
from collections import Counter
from types import TracebackType

from aiohttp import web

from homed.errors import BusyError

_WAIT_SECONDS = 1.0
_SMALL_BYTES = 64 * 1024
_MAX_STEP_BYTES = 1024 * 1024


class BudgetError(BusyError):
    """Too much is held for others: later there is room."""

    code = "MEMORY_BUDGET"


class Lease:
    """The bytes that one request holds. `client` may be told later, before the first are asked for."""

    __slots__ = ("_budget", "client", "size")

    def __init__(self, budget: "Budget"):
        self._budget = budget
        self.client = ""
        self.size = 0

    async def reserve(self, size: int) -> None:
        """Hold so many bytes more; wait a moment if there is no room. BudgetError."""
        if not self._budget.take(self, size):
            await self._budget.wait(self, size)

    def try_reserve(self, size: int) -> bool:
        """Hold so many bytes more if there is room now."""
        return self._budget.take(self, size)

    async def reserve_for(self, held: int) -> None:
        """Hold at least so many bytes in all, for what grows by and by: in steps that grow with it. BudgetError."""
        if held > self.size:
            await self.reserve(max(held - self.size, min(max(self.size, _SMALL_BYTES), _MAX_STEP_BYTES)))

    def release(self) -> None:
        if self.size:
            self._budget.give_back(self)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


class Budget:
    """`limit` bytes for all. What is small may exceed it by an eighth: those that hold much do not stop the rest.

    A request alone always finds room, and so does a client's only one beside those of others: a limit that a request
    may have by itself is not taken back here.
    """

    def __init__(self, limit: int, wait: float = _WAIT_SECONDS):
        self.limit = limit
        self._wait = wait
        self.used = 0
        self._clients: Counter[str] = Counter()
        self._waiting: dict[asyncio.Future[None], tuple[Lease, int]] = {}

    def lease(self) -> Lease:
        return Lease(self)

    def take(self, lease: Lease, size: int) -> bool:
        if not self._fits(lease, size):
            return False
        lease.size += size
        self.used += size
        self._clients[lease.client] += size
        return True

    async def wait(self, lease: Lease, size: int) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = lease, size
        try:
            async with asyncio.timeout(self._wait):
                await future
        except TimeoutError as error:
            if not future.cancelled():  # granted in this very moment
                return
            raise BudgetError(
                f"the memory for requests is used up ({self.used >> 20} of {self.limit >> 20} MiB): "
                "try again in a moment, with fewer at once"
            ) from error
        finally:
            self._waiting.pop(future, None)

    def give_back(self, lease: Lease) -> None:
        self.used -= lease.size
        self._clients[lease.client] -= lease.size
        if not self._clients[lease.client]:
            del self._clients[lease.client]
        lease.size = 0
        for future, (waiting, size) in list(self._waiting.items()):
            if not future.done() and self.take(waiting, size):
                future.set_result(None)

    def _fits(self, lease: Lease, size: int) -> bool:
        others = self.used - lease.size
        if not others:
            return True
        if lease.size + size <= _SMALL_BYTES:
            return self.used + size <= self.limit + self.limit // 8
        own = self._clients.get(lease.client, 0)
        return self.used + size <= self.limit and (own + size <= self.limit // 2 or own == lease.size)


# The lease of a request, for whoever reads its body.
LEASE = web.RequestKey("homed.lease", Lease)


async def make_room(request: web.Request, size: int) -> None:
    """Hold memory for an answer before it is built: many that are built at once are as many in memory. BudgetError."""
    lease = request.get(LEASE)
    if lease is not None and size > 0:
        await lease.reserve(size)
