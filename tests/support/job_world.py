"""The core of jobs with a real store and real files, and a runner that does what the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from homed.clock import now
from homed.config.jobs import Jobs as Config
from homed.events import Event, Events
from homed.jobs.claims import Claims
from homed.jobs.ledger import Ledger
from homed.jobs.nodes import Facts, Nodes
from homed.jobs.output.outputs import Outputs
from homed.jobs.ports import Attempt
from homed.jobs.records import ENDED, Command, Handle, Job, Origin, Result, State, Work
from homed.jobs.scheduler import Scheduler
from homed.jobs.transitions import advance
from homed.store.sqlite import SqliteStore

_PATIENCE = 20.0


class Index:
    """What lists are answered from, as far as the core knows of it."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}

    def put(self, job: Job, stored: int) -> None:
        self.jobs[job.id] = job

    def drop(self, ids: Sequence[str]) -> None:
        for id in ids:
            self.jobs.pop(id, None)

    async def settle(self) -> None:
        pass


class Scripted:
    """Each attempt waits for `end` with its job's id; what is killed ends by SIGTERM. `found` is what `resume` finds:
    a result, None for never begun, or "running" for what goes on.
    """

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.killed: list[str] = []
        self.released: list[str] = []
        self.found: dict[str, Result | str | None] = {}
        self.print = b""
        self._ends: dict[str, asyncio.Future[Result]] = {}

    async def run(self, attempt: Attempt) -> Result:
        self.begun.append(attempt.job.id)
        if self.print:
            await attempt.output.write(0, self.print)  # type: ignore[arg-type]
        await attempt.started(Handle(runner="scripted", boot="b"))
        return await self._wait(attempt.job.id)

    async def resume(self, attempt: Attempt) -> Result | None:
        found = self.found.get(attempt.job.id, "running")
        if isinstance(found, str):
            return await self._wait(attempt.job.id)
        return found

    async def kill(self, job: Job) -> None:
        self.killed.append(job.id)
        self.end(job.id, Result(signal="SIGTERM"))

    async def release(self, job: Job) -> None:
        self.released.append(job.id)

    async def sweep(self, active: Callable[[], Sequence[Job]]) -> None:
        pass

    async def close(self) -> None:
        pass

    def end(self, id: str, result: Result | None = None) -> None:
        future = self._future(id)
        if not future.done():
            future.set_result(result or Result(exit_code=0))

    async def _wait(self, id: str) -> Result:
        try:
            return await asyncio.shield(self._future(id))
        finally:
            self._ends.pop(id, None)

    def _future(self, id: str) -> "asyncio.Future[Result]":
        return self._ends.setdefault(id, asyncio.get_running_loop().create_future())


class World:
    """One life of homed, as far as jobs go: `runner` serves everything that this board runs."""

    def __init__(self, folder: Path, config: Config):
        self.config = config
        self.store = SqliteStore(folder / "homed.db")
        self.events = Events()
        self.told: list[Event] = []
        self.events.listen(self.told.append)
        self.index = Index()
        self.runner = Scripted()
        self.ended: list[Job] = []
        self.outputs = Outputs(folder / "jobs", lambda: self.config.output_limit)
        self.ledger = Ledger(self.store, self.events, self.index)
        self.nodes = Nodes("board", lambda: Facts("linux", 4, 8.0, 64.0, False), lambda: self.config)
        runners = {"local": self.runner, "ssh": self.runner, "builtin": self.runner}
        self.scheduler = Scheduler(
            self.ledger, self.nodes, runners, self.outputs, lambda: self.config, self.ended.append, "boot"
        )
        self.claims = Claims(self.ledger, self.scheduler, self.outputs, lambda: self.config)

    async def submit(self, id: str, work: Work | None = None, **more: Any) -> Job:
        at = now()
        job = Job(
            id=id, origin=Origin.RETIRE, work=work or Command("true"), created_at=at, updated_at=at, **more
        )  # fmt: skip
        job = await self.ledger.add(advance(job, State.QUEUED, at))
        self.scheduler.enqueue(job)
        return job

    async def until(self, id: str, *states: State) -> Job:
        """The job, once it is in one of these states."""
        return await self.when(id, lambda job: job.state in states)

    async def over(self, id: str) -> Job:
        return await self.until(id, *ENDED)

    async def when(self, id: str, wanted: Callable[[Job], bool]) -> Job:
        async with asyncio.timeout(_PATIENCE):
            while not wanted(job := await self.ledger.get(id)):
                await asyncio.sleep(0.005)
        return job

    def states(self, id: str) -> list[str]:
        """Those that were told of, in their order."""
        return [event.data["state"] for event in self.told if event.data.get("id") == id]

    def configure(self, **changes: Any) -> None:
        self.config = msgspec.structs.replace(self.config, **changes)


@asynccontextmanager
async def world(folder: Path, **config: Any) -> AsyncIterator[World]:
    """A homed that begins on what is in the folder, and ends as one does that is stopped, or killed: without a word."""
    made = World(folder, Config(**({"retry_delay": 0.01} | config)))
    await made.store.open()
    await made.ledger.load()
    await made.scheduler.load()
    tasks = [asyncio.create_task(made.scheduler.run()), asyncio.create_task(made.outputs.run())]
    try:
        yield made
    finally:
        await made.scheduler.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        made.outputs.close()
        await made.store.close()
