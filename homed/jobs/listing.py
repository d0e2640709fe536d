"""Lists and numbers of jobs: which there are, without reading their records."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from homed.clock import now
from homed.errors import StoreError
from homed.jobs.records import ENDED, Archive, Command, Job, Origin, Script, State, Task
from homed.jobs.submission import LOCAL_HOST, Query
from homed.store.listing import Column, Condition, Contains, Equals, In, Listing, Range, Row

log = logging.getLogger(__name__)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_HOUR = timedelta(hours=1)
_SEARCHED = 1024  # characters of a job's text
_DELAY, _AGAIN = 0.25, 1.0  # seconds until changes are written that nobody asks for, and after a failure

_COLUMNS = (
    Column("id"),
    Column("origin"),
    Column("state"),
    Column("kind"),
    Column("task_type"),
    Column("host"),
    Column("node"),
    Column("priority", "INTEGER"),
    Column("created_at", "INTEGER"),
    Column("started_at", "INTEGER"),
    Column("finished_at", "INTEGER"),
    Column("updated_at", "INTEGER"),
    Column("size", "INTEGER"),
    Column("duration", "REAL"),
    Column("text", folded=True),
)
# Each order that can be asked for, with what is mostly asked of it, so that rows need not be looked at; then numbers.
_INDEXES = (
    *((sort, "id", "origin", "state") for sort in ("created_at", "started_at", "finished_at", "updated_at")),
    ("priority", "id", "origin", "state"),
    ("origin", "state", "priority", "duration", "kind", "task_type", "host", "node"),
)


class Statistics(NamedTuple):
    """Of one API's jobs, or of all. `average_duration` in seconds, 0 where none has ended; `ended` in the last hour."""

    total: int
    by_state: Mapping[State, int]
    by_priority: Mapping[int, int]
    average_duration: float
    ended: int


class JobListing:
    """Told of each change with `put` and `drop`, which cost little: changes are gathered, and written by a thread of
    their own at the next question, or soon.
    """

    def __init__(self) -> None:
        self._listing = Listing(_COLUMNS, _INDEXES)
        # The newest change of each: the job and its size in the store in bytes, or None if it was removed.
        self._changed: dict[str, tuple[Job, int] | None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._listing.open()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await self._task
        await self._listing.close()

    def put(self, job: Job, stored: int) -> None:
        """Record a job; `stored` is its size in the store in bytes."""
        self._changed[job.id] = (job, stored)
        self._soon(_DELAY)

    def drop(self, ids: Sequence[str]) -> None:
        self._changed |= dict.fromkeys(ids)
        self._soon(_DELAY)

    async def page(self, query: Query) -> tuple[list[str], int]:
        """The ids on a page, and how many there are in all. StoreError."""
        await self._write()
        return await self._listing.page(
            conditions(query), query.sort, descending=query.descending, offset=query.offset, limit=query.limit
        )

    async def totals(self) -> dict[State, int]:
        """How many are in each state; every state is there."""
        await self._write()
        return _states(await self._listing.count(["state"]))

    async def statistics(self, origin: Origin | None = None) -> Statistics:
        await self._write()
        own: list[Condition] = [] if origin is None else [Equals("origin", origin)]
        by_state = _states(await self._listing.count(["state"], own))
        by_priority = await self._listing.count(["priority"], own)
        count, seconds = await self._listing.sums(["duration"], [*own, Range("duration", 0)])
        (ended,) = await self._listing.sums([], [*own, Range("finished_at", _micros(now() - _HOUR))])
        return Statistics(
            sum(by_state.values()),
            by_state,
            {int(priority): n for (priority,), n in by_priority.items() if priority is not None},
            seconds / count if count else 0.0,
            int(ended),
        )

    async def finished(self) -> tuple[int, int]:
        """Return the number of finished jobs, and the bytes of their records, content and output."""
        await self._write()
        count, size = await self._listing.sums(["size"], [Range("finished_at")])
        return int(count), int(size)

    async def finished_oldest_first(self, limit: int) -> list[tuple[str, datetime, int]]:
        """Return (id, end time, size in bytes) of the jobs that ended first."""
        await self._write()
        rows = await self._listing.rows(
            ["id", "finished_at", "size"], [Range("finished_at")], "finished_at", limit=limit
        )
        return [(str(id), _EPOCH + int(at or 0) * _MICROSECOND, int(size or 0)) for id, at, size in rows]

    def _soon(self, delay: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(delay, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._task = asyncio.get_running_loop().create_task(self.settle())

    async def settle(self) -> None:
        """All that was told is written, or it is said that it cannot be."""
        try:
            await self._write()
        except StoreError as error:
            log.error("Lists of jobs lag behind: %s", error.message)  # noqa: TRY400  its message says all

    async def _write(self) -> None:
        """What has changed; asked for at once, so that what is asked for after it sees it."""
        changed, self._changed = self._changed, {}
        if not changed:
            return
        try:
            await self._listing.put(
                [row(*one) for one in changed.values() if one is not None],
                [id for id, one in changed.items() if one is None],
            )
        except StoreError:
            self._changed = changed | self._changed
            self._soon(_AGAIN)
            raise


def row(job: Job, stored: int) -> Row:
    ended = job.state in ENDED
    return (
        job.id,
        str(job.origin),
        str(job.state),
        job.kind,
        job.work.type if isinstance(job.work, Task) else None,
        job.host,
        job.node,
        job.priority,
        _micros(job.created_at),
        _micros(job.started_at),
        _micros(job.finished_at) if ended else None,
        _micros(job.updated_at),
        job.size + stored,
        job.duration if ended else None,
        _text(job),
    )


def conditions(query: Query) -> list[Condition]:
    wanted: list[Condition] = [
        Equals(name, value)
        for name in ("origin", "node", "kind", "task_type")
        if (value := getattr(query, name)) is not None
    ]
    if query.host is not None:
        wanted.append(Equals("host", None if query.host == LOCAL_HOST else query.host))
    if query.states:
        wanted.append(In("state", [str(state) for state in query.states]))
    if query.priorities is not None:
        wanted.append(Range("priority", *query.priorities))
    if query.search:
        wanted.append(Contains("text", query.search))
    return wanted


def _text(job: Job) -> str:
    """What a person would look for."""
    match job.work:
        case Command():
            text = job.work.line
        case Script(script=text) | Archive(command=text):
            pass
        case Task(type=kind, payload=payload):
            text = " ".join(
                [kind, *(str(payload[name]) for name in ("command", "expression", "url") if name in payload)]
            )
    return text[:_SEARCHED]


def _micros(at: datetime | None) -> int | None:
    return None if at is None else (at - _EPOCH) // _MICROSECOND


def _states(counts: Mapping[Row, int]) -> dict[State, int]:
    return {state: counts.get((str(state),), 0) for state in State}
