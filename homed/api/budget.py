"""The memory budget for requests: bodies while they are processed, and responses while they are sent.

Connections, bodies and responses are each limited, but their product exceeds the machine's memory. So all of them
share one budget: a request that finds it exhausted waits briefly, then fails with a retry hint. One client may hold
half of it.
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
    """The memory budget is exhausted for the moment: try again later."""

    code = "MEMORY_BUDGET"


class Lease:
    """The bytes that one request holds. `client` may be set later, but before the first reservation."""

    __slots__ = ("_budget", "client", "size")

    def __init__(self, budget: "Budget"):
        self._budget = budget
        self.client = ""
        self.size = 0

    async def reserve(self, size: int) -> None:
        """Reserve more bytes; wait briefly if none are free. Raises: BudgetError."""
        if not self._budget.take(self, size):
            await self._budget.wait(self, size)

    def try_reserve(self, size: int) -> bool:
        """Reserve more bytes if they are free now; return whether they were."""
        return self._budget.take(self, size)

    async def reserve_for(self, held: int) -> None:
        """Grow the reservation to at least this total, in steps that grow with it. Raises: BudgetError."""
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
    """A budget of `limit` bytes. Small requests may exceed it by an eighth, so that large ones do not block them.

    The only request, and the only one of a client beside other clients' requests, always succeeds: the budget never
    lowers the limit of a single request.
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
            if not future.cancelled():  # it was granted at the same time
                return
            raise BudgetError(
                f"the memory for requests is used up ({self.used >> 20} of {self.limit >> 20} MiB): "
                "try again in a moment, with fewer requests at once"
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


# The lease of a request, for the code that reads its body.
LEASE = web.RequestKey("homed.lease", Lease)


async def make_room(request: web.Request, size: int) -> None:
    """Reserve memory for a response before it is built, because many may be built at once. Raises: BudgetError."""
    lease = request.get(LEASE)
    if lease is not None and size > 0:
        await lease.reserve(size)
