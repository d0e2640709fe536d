"""A job's states and its output as one sequence that can be followed, and taken up again where it was left."""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from homed.jobs.output.output import Output, Piece
from homed.jobs.output.outputs import Outputs
from homed.jobs.output.signals import Signal
from homed.jobs.records import Job, State

_ID = re.compile(r"(\d{1,9})-(\d{1,18})-(\d{1,2})", re.ASCII)
_STATES = tuple(State)
_COMPLETE = 50
_HAS_OUTPUT = frozenset({State.ASSIGNED, State.RUNNING})
_LOOK = 0.2


class Place(NamedTuple):
    """How far a follower is: in the output of an attempt, and the last state that it was told (its number, 0: none).

    The number of a state is its place in `State`, from 1; from 51 on it was told the end too.
    """

    attempt: int
    position: int = 0
    told: int = 0

    @property
    def id(self) -> str:
        return f"{self.attempt}-{self.position}-{self.told}"

    @property
    def complete(self) -> bool:
        return self.told > _COMPLETE

    @property
    def state(self) -> State | None:
        """The one that was told last."""
        number = self.told % _COMPLETE
        return _STATES[number - 1] if number else None


class Item(NamedTuple):
    """`piece` is output, of the attempt in `place`; without one it is the job's new state, or, where `complete`, that
    nothing more comes. `id` is what to come back with to go on after it.
    """

    place: Place
    job: Job
    piece: Piece | None = None

    @property
    def id(self) -> str:
        return self.place.id

    @property
    def complete(self) -> bool:
        return self.place.complete


class Entry(Protocol):
    """A job as it is now; `changed` is set when it is another, and a new one stands there then."""

    @property
    def job(self) -> Job: ...

    @property
    def changed(self) -> asyncio.Event: ...


class Ledger(Protocol):
    async def entry(self, id: str) -> Entry:
        """NotFoundError."""
        ...


def place(last_event_id: str, job: Job) -> Place:
    """Where somebody goes on who has seen an event of this id; what is no id of this job is the start."""
    match = _ID.fullmatch(last_event_id)
    start = Place(job.attempt)
    if match is None:
        return start
    found = Place(*(int(number) for number in match.groups()))
    if found.attempt > job.attempt or not _is_number(found.told):
        return start
    return found


def is_over(last_event_id: str, job: Job) -> bool:
    """Whether who has seen an event of this id has seen all that there will be, as far as one can tell."""
    found = place(last_event_id, job)
    return job.ended and found.attempt == job.attempt and found.told == _COMPLETE + _number(job.state)


class _Feed:
    """What is new of one job, for all who follow it: one task waits for its changes."""

    def __init__(self, entry: Entry):
        self.entry = entry
        self.users = 0
        self._signal = Signal()
        self._outputs: dict[int, Output] = {}
        self._task = asyncio.create_task(self._run(), name="following a job")

    @property
    def job(self) -> Job:
        return self.entry.job

    def output(self, attempt: int) -> Output | None:
        return self._outputs.get(attempt)

    async def attend(self, attempt: int, found: Output) -> None:
        """Be told what comes of this output too. JobError."""
        await found.load()
        if attempt not in self._outputs:
            self._outputs[attempt] = found
            found.listen(self._signal.tell)

    async def changed(self) -> None:
        """Until there is something new; soon, where the output of a running job is not there yet."""
        if self.job.attempt in self._outputs or self.job.state not in _HAS_OUTPUT:
            await self._signal.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK):
                await self._signal.wait()

    def close(self) -> None:
        self._task.cancel()
        for output in self._outputs.values():
            output.unlisten(self._signal.tell)

    async def _run(self) -> None:
        while True:
            changed = self.entry.changed
            self._signal.tell()
            await changed.wait()


class Following:
    """Any number of followers of any number of jobs, each at its own pace."""

    def __init__(self, ledger: Ledger, outputs: Outputs):
        self._ledger = ledger
        self._outputs = outputs
        self._feeds: dict[str, _Feed] = {}

    async def follow(self, id: str, last_event_id: str = "") -> AsyncGenerator[Item, None]:
        """From where an event of that id was, else from the state that it is in and the beginning of its attempt's
        output; to its end. States that pass quickly may be passed over. NotFoundError, JobError.
        """
        entry = await self._ledger.entry(id)
        with self._feed(id, entry) as feed:
            at = place(last_event_id, feed.job)
            if is_over(last_event_id, feed.job):
                return
            output = await self._output(feed, at.attempt)
            if at.position > (output.end if output is not None else 0):
                at = Place(feed.job.attempt)
            at = at._replace(told=at.told % _COMPLETE)
            while True:
                output = await self._output(feed, at.attempt)
                job = feed.job
                is_past = at.attempt < job.attempt
                if output is not None and at.position < output.end and (at.told or is_past):
                    piece = await output.piece(at.position)
                    at = at._replace(position=piece.position_after)
                    yield Item(at, job, piece)
                elif (is_past or job.ended) and output is not None and not output.finished:
                    # Whoever should have done it was killed.
                    await output.finish()
                elif is_past:
                    at = Place(at.attempt + 1)
                elif at.told != _number(job.state):
                    at = at._replace(told=_number(job.state))
                    yield Item(at, job)
                elif job.ended:
                    yield Item(at._replace(told=_COMPLETE + at.told), job)
                    return
                else:
                    await feed.changed()

    async def _output(self, feed: _Feed, attempt: int) -> Output | None:
        output = feed.output(attempt)
        if output is None and attempt and (found := self._outputs.find(feed.job.id, attempt)) is not None:
            await feed.attend(attempt, found)
            return feed.output(attempt)
        return output

    @contextmanager
    def _feed(self, id: str, entry: Entry) -> Iterator[_Feed]:
        """One for all of its followers. An entry of a job that has ended is not that of its next try."""
        feed = self._feeds.get(id)
        if feed is None or feed.entry is not entry:
            feed = self._feeds[id] = _Feed(entry)
        feed.users += 1
        try:
            yield feed
        finally:
            feed.users -= 1
            if not feed.users:
                feed.close()
                if self._feeds.get(id) is feed:
                    del self._feeds[id]


def _number(state: State) -> int:
    return _STATES.index(state) + 1


def _is_number(told: int) -> bool:
    return told % _COMPLETE <= len(_STATES)
