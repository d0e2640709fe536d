"""Forgets finished jobs, and removes their output, as far as the configuration does not keep them."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from homed.clock import now
from homed.config.jobs import Jobs as Config
from homed.errors import HomedError
from homed.jobs.ledger import Ledger
from homed.jobs.listing import JobListing
from homed.jobs.output.outputs import Outputs
from homed.jobs.retention import Finished, retain

log = logging.getLogger(__name__)
_EVERY = 60.0
_BATCH = 500
_SPARE_BYTES = 16 << 20
_BETWEEN_STEPS = 0.05


class Keeping:
    """`run` while homed runs; `wake` where many have ended."""

    def __init__(self, ledger: Ledger, listing: JobListing, outputs: Outputs, config: Callable[[], Config]):
        self._ledger = ledger
        self._listing = listing
        self._outputs = outputs
        self._config = config
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        while True:
            try:
                if await self.sweep():
                    continue
                await self.give_back()
            except HomedError as error:
                log.warning("Finished jobs cannot be removed: %s", error.message)
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY):
                    await self._woken.wait()

    async def give_back(self) -> None:
        """Release the space of removed jobs to the disk, in small steps with other writes in between.

        Some space is kept for the next jobs.
        """
        left = await self._ledger.give_back(_SPARE_BYTES)
        while left > _SPARE_BYTES:
            await asyncio.sleep(_BETWEEN_STEPS)
            left = await self._ledger.give_back(_SPARE_BYTES)

    async def sweep(self) -> int:
        """Remove some of those that are to go. Returns how many."""
        count, size = await self._listing.finished()
        oldest = [Finished(*row) for row in await self._listing.finished_oldest_first(_BATCH)]
        gone = retain(oldest, count, size, now(), self._config().keep)
        if gone:
            # The record first: output without a record is swept, a record without its output would look like a loss.
            for id in await self._ledger.remove(gone):
                await asyncio.to_thread(self._outputs.remove, id)
        return len(gone)
