"""Where the update under way is written down: first to the disk, then told."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from homed.clock import now
from homed.errors import StoreError
from homed.events import Events
from homed.updates import pending, records
from homed.updates.judgement import Findings, Trial
from homed.updates.ledger import JOURNAL, Ledger
from homed.updates.records import ENDED, State, Update


class Desk:
    """The ledger, off the event loop, with its events. `live` is the judging as it stands, not written every second."""

    def __init__(self, ledger: Ledger, events: Events, deadline: Callable[[], float]):
        self.ledger = ledger
        self.live: Trial | None = None
        self.waiting_for: str | None = None
        self.progress: tuple[int, str] | None = None
        self._events = events
        self._deadline = deadline
        self._saving = asyncio.Lock()
        self._moved = asyncio.Condition()

    @property
    def current(self) -> Update | None:
        return self.ledger.current()

    async def move(self, update: Update, state: State, **changes: object) -> Update:
        """The update in its next state, durable before this returns, together with what the guard goes by.

        Once begun it is done whole, also where the caller is cancelled: a state must not be on disk and not told.
        """
        return await asyncio.shield(self._move(update, state, changes))

    async def _move(self, update: Update, state: State, changes: Mapping[str, object]) -> Update:
        new = records.moved(update, state, now(), **changes)
        async with self._saving:
            await asyncio.to_thread(self._write, new)
        self.waiting_for = self.progress = None
        if state is not State.JUDGING:
            self.live = None
        self._events.publish("update.state", summary(new))
        async with self._moved:
            self._moved.notify_all()
        return new

    async def until(self, identity: str, done: Callable[[Update], bool], seconds: float) -> Update:
        """The update when it is so, or as it is after that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait_for(lambda: done(self.ledger.get(identity)))
        return self.ledger.get(identity)

    async def settled(self) -> None:
        """What has begun to be written is written when this returns."""
        async with self._saving:
            pass

    async def note(self, update: Update, **changes: object) -> Update:
        """The same state, with other facts."""
        return await asyncio.shield(self._note(update, changes))

    async def _note(self, update: Update, changes: Mapping[str, object]) -> Update:
        new = records.moved(update, update.state, now(), **changes)
        async with self._saving:
            await asyncio.to_thread(self._write, new)
        return new

    def _write(self, update: Update) -> None:
        # The guard's file comes before the state in which a boot may need it, and goes after the one that ends it.
        try:
            if update.state in records.GUARDED:
                pending.write(self.ledger.folder, update, self._deadline(), update.judgement)
            self.ledger.save(update)
            if update.state in ENDED:
                pending.remove(self.ledger.folder)
        except OSError as error:
            raise StoreError(f"{self.ledger.folder} cannot be written: {error.strerror}") from error

    def wait_for(self, update: Update, what: str) -> None:
        if self.waiting_for != what:
            self.waiting_for = what
            self._events.publish("update.state", {**summary(update), "waiting_for": what})

    def progressed(self, state: State, percentage: int, message: str) -> None:
        """Progress of what goes on in a state: RAUC tells of each of its doings, not of installing alone."""
        update = self.current
        if update is not None and update.state is state and (percentage, message) != self.progress:
            self.progress = (percentage, message)
            self._events.publish("update.progress", {"id": update.id, "percentage": percentage, "message": message})

    def judged(self, update: Update, trial: Trial, findings: Findings) -> None:
        if self.live is None or self.live.complaints != trial.complaints:
            waiting = [{"probe": one.probe, "reason": one.reason} for one in trial.complaints]
            self._events.publish("update.judgement", {"id": update.id, "waiting_on": waiting, "asked": len(findings)})
        self.live = trial

    def journal_of(self, update: Update) -> Path:
        return self.ledger.of(update.id) / JOURNAL


def summary(update: Update) -> Mapping[str, object]:
    """What an event says of an update."""
    failure = update.failure
    return {
        "id": update.id,
        "kind": update.kind,
        "state": update.state,
        "version": update.bundle.version if update.bundle is not None else None,
        "from_slot": update.from_slot,
        "to_slot": update.to_slot,
        "error": None if failure is None else {"code": failure.code, "message": failure.message},
    }
