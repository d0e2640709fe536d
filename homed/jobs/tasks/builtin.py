"""Runs the tasks that homed does itself: echo, sleep, system_info and http_request."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from homed.config.jobs import JobHttp
from homed.errors import HomedError, JobError
from homed.jobs.ports import Attempt
from homed.jobs.records import Handle, Job, Result, State, Task
from homed.jobs.tasks import http
from homed.jobs.tasks.types import HttpRequest, check

_TOLD_EVERY = 0.5


class Builtin:
    """A `ports.Runner`. `info` gives what system_info answers; `is_own` tells where homed itself listens."""

    def __init__(
        self,
        info: Callable[[], Awaitable[Mapping[str, Any]]],
        config: Callable[[], JobHttp],
        is_own: Callable[[str, int], bool],
    ):
        self._info = info
        self._config = config
        self._is_own = is_own
        self._running: dict[str, asyncio.Task[Result]] = {}

    async def run(self, attempt: Attempt) -> Result:
        await attempt.started(Handle(runner="builtin"))
        task = asyncio.create_task(self._do(attempt))
        self._running[attempt.job.id] = task
        try:
            await asyncio.wait([task])
        finally:
            self._running.pop(attempt.job.id, None)
            task.cancel()
        if task.cancelled():
            return Result(code="CANCELLED", error="it was ended")
        return task.result()

    async def resume(self, attempt: Attempt) -> Result | None:
        """What changes nothing is done again; of a request nobody knows whether it was made."""
        job = attempt.job
        if job.state is State.RUNNING and isinstance(job.work, Task) and job.work.type == "http_request":
            return Result(code="JOB_LOST", error="homed ended while the request was made")
        return None

    async def kill(self, job: Job) -> None:
        task = self._running.get(job.id)
        if task is not None:
            task.cancel()

    async def release(self, job: Job) -> None:
        """Nothing is kept."""

    async def sweep(self, active: Callable[[], Sequence[Job]]) -> None:
        """Nothing outlives homed here."""

    async def close(self) -> None:
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _do(self, attempt: Attempt) -> Result:
        work = attempt.job.work
        if not isinstance(work, Task):
            raise JobError(f"a {attempt.job.kind} is no task", code="JOB_NOT_STARTED")
        # It was checked when it was submitted, by another version of homed perhaps.
        payload = check(work.type, work.payload, (work.type,))
        match work.type:
            case "echo":
                return Result(data={"echo": plain(work.payload)})
            case "sleep":
                return await _sleep(float(payload["duration"]), attempt.progress)
            case "system_info":
                return await self._system_info()
            case "http_request":
                return await http.request(msgspec.convert(payload, HttpRequest), self._config(), self._is_own)
            case _:
                raise JobError(f"a task {work.type!r} is not one of homed's own", code="JOB_NOT_STARTED")

    async def _system_info(self) -> Result:
        try:
            return Result(data=plain(await self._info()))
        except HomedError as error:
            return Result(code=error.code, error=error.message)


async def _sleep(duration: float, progress: Callable[[float], None]) -> Result:
    loop = asyncio.get_running_loop()
    began = loop.time()
    while (slept := loop.time() - began) < duration:
        progress(slept / duration)
        await asyncio.sleep(min(_TOLD_EVERY, duration - slept))
    return Result(data={"slept": duration})


def plain(data: Any) -> Any:
    """As JSON has it; a number that is none there (infinite, or not a number) becomes null."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    return data if isinstance(data, str | int | None) else plain(msgspec.to_builtins(data))
