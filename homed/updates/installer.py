"""RAUC as it stands: what it last said is kept, since it tells nothing of its slots while it is busy."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from homed.bus.rauc import Installer, Listener, Properties
from homed.clock import now
from homed.errors import RaucUnavailableError, UpdateConflictError
from homed.updates import slots
from homed.updates.slots import Facts

log = logging.getLogger(__name__)
_LOOK_WHILE_BUSY = 2.0
INSTALLING = "installing"


class Watch:
    """`facts` are from `as_of` on; `progress` and `operation` follow RAUC's signals at once."""

    def __init__(self, installer: Installer, boot_id: str, progressed: Callable[[int, str], None]):
        self.facts = Facts(boot_id=boot_id)
        self.as_of: datetime | None = None
        # On the monotonic clock: when it was last asked, with an answer or without.
        self.asked_at = 0.0
        self.available = False
        self.trouble = "RAUC was not asked yet"
        self.progress: tuple[int, str] = (0, "")
        self.operation = "idle"
        self._installer = installer
        self._progressed = progressed
        self._ended: asyncio.Queue[int | None] = asyncio.Queue()
        self._ours = self._verifying = False
        # RAUC does one thing at a time, and refuses another: what homed itself asks waits here instead.
        self._turn = asyncio.Lock()
        self._changed: Callable[[], None] = lambda: None
        installer.listen(Listener(self._on_owner, self._on_progress, self._on_operation, self._on_completed))

    def listen(self, changed: Callable[[], None]) -> None:
        """Have `changed` called when RAUC comes, goes, begins or ends something."""
        self._changed = changed

    @property
    def busy(self) -> bool:
        """Whether RAUC installs, for homed or for somebody else."""
        return self._ours or self.operation == INSTALLING

    @property
    def occupied(self) -> bool:
        """Whether who asks RAUC now would have to wait: it installs, or verifies a bundle."""
        return self.busy or self._verifying

    async def look(self) -> Facts:
        """The board now. While RAUC is busy, its last words with `operation` installing.

        RaucUnavailableError where it is not there; UpdateConflictError where it is busy and was never heard before.
        """
        if self._ours:
            return self._busy_facts()
        async with self._turn:
            try:
                return await self._look()
            except RaucUnavailableError as error:
                self.available, self.trouble = False, error.message
                raise
            finally:
                self.asked_at = time.monotonic()

    async def _look(self) -> Facts:
        properties = await self._installer.properties()
        self.available, self.trouble = True, ""
        self.progress = properties.progress
        try:
            found = slots.slots(await self._installer.slots())
            primary = await self._installer.primary()
        except UpdateConflictError:
            self.operation = INSTALLING
            return self._busy_facts()
        self.operation = properties.operation
        self._keep(properties, found, primary)
        return self.facts

    def _busy_facts(self) -> Facts:
        if self.as_of is None:
            raise UpdateConflictError("RAUC installs, and tells nothing of its slots before it is done")
        return msgspec.structs.replace(self.facts, operation=INSTALLING)

    def _keep(self, properties: Properties, found: tuple[slots.Slot, ...], primary: str | None) -> None:
        self.facts = Facts(
            compatible=properties.compatible,
            variant=properties.variant,
            booted=slots.booted(found, properties.boot_slot),
            primary=primary,
            # RAUC has just answered what it answers only when it does nothing else.
            operation="idle",
            last_error=properties.last_error,
            slots=found,
            boot_id=self.facts.boot_id,
        )
        self.as_of = now()

    async def install(self, path: str, options: Mapping[str, object]) -> int | None:
        """Install, to the end: RAUC's result (0 is success); None where RAUC went away and nobody can tell.

        An UpdateError is RAUC's refusal to begin.
        """
        async with self._turn:
            self._forget_ends()
            self._ours, self.operation = True, INSTALLING
            try:
                await self._installer.install(path, options)
                return await self._ended.get()
            finally:
                self._ours, self.operation = False, "idle"

    async def follow(self) -> int | None:
        """Wait for the end of an installation that goes on already; None where its result was not heard."""
        self._forget_ends()
        while True:
            try:
                async with asyncio.timeout(_LOOK_WHILE_BUSY):
                    return await self._ended.get()
            except TimeoutError:
                pass
            try:
                # The one thing that tells: it is answered only when RAUC is not busy.
                await self._installer.slots()
            except UpdateConflictError:
                continue
            return None

    async def mark(self, state: str, slot: str) -> Facts:
        """Mark a slot, and look at what became of it."""
        async with self._turn:
            await self._installer.mark(state, slot)
        return await self.look()

    async def last_error(self) -> str:
        return (await self._installer.properties()).last_error

    async def inspect(self, path: str) -> tuple[Mapping[str, Any] | None, tuple[str, str]]:
        """RAUC's verified account of a bundle (None before 1.9), and its (compatible, version)."""
        async with self._turn:
            self._verifying = True
            try:
                found = await self._installer.inspect(path)
                return found, ("", "") if found is not None else await self._installer.info(path)
            finally:
                self._verifying = False

    def require(self) -> None:
        """RaucUnavailableError where it was not there when last asked."""
        if not self.available:
            raise RaucUnavailableError(f"RAUC cannot be asked: {self.trouble}")

    def _forget_ends(self) -> None:
        while not self._ended.empty():
            self._ended.get_nowait()

    def _on_owner(self, is_there: bool) -> None:
        self._changed()
        if is_there:
            log.info("RAUC's service is there")
            return
        log.warning("RAUC's service went away")
        # It may come again by being asked.
        self.available, self.trouble, self.asked_at = False, "its service went away", 0.0
        self.operation = "idle"
        self._ended.put_nowait(None)

    def _on_progress(self, percentage: int, message: str) -> None:
        self.progress = (percentage, message)
        self._progressed(percentage, message)

    def _on_operation(self, operation: str) -> None:
        # A second installation that RAUC refuses sets this to idle while the first goes on.
        if not (self._ours and operation != INSTALLING):
            self.operation = operation
        self._changed()

    def _on_completed(self, result: int) -> None:
        self._ended.put_nowait(result)
        self._changed()
