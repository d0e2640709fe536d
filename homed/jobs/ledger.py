"""The jobs of this board in the store: every change is a compare-and-set, told as an event once it is durable.

Memory holds only a job's scheduling data. `whole` reads large content from the store.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Protocol

import msgspec

from homed.errors import JobError, NotFoundError
from homed.events import Events
from homed.jobs import contents, records
from homed.jobs.budget import Budget
from homed.jobs.records import BUCKET, Beside, Job, State
from homed.store import base, damage
from homed.store.base import PAGE_BYTES, Change, Record, RevisionError, Store

log = logging.getLogger(__name__)
_TRIES = 20
_WAITING = (State.PENDING, State.QUEUED)
_VACUUM_STEP_BYTES = 4 << 20
_NO_LIMIT = 1 << 60
# Memory for content being handed to runners; each has it as JSON, as decoded objects, and in its output form.
_CONTENT_BYTES = 8 << 20
_COPIES = 4


class Index(Protocol):
    """What lists are answered from: it follows the records."""

    def put(self, job: Job, stored: int) -> None:
        """Record a job; `stored` is its size in the store in bytes."""
        ...

    def drop(self, ids: Sequence[str]) -> None: ...

    async def settle(self) -> None:
        """All that it was told is written."""
        ...


class Entry:
    """A job that has not ended, or is being looked at: `changed` is set with each change, and replaced by a new one.

    `stored` is its size in the store in bytes. `inside`: an older version wrote its large content inside its record;
    the next change splits it off.
    """

    __slots__ = ("changed", "inside", "job", "lock", "revision", "stored")

    def __init__(self, job: Job, revision: int, stored: int = 0, *, inside: bool = False):
        self.job = job
        self.revision = revision
        self.stored = stored
        self.inside = inside
        self.lock = asyncio.Lock()
        self.changed = asyncio.Event()

    def tell(self, job: Job, revision: int, stored: int = 0, *, inside: bool = False) -> None:
        self.job, self.revision, self.stored, self.inside = job, revision, stored, inside
        self.changed.set()
        self.changed = asyncio.Event()


class Ledger:
    """Jobs that have not ended are held in memory; those that have are read from the store.

    Every job that is given out may lack the large part of its content (`Job.beside`): see `whole`.
    """

    def __init__(self, store: Store, events: Events, index: Index):
        self._store = store
        self._events = events
        self._index = index
        self._entries: dict[str, Entry] = {}
        self._budget = Budget(_CONTENT_BYTES)
        self._moving = asyncio.Semaphore(2)
        self._bytes = 0
        self._waiting = 0

    async def load(self) -> set[str]:
        """Read every record; returns the ids. One that cannot be read is set aside."""
        known: set[str] = set()
        self._entries, self._bytes, self._waiting = {}, 0, 0
        async for page in base.pages(self._store, BUCKET):
            for record in page:
                known.add(record.key)
                try:
                    entry = _entry(record)
                except Exception as error:  # noqa: BLE001  whatever it is, the others must be read
                    await damage.set_aside(self._store, BUCKET, record, error)
                    continue
                self._index.put(entry.job, entry.stored)
                self._hold(entry)
            # They would all be held until then.
            await self._index.settle()
        return known

    @property
    def unfinished(self) -> int:
        """The number of jobs that have not ended."""
        return len(self._entries)

    @property
    def waiting(self) -> int:
        """The number of jobs that wait for a node, or for their next try."""
        return self._waiting

    @property
    def unfinished_bytes(self) -> int:
        """The size in the store of the jobs that have not ended, in bytes."""
        return self._bytes

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
        while missing:
            page, looked_at = await self._store.get_all(BUCKET, missing, PAGE_BYTES)
            found |= {record.key: contents.read(record.value)[0] for record in page}
            missing = missing[looked_at:]
        return found

    async def whole(self, job: Job) -> Job:
        """Return the job with all of its content; large data of its result is JSON (`msgspec.Raw`).

        NotFoundError (JOB_NOT_FOUND), if it was removed meanwhile.
        """
        if not job.beside.work and not job.beside.data:
            return job
        whole = await self._joined(job)
        return whole if whole is not None else await self._read_whole(job.id)

    @asynccontextmanager
    async def content(self, job: Job) -> AsyncIterator[Job]:
        """Provide the job as `whole` does, for a runner, within the memory budget of all runners."""
        if not job.beside.work and not job.beside.data:
            yield job
            return
        async with self._budget.held(_COPIES * (job.beside.work + job.beside.data)):
            yield await self.whole(job)

    async def with_small(self, jobs: Sequence[Job], max_bytes: int) -> list[Job]:
        """Return the jobs for lists, with the whole work of those whose work has at most `max_bytes`."""
        found: list[Job] = []
        for job in jobs:
            whole = None
            if 0 < job.beside.work <= max_bytes:
                whole = await self._joined(msgspec.structs.replace(job, beside=Beside(work=job.beside.work)))
            found.append(whole or job)
        return found

    async def _joined(self, job: Job) -> Job | None:
        """Return the job joined with its separate content; None if some of that is missing."""
        work = await self._read_beside(contents.work_keys(job), job.beside.work)
        data = await self._read_beside(contents.data_keys(job), job.beside.data)
        if work is None or data is None:
            return None
        try:
            return contents.join(job, work or None, data or None)
        except ValueError as error:
            raise JobError(
                f"the content of job '{job.id}' cannot be read: {error}", code="JOB_CONTENT_DAMAGED"
            ) from error

    async def _read_beside(self, keys: Sequence[str], size: int) -> bytes | None:
        if not keys:
            return b""
        found, _ = await self._store.get_all(contents.BUCKET, keys, _NO_LIMIT)
        content = b"".join(record.value for record in found)
        return content if len(content) == size else None

    async def _read_whole(self, id: str) -> Job:
        """Read a job that changed in the meantime, or whose record has all content (written by an older version)."""
        for _ in range(_TRIES):
            record = await self._store.get(BUCKET, id)
            if record is None:
                raise NotFoundError(f"Job '{id[:64]}' not found", code="JOB_NOT_FOUND")
            whole = await self._joined(records.decode(record.value))
            if whole is not None:
                return whole
        raise JobError(f"the content of job '{id}' is missing in the store", code="JOB_CONTENT_MISSING")

    async def entry(self, id: str) -> Entry:
        """For who waits for its changes. NotFoundError (JOB_NOT_FOUND)."""
        entry = self._entries.get(id)
        if entry is not None:
            return entry
        record = await self._store.get(BUCKET, id)
        if record is None:
            raise NotFoundError(f"Job '{id[:64]}' not found", code="JOB_NOT_FOUND")
        # It may have been taken up again meanwhile.
        return self._entries.get(id) or _entry(record)

    async def add(self, job: Job) -> Job:
        """RevisionError where there is one of this id already."""
        light, work, data = contents.split(job)
        value = records.encode(light)
        revision = (await self._store.write([Change(BUCKET, job.id, value, 0), *_beside(light, work, data)]))[0]
        entry = Entry(light, revision, _stored(light, value), inside=False)
        self._hold(entry)
        self._index.put(light, entry.stored)
        self._publish(light)
        return light

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
                    # Content that an older version wrote inside the record is split off, job by job.
                    async with self._moving if entry.inside else nullcontext():
                        job, beside = await self._split(entry, job)
                        value = records.encode(job)
                        revision = (await self._store.write([Change(BUCKET, id, value, entry.revision), *beside]))[0]
                except RevisionError:
                    if not tries_left:
                        raise
                    await self._read_again(entry)
                    continue
                self._took(entry, job, revision, _stored(job, value))
                break
        return entry.job

    async def _split(self, entry: Entry, job: Job) -> tuple[Job, list[Change]]:
        """Return the changed job without its separate content, and the changes of that. Raises: RevisionError."""
        before = entry.job
        changes: list[Change] = []
        has_new_result = job.result is not before.result
        if entry.inside:
            job, changes = await self._put_beside(entry, job)
        if has_new_result:
            if before.beside.data:
                changes += [Change(contents.BUCKET, key, None) for key in contents.data_keys(before)]
                job = msgspec.structs.replace(job, beside=msgspec.structs.replace(job.beside, data=0))
            job, data = contents.split_data(job)
            changes += _beside(job, None, data)
        return job, changes

    async def _put_beside(self, entry: Entry, job: Job) -> tuple[Job, list[Change]]:
        """Return the changes that split off content which an older version wrote inside the record."""
        record = await self._store.get(BUCKET, job.id)
        if record is None or record.revision != entry.revision:
            raise RevisionError(f"job '{job.id}' was changed in the meantime: read it again")
        light, work, data = contents.split_record(record.value)
        return msgspec.structs.replace(
            job, work=light.work, metadata=light.metadata, beside=light.beside,
            result=light.result if job.result is entry.job.result else job.result,
        ), _beside(light, work, data)  # fmt: skip

    async def _read_again(self, entry: Entry) -> None:
        record = await self._store.get(BUCKET, entry.job.id)
        if record is None:
            raise NotFoundError(f"Job '{entry.job.id}' not found", code="JOB_NOT_FOUND")
        found = _entry(record)
        held = self._entries.get(entry.job.id) is entry
        if held:
            self._let_go(entry)
        entry.tell(found.job, found.revision, found.stored, inside=found.inside)
        if held:
            self._hold(entry)

    def _took(self, entry: Entry, job: Job, revision: int, stored: int) -> None:
        before = entry.job
        if (held := self._entries.get(job.id)) is not None:
            self._let_go(held)
        entry.tell(job, revision, stored, inside=False)
        self._hold(entry)
        self._index.put(job, stored)
        if job.state is not before.state or job.attempt != before.attempt:
            self._publish(job)

    def _hold(self, entry: Entry) -> None:
        """Keep a job that has not ended in memory, and count it."""
        if entry.job.ended:
            return
        other = self._entries.get(entry.job.id)
        if other is not None:
            self._let_go(other)
        self._entries[entry.job.id] = entry
        self._bytes += entry.stored
        self._waiting += entry.job.state in _WAITING

    def _let_go(self, entry: Entry) -> None:
        del self._entries[entry.job.id]
        self._bytes -= entry.stored
        self._waiting -= entry.job.state in _WAITING

    async def remove(self, ids: Iterable[str]) -> list[str]:
        """Forget those that have ended, and are not taken up again at the same time. Returns which were forgotten."""
        asked = list(ids)
        gone: list[str] = []
        while asked:
            page, looked_at = await self._store.get_all(BUCKET, asked, PAGE_BYTES)
            there = {record.key for record in page}
            gone += [id for id in asked[:looked_at] if id not in there]
            removed = await asyncio.gather(*(self._remove(record) for record in page))
            gone += [id for id in removed if id is not None]
            asked = asked[looked_at:]
        self._index.drop(gone)
        return gone

    async def _remove(self, record: Record) -> str | None:
        id = record.key
        job, inside = contents.read(record.value)
        if id in self._entries or not job.ended:
            return None
        try:
            beside = [] if inside else [*contents.work_keys(job), *contents.data_keys(job)]
            gone = [Change(contents.BUCKET, key, None) for key in beside]
            await self._store.write([Change(BUCKET, id, None, record.revision), *gone])
        except RevisionError:
            return None
        return id

    async def give_back(self, spare: int) -> int:
        """Release space of removed jobs to the disk, except `spare` bytes. Return the number of free bytes."""
        return await self._store.give_back(_VACUUM_STEP_BYTES, spare)

    def _publish(self, job: Job) -> None:
        data: dict[str, object] = {"id": job.id, "origin": job.origin, "kind": job.kind, "state": job.state}
        if job.attempt:
            data |= {"attempt": job.attempt, "node": job.node}
        if job.result is not None and job.ended:
            data |= {"exit_code": job.result.exit_code, "code": job.result.code}
        self._events.publish(f"job.{job.state}", data)


def _entry(record: Record) -> Entry:
    """Decode a record. Raises: ValueError."""
    job, inside = contents.read(record.value)
    stored = len(record.value) if inside else _stored(job, record.value)
    return Entry(job, record.revision, stored, inside=inside)


def _stored(job: Job, value: bytes) -> int:
    return len(value) + job.beside.work + job.beside.data


def _beside(job: Job, work: bytes | None, data: bytes | None) -> list[Change]:
    """Return the changes that write the separate content of this job."""
    pieces = [] if work is None else [*contents.pieces(contents.work_keys(job), work)]
    pieces += [] if data is None else [*contents.pieces(contents.data_keys(job), data)]
    return [Change(contents.BUCKET, key, piece) for key, piece in pieces]
