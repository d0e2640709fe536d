"""What the rest of homed sees of jobs: submitting them, looking at them, ending them, trying them again."""

import asyncio
import hashlib
import json
import random
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from homed.clock import now
from homed.config.jobs import Jobs as Config
from homed.errors import (
    FieldError,
    ForbiddenError,
    InactiveHostError,
    JobConflictError,
    JobLimitError,
    JobSpaceError,
    NotFoundError,
    ValidationError,
)
from homed.jobs import contents, placement
from homed.jobs.claims import Claims
from homed.jobs.following import Following, Item
from homed.jobs.ledger import Ledger
from homed.jobs.listing import JobListing
from homed.jobs.nodes import Nodes
from homed.jobs.output.output import Output
from homed.jobs.output.outputs import Outputs
from homed.jobs.records import Archive, Command, Job, Script, State, Task
from homed.jobs.scheduler import Scheduler
from homed.jobs.submission import NewJob, Page, Query
from homed.jobs.tasks import types
from homed.jobs.transitions import advance
from homed.store.base import RevisionError

_NAMESPACE = uuid.UUID("8f7c2c64-6a1d-4c6e-9a55-0d9a4f6f9a31")
_RETRIED = frozenset({State.FAILED, State.TIMED_OUT, State.CANCELLED})
# Linux's limit in bytes, with the terminating zero byte, for one argument of a program, such as a shell command.
_MAX_LINE_BYTES = (128 << 10) - 1
_MAX_REQUIREMENTS_BYTES = 2048
_MAX_ADDRESS_CHARACTERS = 2048
# Bytes of a record in addition to its content.
_RECORD_BYTES = 1024
# Lists have the whole work of a job up to so many bytes, and only its beginning beyond that.
_MAX_LISTED_BYTES = 8192
_MAX_PAGE_BYTES = 1 << 20


class Host(Protocol):
    @property
    def is_active(self) -> bool: ...


class Hosts(Protocol):
    """What a job must know of the hosts."""

    def get(self, id: str) -> Host:
        """NotFoundError (HOST_NOT_FOUND)."""
        ...


