"""Standby mode for a lost, damaged or read-only state: refused requests, health reports, and recovery."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from homed.errors import HomedError, StateUnavailableError, StoreError
from homed.health import Component, Level
from homed.store import damage
from homed.store.damage import Kept
from homed.store.sqlite import SqliteStore
from homed.store.standing import Standing

Gauge = tuple[str, str, tuple[str, ...], list[tuple[tuple[str, ...], float]]]
log = logging.getLogger(__name__)
_LOOK_INTERVAL = 5.0
_DAMAGE_INTERVAL = 60.0
_CODES = {
    Standing.MISSING: "STATE_MISSING",
    Standing.DAMAGED: "STATE_DAMAGED",
    Standing.READ_ONLY: "STATE_READ_ONLY",
    Standing.UNREADABLE: "STATE_UNAVAILABLE",
}
# Allowed: a restore, which ends the standby, and its prerequisites; issuing a token, which changes nothing.
_RESTORES = frozenset({"backup.restore", "backup.upload", "backup.cancel", "backup.verify"})
_ALWAYS = frozenset({"token.issue"})
_READS = frozenset({"GET", "HEAD", "OPTIONS"})


class Standby:
    """Tracks the state of the store. `reload` is awaited when an unreadable state becomes readable again."""

    def __init__(self, store: SqliteStore, reload: Callable[[], Awaitable[None]]):
        self._store = store
        self._reload = reload
        self._kept: Sequence[Kept] = ()

    def check(self, method: str, change: str | None) -> None:
        """Check whether the state permits a request, given its method and action. Raises: StateUnavailableError."""
        standing = self._store.standing
        if standing is Standing.WHOLE or method in _READS or change in _ALWAYS:
            return
        if change in _RESTORES and standing in (Standing.MISSING, Standing.DAMAGED):
            return
        raise StateUnavailableError(
            f"nothing can be changed now: {self._store.message}",
            code=_CODES[standing],
        )

    def missing(self) -> str:
        """Return why work that needs the complete state must wait; empty if it need not."""
        return "" if self._store.standing is Standing.WHOLE else self._store.message

    def health(self) -> Component:
        """Return the store's health report."""
        store = self._store
        if store.standing is Standing.READ_ONLY:
            return Component(Level.DEGRADED, f"changes are refused: {store.message}")
        if store.standing is not Standing.WHOLE:
            said = "no container is touched and changes are refused" + ("" if self._waits else ", but a restore")
            return Component(Level.UNHEALTHY, f"{said}: {store.message}")
        if store.trouble:
            return Component(Level.UNHEALTHY, store.trouble)
        if store.message:
            return Component(Level.DEGRADED, store.message)
        return Component(Level.HEALTHY)

    @property
    def _waits(self) -> bool:
        return self._store.standing is Standing.UNREADABLE

    def damage(self) -> Component:
        """Return the health report on records that were set aside."""
        return damage.component(self._kept)

    async def look_for_damage(self) -> None:
        try:
            self._kept = await damage.kept(self._store)
        except StoreError as error:
            log.warning("Cannot look for damaged records: %s", error.message)

    def has_lost_keys(self) -> bool:
        """Return whether keys may be missing because of damage to the state."""
        lost = any(one.bucket == "keys" for one in self._kept)
        return lost or self._store.standing is not Standing.WHOLE or bool(self._store.message)

    def gauges(self) -> list[Gauge]:
        return [
            ("homed_state_standing", "How the state was found: 1 for the word that holds.", ("standing",), [
                ((str(one),), float(one is self._store.standing)) for one in Standing
            ]),
            ("homed_records_damaged", "Records that were set aside because they cannot be read.", ("bucket",), [
                ((bucket,), float(count)) for bucket, count in sorted(damage.counts(self._kept).items())
            ]),
        ]  # fmt: skip

    async def run(self) -> None:
        """Resume normal operation when the state is readable and writable again."""
        since = 0.0
        while True:
            await asyncio.sleep(_LOOK_INTERVAL)
            since += _LOOK_INTERVAL
            if since >= _DAMAGE_INTERVAL:
                since = 0.0
                await self.look_for_damage()
            try:
                was_away = self._store.is_stand_in
                if await self._store.recover():
                    log.info("The state is %s now", self._store.standing)
                    if was_away and not self._store.is_stand_in:
                        await self._reload()
            except HomedError as error:
                log.warning("The state cannot be taken up again yet: %s", error.message)
