"""Pull workers: who they are, whether they are there, which jobs they have, and what becomes of those of the lost."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from homed.clock import now
from homed.config.jobs import JobWorkers
from homed.errors import FieldError, HomedError, JobConflictError, JobLimitError, NotFoundError, ValidationError
from homed.events import Event, Events
from homed.jobs import claimants, placement
from homed.jobs.claimants import Claim, Poller, Refusal, Status
from homed.jobs.jobs import Jobs
from homed.jobs.line import Line
from homed.jobs.placement import WORKER, Node
from homed.jobs.records import Job, Result, State
from homed.store import damage
from homed.store.base import Record, Store

log = logging.getLogger(__name__)
BUCKET = "workers"
_MOST = 10_000
_FORGET_AFTER = timedelta(days=30)
_SEEN_EVERY = timedelta(hours=1)
_LOOK = 1.0
_RUNS = (State.ASSIGNED, State.RUNNING)


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of itself. `seen_at` is as of the last time that it was written down."""

    id: str
    hostname: str
    os: str = ""
    cpu_count: int | None = None
    version: str = ""
    registered_at: datetime
    seen_at: datetime


class Load(NamedTuple):
    """What a heartbeat tells: percent of all cores, and memory in MiB."""

    cpu_usage: float | None = None
    ram_free_mb: float | None = None
    ram_total_mb: float | None = None


class Seen(NamedTuple):
    """A worker as it is now; `jobs` are those that it has, or is taken to have."""

    worker: Worker
    status: Status
    seen_at: datetime
    load: Load
    jobs: Sequence[str]


class _Presence:
    """What is known of a worker since homed was started; `beat` by the monotonic clock."""

    __slots__ = ("address", "beat", "load", "named", "seen_at", "told", "worker")

    def __init__(self, worker: Worker, beat: float):
        self.worker = worker
        self.beat = beat
        self.seen_at = worker.seen_at
        self.load = Load()
        self.address = ""
        self.named = False
        self.told: tuple[bool, int] | None = None


