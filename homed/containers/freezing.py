"""Freezing the containers of a service for the moment of a capture. None stays frozen, whatever ends homed.

What is to be frozen is written down first; so that a homed that was killed finds it at its next start, and lets go on
what it froze, and only that: what its owner paused by hand stays paused.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence

import msgspec

from homed.containers.engine import Engine
from homed.containers.holding import Holding
from homed.containers.model import State
from homed.containers.view import View
from homed.errors import BackupError, ConflictError, HomedError, NotFoundError, StoreError
from homed.store import damage
from homed.store.base import Record, Store

log = logging.getLogger(__name__)
BUCKET = "backup_pauses"
_WHY = "it is frozen while its data is captured"
_WHY_STILL = "it was frozen for a backup that broke off, and is let go on"
_FIRST_RETRY, _LONGEST_RETRY = 0.2, 5.0
_PATIENCE = 30.0
_ENDS_WITHIN = 10.0
# Said so often that it is not frozen, it is believed also of one whose pause may still have been on its way.
_SURE, _DOUBTFUL = 1, 5
_NANOSECONDS = 1_000_000_000
_DEFAULT_CHECK = 30.0


class Frozen(msgspec.Struct, frozen=True):
    """A container that homed froze, as it is stored under the container's id."""

    service: str


class Freezer:
    def __init__(self, engine: Engine, view: View, store: Store, holding: Holding):
        self._engine = engine
        self._view = view
        self._store = store
        self._holding = holding
        self._frozen: dict[str, str] = {}
        self._doubtful: set[str] = set()
        self._grace: dict[str, float] = {}
        self._thaws: dict[str, asyncio.Task[None]] = {}

    async def recover(self) -> None:
        """Let go on what a homed before this one left frozen; it goes on in the background until that is done."""
        for record in await self._store.list(BUCKET):
            # Its key alone is enough to resume the container.
            frozen = await damage.decoded(self._store, BUCKET, record, _decode)
            service = "" if frozen is None else frozen.service
            log.warning("%s was frozen for a backup when homed ended: it is let go on", service)
            self._frozen[record.key] = service
            self._grace[record.key] = _DEFAULT_CHECK
            self._holding.leave(service, _WHY_STILL)
            self._thaw(record.key)

    async def pause(self, names: Sequence[str]) -> None:
        """HomedError where one cannot be frozen: then none is."""
        await self._holding.freeze(names, _WHY)
        try:
            running = [
                self._freeze(name, container.id)
                for name in names
                for container in self._view.of_service(name)
                if container.state is State.RUNNING
            ]
            for result in await asyncio.gather(*running, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
        except BaseException:
            # What is being let go on goes on without this task, which may be cancelled.
            self._let_go(names)
            raise

    async def resume(self, names: Sequence[str]) -> None:
        """BackupError where one is still frozen after a while: it is tried again until it is not."""
        thaws = self._let_go(names)
        if thaws:
            await asyncio.wait(thaws, timeout=_PATIENCE)
        left = sorted({service for service in self._frozen.values() if service in names})
        if left:
            raise BackupError(f"{', '.join(left)} cannot be let go on yet: it is tried again until it is")

    async def close(self) -> None:
        """Let go on whatever is frozen; what the engine does not do in time, the next start does."""
        thaws = self._let_go(set(self._frozen.values()))
        if thaws:
            await asyncio.wait(thaws, timeout=_ENDS_WITHIN)
        for task in list(self._thaws.values()):
            task.cancel()
        await asyncio.gather(*self._thaws.values(), return_exceptions=True)

    async def _freeze(self, service: str, container: str) -> None:
        try:
            self._grace[container] = _check_time(await self._engine.inspect(container))
        except NotFoundError:
            return
        await self._store.put(BUCKET, container, msgspec.json.encode(Frozen(service)), None)
        self._frozen[container] = service
        self._doubtful.add(container)
        pausing = asyncio.ensure_future(self._engine.pause(container))
        try:
            # Once it was asked for, it comes; and must have come before it is undone.
            await asyncio.shield(pausing)
            self._doubtful.discard(container)
        except asyncio.CancelledError:
            await asyncio.wait({pausing})
            raise
        except (ConflictError, NotFoundError):  # it has ended, or its owner paused it meanwhile
            await self._forget(container)
        await self._view.refresh(container)

    def _let_go(self, names: Iterable[str]) -> list["asyncio.Task[None]"]:
        thaws = [self._thaw(container) for container, service in self._frozen.items() if service in names]
        busy = set(self._frozen.values())
        self._holding.thaw([name for name in names if name not in busy])
        return thaws

    def _thaw(self, container: str) -> "asyncio.Task[None]":
        task = self._thaws.get(container)
        if task is None:
            task = asyncio.create_task(self._unfreeze(container), name=f"thaw {container[:12]}")
            self._thaws[container] = task
            task.add_done_callback(lambda _: self._thaws.pop(container, None))
        return task

    async def _unfreeze(self, container: str) -> None:
        """Until it goes on, or is gone: a service that is left frozen is worse than anything else."""
        service, pause, denied = self._frozen[container], _FIRST_RETRY, 0
        trouble = ""
        while True:
            try:
                await self._engine.unpause(container)
                break
            except NotFoundError:
                break
            except ConflictError:
                denied += 1
                if denied >= (_DOUBTFUL if container in self._doubtful else _SURE):
                    break
            except HomedError as error:
                if error.message != trouble:
                    trouble = error.message
                    log.critical("%s is still frozen: %s", service, trouble, extra={"fields": {"service": service}})
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_RETRY)
        await self._goes_on(service, container)

    async def _goes_on(self, service: str, container: str) -> None:
        self._holding.spare(service, time.monotonic() + self._grace.pop(container, 0.0))
        await self._forget(container)
        try:
            await self._view.refresh(container)
        except HomedError as error:
            log.debug("%s: %s", service, error.message)  # the engine's events tell of it too
        if service not in self._frozen.values():
            self._holding.thaw([service])

    async def _forget(self, container: str) -> None:
        self._frozen.pop(container, None)
        self._doubtful.discard(container)
        try:
            await self._store.delete(BUCKET, container, None)
        except StoreError as error:  # the next start finds it, and that it is not frozen
            log.warning("A pause cannot be forgotten: %s", error.message)


def _decode(record: Record) -> Frozen:
    return msgspec.json.decode(record.value, type=Frozen)


def _check_time(inspection: dict[str, object]) -> float:
    """Seconds within which a health check has certainly been made anew."""
    config = inspection.get("Config")
    check = config.get("Healthcheck") if isinstance(config, dict) else None
    if not isinstance(check, dict):
        return 0.0
    interval, timeout = (float(check.get(key) or 0) / _NANOSECONDS for key in ("Interval", "Timeout"))
    return (interval or _DEFAULT_CHECK) + (timeout or _DEFAULT_CHECK) + 1.0
