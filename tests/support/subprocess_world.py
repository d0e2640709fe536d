"""A runner of subprocesses with real outputs, without a scheduler or a store."""

import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from homed.clock import now
from homed.config.jobs import Jobs as Config
from homed.jobs.output.output import Output
from homed.jobs.output.outputs import Outputs
from homed.jobs.ports import Attempt
from homed.jobs.records import Handle, Job, Origin, Result, Work
from homed.jobs.runners.subprocess import Subprocesses
from homed.jobs.spawner import marks
from homed.jobs.spawner.processes import all_processes, mark_of
from tests.support.wait import until

BOOT = "0" * 32


class World:
    """`handles` are those of the attempts that have begun, by the job's id."""

    def __init__(self, root: Path, config: Config | None = None, boot: str = BOOT):
        self.root = root
        self.places = root / "places"
        self.uploads = root / "uploads"
        self.outputs = Outputs(root / "jobs", lambda: 1 << 30)
        self.runner = Subprocesses(self.places, self.uploads, lambda: config or Config(), boot)
        self.handles: dict[str, Handle] = {}

    def attempt(self, job: Job) -> Attempt:
        async def started(handle: Handle) -> None:
            self.handles[job.id] = handle

        return Attempt(job, self.outputs.create(job.id, job.attempt), started, lambda _: None)

    async def run(self, job: Job) -> Result:
        result = await self.runner.run(self.attempt(job))
        await self.runner.release(job)
        return result

    async def resume(self, job: Job) -> Result | None:
        result = await self.runner.resume(self.attempt(job))
        await self.runner.release(job)
        return result

    def folder(self, job: Job) -> Path:
        return self.root / "jobs" / job.id / str(job.attempt)

    def spawner_of(self, job: Job) -> int:
        spawner = marks.taken_up_by(self.folder(job))
        assert spawner is not None
        return spawner.pid

    def output(self, job: Job) -> Output:
        output = self.outputs.find(job.id, job.attempt)
        assert output is not None
        return output

    def text(self, job: Job, name: str = "stdout") -> str:
        return (self.folder(job) / name).read_text()


@asynccontextmanager
async def world(root: Path, config: Config | None = None, boot: str = BOOT) -> AsyncIterator[World]:
    one = World(root, config, boot)
    try:
        yield one
    finally:
        await one.runner.close()
        one.outputs.close()


_made = 0


def job(work: Work, **changes: Any) -> Job:
    global _made
    _made += 1
    id = f"job-{os.getpid()}-{_made}-{time.monotonic_ns()}"
    return Job(
        **{"id": id, "origin": Origin.NEWREMORA, "work": work, "created_at": now(), "updated_at": now(), "attempt": 1}
        | changes
    )


def processes_of(job: Job) -> list[int]:
    return [p.pid for p in all_processes().values() if p.alive and mark_of(p.pid)[0] == job.id]


def gone(job: Job) -> None:
    until(f"all processes of {job.id} to be gone", lambda: not processes_of(job))


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def environment(text: str) -> Mapping[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())