class Workers:
    """The registry of pull workers, and their claims. `clock` gives seconds that only ever grow."""

    def __init__(
        self,
        store: Store,
        jobs: Jobs,
        events: Events,
        config: Callable[[], JobWorkers],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._store = store
        self._jobs = jobs
        self._config = config
        self._clock = clock
        self._known: dict[str, _Presence] = {}
        self._claims: dict[str, Claim] = {}
        self._asking: Counter[str | None] = Counter()
        self._line = Line()
        self._acts: set[asyncio.Task[None]] = set()
        events.listen(self._hear)

    async def load(self) -> None:
        """Read who was known, and who had what: each has as long to be heard of as if it had just been."""
        for _, worker in await damage.read_all(self._store, BUCKET, _decode):
            self._known[worker.id] = _Presence(worker, self._clock())
        everybody = frozenset(self._known)
        for job in self._jobs.active():
            if job.state in _RUNS and placement.need(job) == WORKER:
                self._claims[job.id] = Claim(job.id, job.token, job.node, frozenset() if job.node else everybody)
        self._tell_placement()

    async def run(self) -> None:
        """Give back the jobs of those that are gone, and forget those that stay away."""
        while True:
            await asyncio.sleep(_LOOK)
            try:
                await self.look()
            except HomedError as error:
                log.warning("Workers cannot be looked after: %s", error.message)

    async def look(self) -> None:
        online = {id for id, one in self._known.items() if self._is_online(one)}
        for claim in claimants.lost(list(self._claims.values()), online):
            who = f"worker {claim.worker}" if claim.worker else "the worker that took it"
            await self._give_back(claim, f"{who} was not heard of for {self._config().offline_after:g} s")
        moment = now()
        for presence in list(self._known.values()):
            if not self._is_online(presence) and moment - presence.seen_at > _FORGET_AFTER:
                await self._forget(presence.worker.id)
        self._tell_placement()

    async def register(self, worker: Worker, address: str) -> Worker:
        """Durable when it returns; what it has it keeps: some register anew whenever their network was away.
        ValidationError, JobLimitError (TOO_MANY_WORKERS).
        """
        _check(worker)
        presence = self._known.get(worker.id)
        if presence is None:
            await self._make_room()
        else:
            worker = msgspec.structs.replace(worker, registered_at=presence.worker.registered_at)
        await self._store.put(BUCKET, worker.id, msgspec.json.encode(worker), None)
        presence = self._known.setdefault(worker.id, _Presence(worker, self._clock()))
        presence.worker, presence.address = worker, address
        self._heard(presence)
        presence.told = None
        return worker

    async def beat(self, id: str, load: Load, address: str) -> datetime:
        """NotFoundError (WORKER_NOT_FOUND): it is to register first."""
        presence = self._presence(id)
        presence.load, presence.address = load, address
        self._heard(presence)
        presence.told = None
        if presence.seen_at - presence.worker.seen_at > _SEEN_EVERY:
            presence.worker = msgspec.structs.replace(presence.worker, seen_at=presence.seen_at)
            await self._store.put(BUCKET, id, msgspec.json.encode(presence.worker), None)
        return presence.seen_at

    def all(self) -> list[Seen]:
        """In the order in which they came."""
        had: dict[str, list[str]] = {}
        for job, worker in self._owners().items():
            had.setdefault(worker, []).append(job)
        return [
            Seen(one.worker, self._status(one, bool(had.get(id))), one.seen_at, one.load, had.get(id, []))
            for id, one in self._known.items()
        ]

    def owner(self, job: Job) -> str | None:
        """Whose it is, or is taken to be while it has no owner."""
        return job.node or (self._owners().get(job.id) if job.state in _RUNS else None)

    async def poll(
        self, id: str | None, address: str, hold: float, *, slots: int = 1, holds: Collection[str] | None = None
    ) -> Job | Refusal:
        """A job for who asks, waiting up to `hold` seconds for one. `holds` are the jobs that the worker knows to have,
        where it says so: what else was given to it never arrived, and waits again. NotFoundError (WORKER_NOT_FOUND).
        """
        if id is not None:
            presence = self._presence(id)
            presence.named, presence.address = True, address
            self._heard(presence)
            self._is_not_whose_claim_has_no_owner(id)
            if holds is not None:
                await self._give_back_what_never_arrived(id, holds)
        end = asyncio.get_running_loop().time() + hold
        while True:
            with self._line.join() as told:
                refused = self._refusal(id, slots)
                job = None if refused else await self._claim(id, address)
                if job is not None or refused is not None:
                    return job or refused or Refusal.NO_JOB
                left = end - asyncio.get_running_loop().time()
                if not told.done() and left <= 0:
                    return Refusal.NO_JOB
                await self._line.wait(told, left)
            if id is not None:
                self._heard(self._presence(id))

    def undo(self, job: Job) -> None:
        """The answer that gave it away could not be sent."""
        self._act(self._not_answered(job))

    async def close(self) -> None:
        """What is to be given back still is."""
        await asyncio.gather(*self._acts, return_exceptions=True)

    async def _not_answered(self, job: Job) -> None:
        claim = self._claims.get(job.id)
        if claim is not None and claim.token == job.token:
            await self._give_back(claim, "the worker that took it was gone before it could be told")

    async def report(self, id: str, worker: str) -> Job:
        """The job that this worker reports on, which is its own from now on. NotFoundError (JOB_NOT_FOUND),
        JobConflictError (JOB_NOT_YOURS, JOB_ENDED).
        """
        job = await self._jobs.look(id)
        presence = self._known.get(worker)
        if presence is None and job.node != worker:
            raise JobConflictError("the worker is not registered", code="JOB_NOT_YOURS")
        if presence is not None:
            self._heard(presence)
        job = await self._jobs.claims.bind(id, worker)
        claim = self._claims.get(id)
        if claim is not None and claim.worker is None and claim.token == job.token:
            self._claims[id] = Claim(id, claim.token, worker)
            self._is_not_whose_claim_has_no_owner(worker)
        return job

    async def settle(self, id: str, worker: str, result: Result) -> Job:
        """What came of it. As `report`, which is to have gone before."""
        job = await self._jobs.claims.settle(id, worker, result)
        self._claims.pop(id, None)
        return job

    # What is known of a worker.

    def _presence(self, id: str) -> _Presence:
        presence = self._known.get(id)
        if presence is None:
            raise NotFoundError("Worker not found", code="WORKER_NOT_FOUND")
        return presence

    def _heard(self, presence: _Presence) -> None:
        presence.beat, presence.seen_at = self._clock(), now()

    def _is_online(self, presence: _Presence) -> bool:
        return self._clock() - presence.beat < self._config().offline_after

    def _status(self, presence: _Presence, busy: bool) -> Status:
        if not self._is_online(presence):
            return Status.OFFLINE
        return Status.BUSY if busy else Status.IDLE

    async def _make_room(self) -> None:
        if len(self._known) < _MOST:
            return
        longest = min(self._known.values(), key=lambda one: one.beat)
        if self._is_online(longest):
            raise JobLimitError(f"{_MOST} workers are registered already", code="TOO_MANY_WORKERS")
        await self._forget(longest.worker.id)

    async def _forget(self, id: str) -> None:
        await self._store.delete(BUCKET, id, None)
        self._known.pop(id, None)
        self._jobs.nodes.drop(id)

    def _tell_placement(self) -> None:
        had = Counter(claim.worker for claim in self._claims.values())
        for id, presence in self._known.items():
            told = (self._is_online(presence), 0 if had[id] else 1)
            if told != presence.told:
                presence.told = told
                self._jobs.nodes.put(self._node(presence, told[1]))

    def _node(self, presence: _Presence, room: int) -> Node:
        worker, load = presence.worker, presence.load
        return Node(
            id=worker.id,
            online=self._is_online(presence),
            platform=worker.os,
            role="worker",
            cpu_cores=worker.cpu_count or 0,
            memory_gb=(load.ram_total_mb or 0) / 1024,
            storage_gb=0,
            room={WORKER: room},
        )

    # Claims.

    def _pollers(self) -> list[Poller]:
        had = Counter(claim.worker for claim in self._claims.values())
        return [
            Poller(id, self._is_online(one), one.address, one.named, had[id] + self._asking[id])
            for id, one in self._known.items()
        ]

    def _had(self, id: str) -> int:
        return sum(1 for claim in self._claims.values() if claim.worker == id)

    def _owners(self) -> Mapping[str, str]:
        """By job."""
        known: dict[str, str] = {claim.job: claim.worker for claim in self._claims.values() if claim.worker is not None}
        if len(known) == len(self._claims):
            return known
        return known | claimants.presumed(self._claims.values(), self._pollers())

    def _refusal(self, id: str | None, slots: int) -> Refusal | None:
        if id is not None:
            jobs = self._had(id) + self._asking[id]
            return claimants.refusal(Poller(id, True, "", True, jobs), (), 0, slots)
        unowned = sum(1 for claim in self._claims.values() if claim.worker is None) + self._asking[None]
        return claimants.refusal(None, self._pollers(), unowned)

    async def _claim(self, id: str | None, address: str) -> Job | None:
        """One that is claimed while its claimer goes away waits again."""
        whose = claimants.candidates(address, self._pollers()) if id is None else frozenset()
        # Counted at once: the next who asks must not be given what is this one's to have.
        self._asking[id] += 1
        task = asyncio.create_task(self._take(id, whose))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._act(self._undo(task))
            raise

    async def _take(self, id: str | None, whose: frozenset[str]) -> Job | None:
        presence = None if id is None else self._known.get(id)
        node = None if presence is None else self._node(presence, room=1)

        def fits(job: Job) -> bool:
            return node is None or not placement.refusal(node, WORKER, job.requirements)

        try:
            job = await self._jobs.claims.claim(id, fits)
        finally:
            self._asking[id] -= 1
        if job is None:
            return None
        self._claims[job.id] = Claim(job.id, job.token, id, whose)
        # It may have been ended in between, before anybody here knew of it.
        latest = await self._jobs.look(job.id)
        if latest.state not in _RUNS or latest.token != job.token:
            self._claims.pop(job.id, None)
            return None
        return job

    async def _undo(self, task: "asyncio.Future[Job | None]") -> None:
        try:
            job = await task
            if job is not None:
                await self._not_answered(job)
        except HomedError as error:
            log.warning("A claim of somebody who is gone cannot be undone: %s", error.message)

    async def _give_back(self, claim: Claim, why: str) -> None:
        log.warning("Job %s is given back: %s", claim.job, why)
        try:
            await self._jobs.claims.give_back(claim.job, claim.token, why, claimants.only(claim))
        except NotFoundError:
            log.info("Job %s is gone", claim.job)
        if self._claims.get(claim.job) == claim:
            del self._claims[claim.job]

    async def _give_back_what_never_arrived(self, id: str, holds: Collection[str]) -> None:
        missing = [one for one in self._claims.values() if one.worker == id and one.job not in holds]
        for claim in missing:
            await self._give_back(claim, f"worker {id} knows nothing of it")

    def _is_not_whose_claim_has_no_owner(self, worker: str) -> None:
        for claim in list(self._claims.values()):
            if claim.worker is None and worker in claim.candidates:
                self._claims[claim.job] = claimants.without(claim, worker)

    def _hear(self, event: Event) -> None:
        id, kind = str(event.data.get("id")), event.type
        if kind.startswith("job.") and kind not in ("job.assigned", "job.running"):
            self._claims.pop(id, None)
        if kind == "job.queued" and event.data.get("kind") == "archive":
            self._line.wake_one()

    def _act(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._acts.add(task)
        task.add_done_callback(self._acts.discard)


def _check(worker: Worker) -> None:
    errors = [
        FieldError(name, "must be 1 to 128 characters that can be printed")
        for name, text in (("workerId", worker.id), ("hostname", worker.hostname))
        if not 0 < len(text) <= 128 or not text.isprintable()
    ]
    if errors:
        raise ValidationError(errors)


def _decode(record: Record) -> Worker:
    return msgspec.json.decode(record.value, type=Worker)
