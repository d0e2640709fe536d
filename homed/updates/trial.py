"""The judging of a new system, and the way back from one that was judged bad."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec

from homed.bus.login1 import Power
from homed.clock import now
from homed.config import Updates
from homed.errors import HomedError, UpdateConflictError
from homed.updates import journal
from homed.updates.desk import Desk
from homed.updates.installer import Watch
from homed.updates.judgement import Terms, Trial, Verdict, healthy, judge, reason
from homed.updates.records import Failure, Judgement, Kind, State, Update
from homed.updates.slots import Facts
from homed.updates.steps import Observe

log = logging.getLogger(__name__)
_EVERY = 1.0
_MARK_TRIES = 3
# How long a reboot that was accepted may take until it is asked for again.
_UNTIL_REBOOTED = 120.0


class Trials:
    """`boot_clock` gives seconds since the boot."""

    def __init__(
        self,
        desk: Desk,
        watch: Watch,
        power: Power,
        config: Callable[[], Updates],
        observe: Observe,
        boot_clock: Callable[[], float],
        copy: Callable[[Path], None],
    ):
        self._desk = desk
        self._watch = watch
        self._copy = copy
        self._power = power
        self._config = config
        self._observe = observe
        self._clock = boot_clock
        self._override: Verdict | None = None
        self._overridden = asyncio.Event()

    def override(self, verdict: Verdict) -> None:
        """A person's word ends the judging under way."""
        self._override = verdict
        self._overridden.set()

    async def judge(self, update: Update, facts: Facts) -> None:
        """Look until there is a verdict, and write it down; the mark comes before `good` is said."""
        update = await self._begin(update, facts)
        judgement = update.judgement
        assert judgement is not None
        self._override = None
        self._overridden.clear()
        trial = Trial()
        while True:
            findings = await self._observe()
            terms = Terms(judgement.until, self._config().soak)
            verdict, trial = judge(update.required, findings, trial, terms, self._clock())
            verdict = self._override or verdict
            self._desk.judged(update, trial, findings)
            if verdict is not Verdict.WAIT:
                break
            try:
                async with asyncio.timeout(_EVERY):
                    await self._overridden.wait()
            except TimeoutError:
                pass
        if verdict is Verdict.GOOD:
            await self._accept(update, facts, trial)
        else:
            await self.condemn(update, trial)

    async def _begin(self, update: Update, facts: Facts) -> Update:
        """In a new boot the deadline begins anew; where only homed was started anew, it goes on."""
        if update.judgement is not None and update.judgement.boot_id == facts.boot_id:
            return await self._desk.move(update, State.JUDGING)
        deadline = self._config().deadline
        at = now()
        judgement = Judgement(
            boot_id=facts.boot_id,
            started_at=at,
            deadline_at=at + timedelta(seconds=deadline),
            until=self._clock() + deadline,
        )
        boots = update.boots if facts.boot_id in update.boots else (*update.boots, facts.boot_id)
        log.info("Update %s: the new system is judged, %d s at most", update.id, deadline)
        return await self._desk.move(update, State.JUDGING, judgement=judgement, boots=boots)

    async def _accept(self, update: Update, facts: Facts, trial: Trial) -> None:
        for _ in range(_MARK_TRIES):
            facts = await self._watch.mark("good", "booted")
            slot = facts.slot(update.to_slot)
            # The bootloader that keeps no such mark gives none back.
            if slot is not None and slot.boot_status != "bad":
                log.info("Update %s: the new system is good", update.id)
                await self._desk.move(update, State.GOOD, judgement=_said(update, trial, Verdict.GOOD))
                return
            await asyncio.sleep(_EVERY)
        complaint = "the bootloader did not take the mark that the new system is good"
        failure = Failure("UPDATE_NOT_MARKED", complaint)
        await self._desk.move(update, State.ROLLING_BACK, judgement=_said(update, trial, Verdict.BAD), failure=failure)

    async def condemn(self, update: Update, trial: Trial) -> None:
        """The verdict is bad: written down before anything is done about it."""
        why = reason(trial.complaints) or "it was marked bad by hand"
        log.error("Update %s: the new system is bad: %s", update.id, why)
        failure = Failure("UPDATE_JUDGED_BAD", f"the new system did not become healthy: {why}")
        judgement = _said(update, trial, Verdict.BAD)
        await self._desk.move(update, State.ROLLING_BACK, judgement=judgement, failure=failure)

    async def roll_back(self, update: Update, facts: Facts) -> None:
        """Keep the journal, mark the slot bad, reboot. Without RAUC the bootloader's attempts lead back."""
        boots = update.boots if facts.boot_id in update.boots else (*update.boots, facts.boot_id)
        kept = update.has_journal or await journal.keep(self._desk.journal_of(update), "0")
        update = await self._desk.note(update, has_journal=kept, boots=boots)
        try:
            after = await self._watch.mark("bad", "booted")
            slot = after.slot(update.to_slot)
            if slot is not None and slot.boot_status == "good":
                log.error("Update %s: the bootloader did not take the mark that the new system is bad", update.id)
        except HomedError as error:
            log.error("Update %s: the slot was not marked bad: %s", update.id, error.message)  # noqa: TRY400
        await self.restart(update, "the new system is bad")

    async def reboot(self, update: Update, facts: Facts) -> None:
        """Into the new system. What is healthy now is what has to be healthy there."""
        if update.state is not State.REBOOTING:
            required = healthy(await self._observe())
            await self.copy_again(update)
            update = await self._desk.move(update, State.REBOOTING, required=required, boot_id=facts.boot_id)
        update = await self._desk.note(update, reboots=update.reboots + 1)
        await self.restart(update, "the update is installed")

    async def copy_again(self, update: Update) -> None:
        """Homed's state as it is just before the reboot: it may have changed since the installation."""
        if update.kind is not Kind.INSTALL:
            return
        try:
            await asyncio.to_thread(self._copy, self._desk.ledger.of(update.id))
        except HomedError as error:
            log.warning("Update %s: the first copy of the state is kept: %s", update.id, error.message)

    async def restart(self, update: Update, why: str) -> None:
        if self._watch.busy:
            raise UpdateConflictError("RAUC installs: the board is not rebooted now")
        log.warning("Update %s: the board reboots: %s", update.id, why)
        await self._power.reboot()
        await asyncio.sleep(_UNTIL_REBOOTED)


def _said(update: Update, trial: Trial, verdict: Verdict) -> Judgement | None:
    judgement = update.judgement
    if judgement is None:
        return None
    return msgspec.structs.replace(judgement, waiting_on=trial.complaints, verdict=str(verdict))
