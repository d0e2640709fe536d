"""The jobs of this board in the store: every change is a compare-and-set, told as an event once it is durable."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from homed.errors import NotFoundError
from homed.events import Events
from homed.jobs import records
from homed.jobs.records import BUCKET, Job
from homed.store.base import RevisionError, Store

log = logging.getLogger(__name__)
_PAGE = 500
_TRIES = 20


class Index(Protocol):
    """What lists are answered from: it follows the records."""

    def put(self, job: Job) -> None: ...

    def drop(self, ids: Sequence[str]) -> None: ...

    async def settle(self) -> None:
        """All that it was told is written."""
        ...


class Entry:
    """A job that has not ended, or is being looked at: `changed` is set with each change, and replaced by a new one."""

    __slots__ = ("changed", "job", "lock", "revision")

    def __init__(self, job: Job, revision: int):
        self.job = job
        self.revision = revision
        self.lock = asyncio.Lock()
        self.changed = asyncio.Event()

    def tell(self, job: Job, revision: int) -> None:
        self.job, self.revision = job, revision
        self.changed.set()
        self.changed = asyncio.Event()


class Ledger:
    """Jobs that have not ended are held in memory; those that have are read from the store."""

    def __init__(self, store: Store, events: Events, index: Index):
        self._store = store
        self._events = events
        self._index = index
        self._entries: dict[str, Entry] = {}

    async def load(self) -> set[str]:
        """Read every record; returns the ids. One that cannot be read is left where it is, and said so."""
        known: set[str] = set()
        after = ""
        while page := await self._store.list(BUCKET, after=after, limit=_PAGE):
            for record in page:
                known.add(record.key)
                try:
                    job = records.decode(record.value)
                except ValueError as error:
                    log.error("The record of job %s cannot be read: %s", record.key, error)  # noqa: TRY400
                    continue
                self._index.put(job)
                if not job.ended:
                    self._entries[job.id] = Entry(job, record.revision)
            after = page[-1].key
            # They would all be held until then.
            await self._index.settle()
        return known

    def active(self) -> list[Job]:
        """Those that have not ended."""
        return [entry.job for entry in self._entries.values() if not entry.job.ended]

    def find(self, id: str) -> Job | None:
        """Of those in memory."""
        entry = self._entries.get(id)
        return None if entry is None else entry.job

    async def get(self, id: str) -> Job:
        """NotFoundError (JOB_NOT_FOUND)."""
        return (await self.entry(id)).job

    async def many(self, ids: Iterable[str]) -> dict[str, Job]:
        """Those of these that there are, by id."""
        found: dict[str, Job] = {}
        missing: list[str] = []
        for id in ids:
            entry = self._entries.get(id)
            if entry is None:
                missing.append(id)
            else:
                found[id] = entry.job
        for record in await asyncio.gather(*(self._store.get(BUCKET, id) for id in missing)):
            if record is not None:
                found[record.key] = records.decode(record.value)
        return found

    async def entry(self, id: str) -> Entry:
        """For who waits for its changes. NotFoundError (JOB_NOT_FOUND)."""
        entry = self._entries.get(id)
        if entry is not None:
            return entry
        record = await self._store.get(BUCKET, id)
        if record is None:
            raise NotFoundError(f"Job '{id[:64]}' not found", code="JOB_NOT_FOUND")
        # It may have been taken up again meanwhile.
        return self._entries.get(id) or Entry(records.decode(record.value), record.revision)

    async def add(self, job: Job) -> Job:
        """RevisionError where there is one of this id already."""
        revision = await self._store.put(BUCKET, job.id, records.encode(job), 0)
        self._entries[job.id] = Entry(job, revision)
        self._index.put(job)
        self._publish(job)
        return job

    async def change(self, id: str, decide: Callable[[Job, int], Job]) -> Job:
        """Write what `decide` makes of the job and its record's revision; asked again where somebody else was first.

        What it raises goes through, and changes nothing. NotFoundError.
        """
        entry = await self.entry(id)
        async with entry.lock:
            for tries_left in range(_TRIES - 1, -1, -1):
                before = entry.job
                job = decide(before, entry.revision)
                if job is before:
                    return job
                try:
                    revision = await self._store.put(BUCKET, id, records.encode(job), entry.revision)
                except RevisionError:
                    if not tries_left:
                        raise
                    await self._read_again(entry)
                    continue
                self._took(entry, job, revision, before)
                break
        return entry.job

    async def _read_again(self, entry: Entry) -> None:
        record = await self._store.get(BUCKET, entry.job.id)
        if record is None:
            raise NotFoundError(f"Job '{entry.job.id}' not found", code="JOB_NOT_FOUND")
        entry.tell(records.decode(record.value), record.revision)

    def _took(self, entry: Entry, job: Job, revision: int, before: Job) -> None:
        if job.ended:
            self._entries.pop(job.id, None)
        else:
            self._entries[job.id] = entry
        self._index.put(job)
        entry.tell(job, revision)
        if job.state is not before.state or job.attempt != before.attempt:
            self._publish(job)

    async def remove(self, ids: Iterable[str]) -> list[str]:
        """Forget those that have ended, and are not taken up again at the same time. Returns which were forgotten."""
        removed = await asyncio.gather(*(self._remove(id) for id in ids))
        gone = [id for id in removed if id is not None]
        self._index.drop(gone)
        return gone

    async def _remove(self, id: str) -> str | None:
        record = await self._store.get(BUCKET, id)
        if record is None:
            return id
        if id in self._entries or not records.decode(record.value).ended:
            return None
        try:
            await self._store.delete(BUCKET, id, record.revision)
        except RevisionError:
            return None
        return id

    def _publish(self, job: Job) -> None:
        data: dict[str, object] = {"id": job.id, "origin": job.origin, "kind": job.kind, "state": job.state}
        if job.attempt:
            data |= {"attempt": job.attempt, "node": job.node}
        if job.result is not None and job.ended:
            data |= {"exit_code": job.result.exit_code, "code": job.result.code}
        self._events.publish(f"job.{job.state}", data)
