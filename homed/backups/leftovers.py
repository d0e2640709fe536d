"""Leftovers of ended restores (immutable files, a mount in the way): removal is retried with growing delays.

No service and no other operation waits for it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from homed.backups.workplaces import unfinished
from homed.errors import HomedError

log = logging.getLogger(__name__)
_FIRST_DELAY, _MAX_DELAY = 60.0, 6 * 3600.0
_CLEAN_TIMEOUT = 3600.0


class Leftovers:
    """Removes leftovers. `clean` removes those in an operation's directory, or returns the reason why it cannot; it is
    not called while `busy`.
    """

    def __init__(
        self,
        root: Path,
        clean: Callable[[Path], Awaitable[list[str]]],
        busy: Callable[[], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._root = root
        self._clean = clean
        self._busy = busy
        self._monotonic = monotonic
        self._due: dict[Path, tuple[float, float]] = {}
        self._why: dict[Path, str] = {}

    @property
    def message(self) -> str:
        """The leftovers and the reason for each, for /health; empty if there are none."""
        return "; ".join(f"what a restore replaced is still there: {why}" for _, why in sorted(self._why.items()))

    async def look(self) -> None:
        """Try to remove the leftovers that are due."""
        there = await asyncio.to_thread(unfinished, self._root)
        for gone in self._why.keys() - set(there):
            del self._why[gone]
            self._due.pop(gone, None)
        for work in there:
            at, delay = self._due.get(work, (0.0, _FIRST_DELAY))
            if self._monotonic() < at or self._busy():
                self._why.setdefault(work, "it is removed once no other operation runs")
                continue
            await self._try(work, delay)

    async def _try(self, work: Path, delay: float) -> None:
        try:
            async with asyncio.timeout(_CLEAN_TIMEOUT):
                why = await self._clean(work)
        except HomedError as error:
            why = [error.message]
        except TimeoutError:
            why = [f"its removal did not end within {_CLEAN_TIMEOUT:g} s"]
        if why:
            log.warning("What a restore replaced cannot be removed yet: %s", "; ".join(why))
            self._why[work] = "; ".join(why[:3])
            self._due[work] = self._monotonic() + delay, min(_MAX_DELAY, delay * 2)
        else:
            self._why.pop(work, None)
            self._due.pop(work, None)
