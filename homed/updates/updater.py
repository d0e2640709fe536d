"""What a person asks of updates: install, inspect, cancel, confirm, mark, roll back. It tells the truth or refuses."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from homed.clock import now
from homed.config import Updates
from homed.errors import FieldError, HomedError, UpdateConflictError, UpdateError, ValidationError
from homed.updates import download, records
from homed.updates.bundle import Inspection
from homed.updates.desk import Desk
from homed.updates.failures import error_of
from homed.updates.inspecting import Inspector
from homed.updates.installer import Watch
from homed.updates.judgement import Verdict
from homed.updates.ledger import Ledger
from homed.updates.records import Kind, Reboot, Source, State, Step, Update
from homed.updates.runner import Runner
from homed.updates.slots import Facts, Slot
from homed.updates.trial import Trials

log = logging.getLogger(__name__)
# An error that is known within these seconds is the answer to the request itself.
_EARLY = 5.0
_LATE = 30.0
_BREATH = 0.2
_FRESH = 2.0


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to install, and how; None where the configuration decides."""

    source: Source
    sha256: str | None = None
    reboot: Reboot | None = None
    require_confirmation: bool | None = None
    allow_downgrade: bool | None = None
    ignore_compatible: bool = False


class Updater:
    """One update at a time: what begins one takes the lock, and finds none under way."""

    def __init__(
        self,
        desk: Desk,
        watch: Watch,
        inspector: Inspector,
        runner: Runner,
        trials: Trials,
        config: Callable[[], Updates],
        boot_clock: Callable[[], float],
    ):
        self.desk = desk
        self.watch = watch
        self.boot_clock = boot_clock
        self._inspector = inspector
        self._runner = runner
        self._trials = trials
        self._config = config
        self._lock = asyncio.Lock()
        self._begun = time.monotonic()

    @property
    def ledger(self) -> Ledger:
        return self.desk.ledger

    async def facts(self) -> Facts:
        """The board as RAUC sees it: asked anew where that was a while ago and can be had soon, else what is known."""
        if time.monotonic() - self.watch.asked_at > _FRESH and not self.watch.occupied:
            with suppress(HomedError, TimeoutError):
                async with asyncio.timeout(_FRESH):
                    await self.watch.look()
        if self.watch.as_of is None and time.monotonic() - self._begun < _EARLY:
            # Homed serves before the bus is connected, and RAUC may only be starting.
            with suppress(TimeoutError):
                async with asyncio.timeout(_EARLY):
                    await self._first_look()
        return self.watch.facts

    async def _first_look(self) -> None:
        while self.watch.as_of is None:
            try:
                await self.watch.look()
            except HomedError:
                await asyncio.sleep(_BREATH)

    async def install(self, request: Request) -> Update:
        """Begin an update. Where it fails within seconds, that error is raised; the history has it too."""
        if request.source.url is not None and (wrong := download.wrong(request.source.url)) is not None:
            raise ValidationError([FieldError("bundle_url", wrong)])
        config = self._config()
        reboot = request.reboot or Reboot(config.reboot)
        if reboot is Reboot.WINDOW and not config.window:
            raise ValidationError([FieldError("reboot", "no maintenance window is configured (updates.window)")])
        async with self._lock:
            await self._require_idle()
            at = now()
            update = Update(
                id=self.ledger.next_id(),
                kind=Kind.INSTALL,
                state=State.DOWNLOADING,
                source=request.source,
                sha256=request.sha256,
                reboot=reboot,
                require_confirmation=_or(request.require_confirmation, config.require_confirmation),
                allow_downgrade=_or(request.allow_downgrade, config.allow_downgrade),
                ignore_compatible=request.ignore_compatible,
                created_at=at,
                updated_at=at,
                boot_id=self.watch.facts.boot_id,
                steps=(Step(State.DOWNLOADING, at),),
            )
            await self.desk.move(update, State.DOWNLOADING)
        self._runner.wake()
        return await self._early(update.id)

    async def _early(self, identity: str) -> Update:
        """The update as it stands when the bundle is verified, or after a few seconds."""
        update = await self.desk.until(identity, lambda update: update.state is not State.DOWNLOADING, _EARLY)
        if update.state in (State.FAILED, State.CANCELLED):
            raise error_of(update)
        return update

    async def inspect(self, path: str) -> Inspection:
        if self.watch.occupied:
            raise UpdateConflictError("RAUC is at something else, and does one thing at a time")
        inspected, _ = await self._inspector.inspect(Path(path))
        return inspected

    async def confirm(self) -> Update:
        """Have an update that waits for it go on."""
        async with self._lock:
            update = self._current()
            if update.state is not State.VERIFIED or not update.require_confirmation or update.confirmed:
                raise UpdateConflictError(f"update {update.id} is {update.state} and waits for no confirmation")
            update = await self.desk.note(update, confirmed=True)
        self._runner.wake()
        return update

    async def cancel(self) -> Update:
        """End the update under way, up to the moment that RAUC begins to write."""
        async with self._lock:
            update = self._current()
            if update.state not in records.CANCELLABLE:
                raise UpdateConflictError(_TOO_LATE.get(update.state, _WRITING), code="UPDATE_NOT_CANCELLABLE")
            self._runner.cancel(update)
            update = await self.desk.until(update.id, lambda update: update.state not in records.CANCELLABLE, _LATE)
        if update.state is not State.CANCELLED:
            raise UpdateConflictError(_TOO_LATE.get(update.state, _WRITING), code="UPDATE_NOT_CANCELLABLE")
        return update

    async def mark_good(self) -> Facts:
        """Mark the booted slot good; while a new system is judged, this is the verdict."""
        async with self._lock:
            update = self.ledger.current()
            if update is not None and update.state is State.JUDGING:
                self._trials.override(Verdict.GOOD)
                await self.desk.until(update.id, lambda update: update.state is not State.JUDGING, _LATE)
                return await self.facts()
            self._require_unbusy()
            facts = await self.watch.mark("good", "booted")
            _require_mark(facts.slot(facts.booted), "good")
            return facts

    async def mark_bad(self, which: str) -> Slot:
        """Mark a slot bad, by `booted`, `other` or its name. Refused where no good slot would be left."""
        async with self._lock:
            self._require_unbusy()
            facts = await self.watch.look()
            slot = _named(facts, which)
            rest = [one for one in facts.slots if one.bootname and one.name != slot.name]
            if not any(one.boot_status == "good" for one in rest):
                raise UpdateConflictError(f"no good slot beside {slot.name} is left", code="UPDATE_NO_GOOD_SLOT")
            update = self.ledger.current()
            if update is not None and update.state is State.JUDGING and slot.name == facts.booted:
                self._trials.override(Verdict.BAD)
                await self.desk.until(update.id, lambda update: update.state is not State.JUDGING, _LATE)
                return slot
            facts = await self.watch.mark("bad", slot.name)
            marked = facts.slot(slot.name) or slot
            _require_mark(marked, "bad")
            if update is not None and update.state is State.INSTALLED and slot.name == update.to_slot:
                failure = records.Failure("UPDATE_CANCELLED", "the new system was marked bad before it was started")
                await self.desk.move(update, State.CANCELLED, failure=failure)
                self._runner.wake()
            return marked

    async def rollback(self) -> Update:
        """Start the other slot, where it is good; it is judged like an update."""
        async with self._lock:
            await self._require_idle()
            facts = await self.watch.look()
            other = facts.other
            if other is None or other.boot_status != "good" or facts.booted is None:
                name = other.name if other is not None else "the other slot"
                raise UpdateConflictError(
                    f"{name} is not good: there is nothing to go back to", code="UPDATE_NO_GOOD_SLOT"
                )
            at = now()
            content = other.bundle
            update = Update(
                id=self.ledger.next_id(),
                kind=Kind.ROLLBACK,
                state=State.INSTALLED,
                reboot=Reboot.NOW,
                bundle=None if content is None else records.Bundle(
                    version=content.version or "", compatible=content.compatible or "",
                    description=content.description or "", build=content.build or "",
                ),
                from_slot=facts.booted,
                to_slot=other.name,
                to_bootname=other.bootname,
                created_at=at,
                updated_at=at,
                boot_id=facts.boot_id,
                steps=(Step(State.INSTALLED, at),),
            )  # fmt: skip
            facts = await self.watch.mark("active", other.name)
            if facts.primary is not None and facts.primary != other.name:
                raise UpdateError(f"the bootloader did not take {other.name} as its next")
            await self.desk.move(update, State.INSTALLED)
        self._runner.wake()
        return update

    def _current(self) -> Update:
        update = self.ledger.current()
        if update is None:
            raise UpdateConflictError("no update is under way", code="NO_UPDATE")
        return update

    def _require_unbusy(self) -> None:
        if self.watch.busy:
            raise UpdateConflictError("RAUC installs now, and marks nothing meanwhile")

    async def _require_idle(self) -> None:
        update = self.ledger.current()
        if update is not None:
            raise UpdateConflictError(f"update {update.id} is {update.state}", details={"id": update.id})
        if self.watch.occupied:
            raise UpdateConflictError("RAUC is at something else, and does one thing at a time")
        facts = await self.watch.look()
        if facts.operation != "idle":
            raise UpdateConflictError("RAUC installs already, for somebody else")


_WRITING = "RAUC writes to the slot, and cannot be stopped: wait for the end, then mark the slot bad"
_TOO_LATE = {
    State.FAILED: "it has failed meanwhile",
    State.INSTALLED: "it is installed: mark the slot `other` bad to keep the board from starting it",
    State.REBOOTING: "the board reboots into the new system",
    State.JUDGING: "the new system runs and is judged: mark the booted slot bad to go back",
    State.ROLLING_BACK: "the board is on its way back already",
}


def _named(facts: Facts, which: str) -> Slot:
    slot = facts.slot(facts.booted) if which == "booted" else facts.other if which == "other" else facts.slot(which)
    if slot is None or not slot.bootname:
        raise ValidationError([FieldError("slot", f"no slot that the bootloader can start is '{which}'")])
    return slot


def _require_mark(slot: Slot | None, mark: str) -> None:
    """RAUC says `marked good` also where the bootloader did not take it. A bootloader without marks tells of none."""
    if slot is not None and slot.boot_status not in (None, mark):
        raise UpdateError(f"the bootloader did not take the mark: {slot.name} is {slot.boot_status}")


def _or(given: bool | None, configured: bool) -> bool:
    return configured if given is None else given
