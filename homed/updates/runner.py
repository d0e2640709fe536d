"""Drives the update under way, one step at a time, until it has ended; and marks the slot of an ordinary boot good."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path

from homed import atomic
from homed.config import Updates
from homed.errors import HomedError, RaucUnavailableError, StoreError, UpdateConflictError, UpdateError
from homed.updates import decide, journal, records
from homed.updates.decide import Act, Next
from homed.updates.desk import Desk
from homed.updates.failures import failure_of
from homed.updates.installer import Watch
from homed.updates.records import Failure, State, Update
from homed.updates.slots import Facts
from homed.updates.steps import Steps
from homed.updates.trial import Trials

log = logging.getLogger(__name__)
_PAUSE = 2.0
_WAIT = 10.0
# It may wait for weeks, and each look has the bootloader's environment read.
_LONG_WAIT = 30.0
_LONGEST_WAIT = 300.0
# An update whose bundle cannot be verified, because RAUC is away, fails after so long; one that is installed waits.
_RAUC_PATIENCE = 60.0
_MOST_BLIND_REBOOTS = 3
_MARKED = "marked"


class Runner:
    """`run` goes on for as long as homed does; `wake` has it look at once."""

    def __init__(
        self,
        desk: Desk,
        watch: Watch,
        steps: Steps,
        trials: Trials,
        config: Callable[[], Updates],
        boot_clock: Callable[[], float],
        zone: Callable[[], tzinfo],
    ):
        self._desk = desk
        self._watch = watch
        self._steps = steps
        self._trials = trials
        self._config = config
        self._clock = boot_clock
        self._zone = zone
        self._woken = asyncio.Event()
        self._step: asyncio.Task[None] | None = None
        self._cancelled: str | None = None
        self._away_since: float | None = None
        self._mark_tries = 0
        watch.listen(self.wake)

    def wake(self) -> None:
        self._woken.set()

    def cancel(self, update: Update) -> None:
        """End this update, if RAUC does not write yet when it is its turn."""
        self._cancelled = update.id
        if self._step is not None:
            self._step.cancel()
        self.wake()

    async def run(self) -> None:
        while True:
            self._woken.clear()
            await self._desk.settled()
            update = self._desk.current
            await self._mark_ordinary_boot(update)
            if update is None:
                await self._sleep(self._until_marked())
                continue
            try:
                await self._advance(update)
            except StoreError as error:
                log.error("Update %s stands still: %s", update.id, error.message)  # noqa: TRY400
                await self._sleep(_WAIT)

    async def _advance(self, update: Update) -> None:
        """One step, as a task of its own that a cancellation ends."""
        if self._cancelled == update.id and update.state in records.CANCELLABLE:
            await self._end(update, Next(Act.END, state=State.CANCELLED, failure=_CANCELLED))
            return
        self._step = asyncio.create_task(self._one(update))
        try:
            await asyncio.wait({self._step})
        except asyncio.CancelledError:
            self._step.cancel()
            await asyncio.gather(self._step, return_exceptions=True)
            raise
        finally:
            step, self._step = self._step, None
        if not step.cancelled():
            step.result()

    async def _one(self, update: Update) -> None:
        try:
            facts = await self._look(update)
            if facts is None:
                return
            now = datetime.now(self._zone())
            following = decide.decide(update, facts, now, self._config().window)
            await self._take(following, update, facts)
            self._away_since = None
        except RaucUnavailableError as error:
            await self._without_rauc(update, error)
        except StoreError:
            raise
        except HomedError as error:
            await self._stumble(update, error)
        except Exception as error:
            # A fault of ours in an update must not take the containers' keeper with it, now and at each start.
            log.exception("Update %s", update.id)
            await self._stumble(update, UpdateError(f"{type(error).__name__}: {error}"))

    async def _stumble(self, update: Update, error: HomedError) -> None:
        """Before the reboot an error ends the update; later there is only to try on."""
        current = self._desk.current or update
        if isinstance(error, UpdateConflictError) or current.state in records.COMMITTED:
            log.warning("Update %s waits: %s", update.id, error.message)
            self._desk.wait_for(current, "rauc")
            await self._sleep(_PAUSE)
        else:
            await self._end(current, Next(Act.END, failure=failure_of(error)))

    async def _look(self, update: Update) -> Facts | None:
        """The board; None where it has to be waited for. What is not needed is not asked for."""
        if not decide.needs_slots(update):
            return self._watch.facts
        facts = await self._watch.look()
        if update.state in records.COMMITTED and (facts.booted is None or facts.operation != "idle"):
            self._desk.wait_for(update, "rauc")
            await self._sleep(_PAUSE)
            return None
        return facts

    async def _take(self, following: Next, update: Update, facts: Facts) -> None:
        match following.act:
            case Act.WAIT:
                self._desk.wait_for(update, following.text)
                await self._sleep(_LONG_WAIT)
            case Act.FETCH:
                await self._steps.fetch(update)
            case Act.BACK_UP:
                await self._steps.back_up(update, facts)
            case Act.INSTALL:
                await self._steps.install(update, facts, interrupted=following.interrupted)
            case Act.FOLLOW:
                await self._steps.follow(update)
            case Act.NOTE_INSTALLED:
                await self._steps.note_installed(update, facts)
            case Act.REBOOT:
                await self._trials.reboot(update, facts)
            case Act.JUDGE:
                await self._trials.judge(update, facts)
                if (ended := self._desk.ledger.get(update.id)).state is State.GOOD:
                    await self._tidy(ended)
            case Act.ROLL_BACK:
                await self._trials.roll_back(update, facts)
            case Act.REVIVE:
                await self._steps.revive(update, facts)
            case Act.END:
                await self._end(update, following)

    async def _end(self, update: Update, following: Next) -> None:
        failure = following.failure
        words = failure.message if failure is not None else ""
        log.warning("Update %s: %s: %s", update.id, following.state, words)
        path = self._desk.journal_of(update)
        # The guard keeps one too.
        kept = update.has_journal or await asyncio.to_thread(path.is_file)
        if following.state is State.ROLLED_BACK and not kept:
            kept = await journal.keep(path, update.boots[-1] if update.boots else "-1")
        await self._desk.move(update, following.state, failure=failure, has_journal=kept)
        await self._steps.discard(update)
        await self._tidy(update)

    async def _tidy(self, update: Update) -> None:
        await asyncio.to_thread(self._desk.ledger.prune, self._config().kept)
        if self._desk.ledger.get(update.id).state is State.GOOD:
            await self._note_marked()

    async def _without_rauc(self, update: Update, error: RaucUnavailableError) -> None:
        """Wait for it, though not for ever: a new system without RAUC is not well, and can only be left blindly."""
        current = self._desk.current or update
        self._desk.wait_for(current, "rauc")
        now = self._clock()
        if self._away_since is None:
            self._away_since = now
        away = now - self._away_since
        in_other_boot = current.state in records.COMMITTED and current.boot_id != self._watch.facts.boot_id
        if in_other_boot and away >= self._config().deadline:
            self._away_since = None
            await self._leave_blindly(current, error)
        elif current.state not in records.COMMITTED and away >= _RAUC_PATIENCE:
            self._away_since = None
            await self._end(current, Next(Act.END, failure=failure_of(error)))
        else:
            await self._sleep(_PAUSE)

    async def _leave_blindly(self, update: Update, error: RaucUnavailableError) -> None:
        if update.blind_reboots >= _MOST_BLIND_REBOOTS:
            await self._end(update, Next(Act.END, failure=failure_of(error)))
            return
        kept = update.has_journal or await journal.keep(self._desk.journal_of(update), "0")
        update = await self._desk.note(update, blind_reboots=update.blind_reboots + 1, has_journal=kept)
        await self._trials.restart(update, "RAUC does not answer: the bootloader's attempts lead back")

    async def _mark_ordinary_boot(self, update: Update | None) -> None:
        """Once a boot: bootloaders count attempts down at each boot, and only a mark sets them back."""
        if not self._unmarked():
            return
        try:
            facts = await self._watch.look()
            if facts.operation != "idle" or facts.booted is None:
                return
            if update is not None and facts.booted == update.to_slot:
                # It is to be judged first, also where the power was cut just after RAUC had finished.
                return
            await self._watch.mark("good", "booted")
            await self._note_marked()
            log.info("The booted slot %s is marked good", facts.booted)
        except HomedError as error:
            log.debug("The booted slot is not marked good yet: %s", error.message)

    def _until_marked(self) -> float | None:
        """Seconds until the mark is tried again: longer each time, since to ask may start a service that fails."""
        if not self._unmarked():
            return None
        self._mark_tries += 1
        return float(min(_WAIT * 2 ** min(self._mark_tries - 1, 5), _LONGEST_WAIT))

    def _unmarked(self) -> bool:
        try:
            return self._marker.read_text(encoding="ascii").strip() != self._watch.facts.boot_id
        except (OSError, UnicodeDecodeError):
            return True

    async def _note_marked(self) -> None:
        boot = f"{self._watch.facts.boot_id}\n".encode()
        try:
            await asyncio.to_thread(atomic.write, self._marker, boot)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._marker, error.strerror)

    @property
    def _marker(self) -> Path:
        return self._desk.ledger.folder / _MARKED

    async def _sleep(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass


_CANCELLED = Failure("UPDATE_CANCELLED", "it was cancelled")