class Jobs:
    def __init__(
        self,
        ledger: Ledger,
        scheduler: Scheduler,
        claims: Claims,
        nodes: Nodes,
        listing: JobListing,
        outputs: Outputs,
        hosts: Hosts,
        config: Callable[[], Config],
    ):
        self._ledger = ledger
        self._scheduler = scheduler
        self.claims = claims
        self.nodes = nodes
        self._listing = listing
        self.outputs = outputs
        self._hosts = hosts
        self._config = config
        self._following = Following(ledger, outputs)
        self._coming = 0
        self._coming_bytes = 0

    async def submit(self, new: NewJob) -> Job:
        """Submit a job; it is durable on return. A second submission with the same key returns the first job.

        Raises: ForbiddenError (JOBS_DISABLED), ValidationError, JobLimitError (QUEUE_FULL),
        JobSpaceError (QUEUE_SPACE), NotFoundError (HOST_NOT_FOUND), InactiveHostError, JobConflictError (KEY_REUSED).
        """
        config = self._config()
        new = checked(new, config)
        if new.key and (first := await self._known(new)) is not None:
            return first  # also where no more would be taken
        self._require_active(new.host)
        size = _size(new, config.work_limit)
        self._require_room(size, config)
        at = now()
        job = Job(
            id=_id(new),
            origin=new.origin,
            work=new.work,
            host=new.host,
            priority=new.priority,
            timeout=config.timeout if new.timeout is None else new.timeout,
            deadline=new.deadline,
            max_retries=new.max_retries,
            requirements=new.requirements,
            metadata=new.metadata,
            user=new.user or config.user,
            key=_digest(new) if new.key else "",
            submitted_by=new.submitted_by,
            copied_from=new.copied_from,
            created_at=at,
            updated_at=at,
        )
        job = advance(job, State.QUEUED, at)
        self._coming += 1
        self._coming_bytes += size
        try:
            light = await self._ledger.add(job)
        except RevisionError:
            # Another one with this key came at the same time.
            first = await self._known(new) if new.key else None
            if first is None:
                raise
            return first
        finally:
            self._coming -= 1
            self._coming_bytes -= size
        self._scheduler.enqueue(light)
        return job

    def _require_room(self, size: int, config: Config) -> None:
        """Check the limits, with pending writes. Raises: JobLimitError (QUEUE_FULL), JobSpaceError (QUEUE_SPACE)."""
        waiting, unfinished = self._ledger.waiting + self._coming, self._ledger.unfinished + self._coming
        if waiting >= config.queue or unfinished >= 2 * config.queue:
            raise JobLimitError(f"{config.queue} jobs wait already: see jobs.queue")
        taken = self._ledger.unfinished_bytes + self._coming_bytes
        if taken + size > config.queue_bytes:
            raise JobSpaceError(
                f"the jobs that have not ended take {taken} bytes, and this one would take {size} more: all may take "
                f"{config.queue_bytes} (see jobs.queue_bytes)"
            )

    async def _known(self, new: NewJob) -> Job | None:
        """The job that was made with this key. JobConflictError (KEY_REUSED)."""
        try:
            first = await self.get(_id(new))
        except NotFoundError:
            return None
        if first.key != _digest(new):
            raise JobConflictError("this key was given with another job", code="KEY_REUSED")
        return first

    def _require_active(self, host: str | None) -> None:
        if host is not None and not self._hosts.get(host).is_active:
            raise InactiveHostError([FieldError("server_id", "is a host that is not active")])

    async def get(self, id: str) -> Job:
        """Return a job with all of its content. Raises: NotFoundError (JOB_NOT_FOUND)."""
        return await self._ledger.whole(await self._ledger.get(id))

    async def look(self, id: str) -> Job:
        """Return a job, perhaps without its large content. Raises: NotFoundError (JOB_NOT_FOUND)."""
        return await self._ledger.get(id)

    async def whole(self, job: Job) -> Job:
        """Return the job with all of its content. Raises: NotFoundError (JOB_NOT_FOUND), if it has been removed."""
        return await self._ledger.whole(job)

    async def page(self, query: Query) -> Page:
        """Return a page of jobs; a large work is shortened to its beginning."""
        ids, total = await self.ids(query)
        jobs = await self.several(ids)
        most = min(_MAX_LISTED_BYTES, _MAX_PAGE_BYTES // max(1, len(jobs)))
        return Page(await self._ledger.with_small(jobs, most), total)

    async def ids(self, query: Query) -> tuple[list[str], int]:
        """Return the ids of a page, and the total number of jobs: a long page is not held in memory as a whole."""
        return await self._listing.page(query)

    async def several(self, ids: Sequence[str]) -> list[Job]:
        """Return the existing ones of these jobs in this order, perhaps with only the beginning of their work."""
        found = await self._ledger.many(ids)
        return [job for id in ids if (job := found.get(id)) is not None]

    async def cancel(self, id: str, why: str = "") -> Job:
        """Returns when it is asked for; what waits has ended then. JobConflictError (JOB_ENDED)."""
        job = await self._ledger.get(id)
        if job.ended:
            raise JobConflictError(f"the job is {job.state} already", code="JOB_ENDED", details={"state": job.state})
        return await self._scheduler.end(id, State.CANCELLED, why or "it was cancelled")

    async def retry(self, id: str) -> Job:
        """Retry the same job. Raises: JobConflictError (CANNOT_RETRY), unless it failed, was cancelled or timed out;
        JobLimitError (QUEUE_FULL), JobSpaceError (QUEUE_SPACE).
        """

        def decide(job: Job, revision: int) -> Job:
            if job.state not in _RETRIED:
                raise JobConflictError(
                    f"the job is {job.state}: it cannot be tried again", code="CANNOT_RETRY",
                    details={"state": job.state},
                )  # fmt: skip
            return advance(job, State.QUEUED, now(), deadline=None)

        job = await self._ledger.get(id)
        self._require_active(job.host)
        if job.state in _RETRIED:
            self._require_room(job.beside.work + _RECORD_BYTES, self._config())
        job = await self._ledger.change(id, decide)
        self._scheduler.enqueue(job)
        return job

    async def ended(self, id: str, timeout: float) -> Job:
        """The job when it has ended, or as it is after `timeout` seconds."""
        entry = await self._ledger.entry(id)
        try:
            async with asyncio.timeout(timeout):
                while not entry.job.ended:
                    await entry.changed.wait()
        except TimeoutError:
            pass
        return entry.job

    def refusals(self, job: Job) -> Mapping[str, str]:
        """Why it still waits, by node; empty where it does not."""
        if job.state is State.PENDING:
            return {self.nodes.own: "it waits for the next try"}
        if job.state is not State.QUEUED:
            return {}
        return placement.place(job, self.nodes.all()).refusals

    def progress(self, job: Job) -> float | None:
        """From 0 to 1, where anybody knows."""
        if job.state is State.SUCCEEDED:
            return 1.0
        return self._scheduler.progress.get(job.id, 0.0 if not job.ended else None)

    def output(self, job: Job) -> Output | None:
        """Of its last attempt."""
        return self.outputs.find(job.id, job.attempt) if job.attempt else None

    def follow(self, id: str, last_event_id: str = "") -> AsyncGenerator[Item, None]:
        """Its states and its output, while they come. NotFoundError (JOB_NOT_FOUND) with the first."""
        return self._following.follow(id, last_event_id)

    def active(self) -> list[Job]:
        """Those that have not ended."""
        return self._ledger.active()

    @property
    def listing(self) -> JobListing:
        """Numbers: totals, statistics."""
        return self._listing


def checked(new: NewJob, config: Config) -> NewJob:
    """The job as it may be done here. ForbiddenError (JOBS_DISABLED), ValidationError."""
    if not config.enabled:
        raise ForbiddenError("this board runs no jobs: see jobs.enabled", code="JOBS_DISABLED")
    errors = _bounds_errors(new)
    if new.timeout is not None and not 0 < new.timeout <= config.longest:
        errors.append(FieldError("timeout", f"must be more than 0 and at most {config.longest:g} s: see jobs.longest"))
    if new.user and new.user not in config.users:
        errors.append(FieldError("user", "is not one as which jobs may run: see jobs.users"))
    match new.work:
        case Command(command=text) | Script(script=text) | Archive(command=text):
            errors += _text_errors("script" if isinstance(new.work, Script) else "command", text)
            if isinstance(new.work, Command):
                errors += _text_errors("args", new.work.args, needed=False)
                if new.host is None:  # over SSH a long line is sent as a file
                    errors += _line_errors("command", new.work.line)
            if isinstance(new.work, Script):
                errors += _text_errors("shell", new.work.shell)
            if isinstance(new.work, Archive):
                errors += _line_errors("command", text)
        case Task(type=kind, payload=payload):
            work = Task(kind, types.check(kind, payload, config.task_types))
            new = msgspec.structs.replace(new, work=work)
    if errors:
        raise ValidationError(errors)
    return new


def _size(new: NewJob, limit: int) -> int:
    """Return the size in bytes of the new job in the store. Raises: ValidationError, if its content is too large."""
    size = contents.size(new.work, new.metadata)
    if size > limit:
        field = {Script: "script", Task: "payload"}.get(type(new.work), "command")
        said = f"takes {size} bytes with the metadata, and may take {limit}: see jobs.work_limit"
        raise ValidationError([FieldError(field, said)])
    return size + _RECORD_BYTES


def _bounds_errors(new: NewJob) -> list[FieldError]:
    """Check the size of the fields held in memory for each waiting job."""
    errors = []
    if len(msgspec.json.encode(new.requirements)) > _MAX_REQUIREMENTS_BYTES:
        errors.append(FieldError("requirements", f"must take at most {_MAX_REQUIREMENTS_BYTES} bytes"))
    if isinstance(new.work, Archive) and len(new.work.url) + len(new.work.filename) > _MAX_ADDRESS_CHARACTERS:
        errors.append(FieldError("fileUrl", f"must have at most {_MAX_ADDRESS_CHARACTERS} characters with the name"))
    if isinstance(new.work, Script) and len(new.work.shell) > _MAX_ADDRESS_CHARACTERS:
        errors.append(FieldError("shell", f"must have at most {_MAX_ADDRESS_CHARACTERS} characters"))
    return errors


def _line_errors(field: str, line: str) -> list[FieldError]:
    if len(line) * 4 <= _MAX_LINE_BYTES or len(line.encode(errors="replace")) <= _MAX_LINE_BYTES:
        return []
    return [FieldError(field, f"must have at most {_MAX_LINE_BYTES} bytes: no program can be given more at once")]


def _text_errors(field: str, text: str, *, needed: bool = True) -> list[FieldError]:
    if needed and not text.strip():
        return [FieldError(field, "must not be empty")]
    try:
        text.encode()
    except UnicodeEncodeError:
        return [FieldError(field, "must be text")]
    return [FieldError(field, "must not have a null character in it")] if "\0" in text else []


def _id(new: NewJob) -> str:
    """One that a second submission with the same key has too, where there is a key."""
    if new.key:
        return str(uuid.uuid5(_NAMESPACE, json.dumps([new.origin, new.submitted_by, new.key])))
    return new.id or time_ordered()


def time_ordered() -> str:
    """A UUID of version 7 (RFC 9562): those made later sort later."""
    stamp = int(time.time() * 1000) & ((1 << 48) - 1)
    # It is no secret; to ask the kernel takes as long as the submission, where other threads are busy.
    value = stamp << 80 | random.getrandbits(80)
    value = value & ~(0xF << 76) | 7 << 76
    return str(uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62))


def _digest(new: NewJob) -> str:
    """What tells whether a key was given with the same job."""
    return hashlib.sha256(msgspec.json.encode([new.key, new.work, new.host, new.requirements])).hexdigest()[:32]
