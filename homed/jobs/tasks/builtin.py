"""Runs the tasks that homed does itself: echo, sleep, system_info and http_request.

Many may run at once: what they hold in memory of large payloads and answers until those are written down is bounded.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import msgspec

from homed.config.jobs import JobHttp
from homed.errors import HomedError, JobError
from homed.jobs.budget import Budget
from homed.jobs.ports import Attempt
from homed.jobs.records import Handle, Job, Result, State, Task
from homed.jobs.tasks import http
from homed.jobs.tasks.types import TYPES, HttpRequest, Sleep, SystemInfo, check

_TOLD_EVERY = 0.5
# Answers of more than so many bytes wait until there is room for them.
_SMALL_BYTES = 4096
_ANSWER_BYTES = 8 << 20
_COPIES = 2


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
        self._budget = Budget(_ANSWER_BYTES)
        # What an answer takes, by job, until it is durable.
        self._held: dict[str, AsyncExitStack] = {}

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
        held = self._held.pop(job.id, None)
        if held is not None:
            await held.aclose()

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
        if work.type == "echo":
            await self._hold(attempt.job.id, attempt.job.beside.work)
        async with attempt.whole() as job:
            wanted = _wanted(job)
            del job  # its payload is not held any longer
        match wanted:
            case Result():
                return wanted
            case Sleep(duration):
                return await _sleep(duration, attempt.progress)
            case SystemInfo():
                return await self._system_info()
            case HttpRequest():
                hold = partial(self._hold, attempt.job.id)
                return await http.request(wanted, self._config(), self._is_own, hold)
            case _:
                raise JobError(f"a task {work.type!r} is not one of homed's own", code="JOB_NOT_STARTED")

    async def _hold(self, id: str, size: int) -> None:
        """Reserve memory for a response, held until the response is durable."""
        if size <= _SMALL_BYTES:
            return
        stack = self._held.setdefault(id, AsyncExitStack())
        await stack.enter_async_context(self._budget.held(_COPIES * size))

    async def _system_info(self) -> Result:
        try:
            return Result(data=plain(await self._info()))
        except HomedError as error:
            return Result(code=error.code, error=error.message)


def _wanted(job: Job) -> msgspec.Struct:
    """Return the payload decoded for its task type; for an echo, its result."""
    assert isinstance(job.work, Task)
    kind, payload = job.work.type, job.work.payload
    if kind != "echo":
        # It was checked when it was submitted, by another version of homed perhaps.
        return msgspec.convert(check(kind, payload, (kind,)), TYPES[kind].payload)
    data = msgspec.json.encode({"echo": payload})
    # What is large stays JSON: its objects can take many times as much.
    return Result(data={"echo": plain(payload)} if len(data) <= _SMALL_BYTES else msgspec.Raw(data))


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
