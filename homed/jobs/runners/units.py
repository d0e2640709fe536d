"""Attempts as transient units of systemd: they go on without homed, and their ends wait for it."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

from homed import dirfd
from homed.bus.connection import CallError
from homed.bus.systemd1_jobs import Main, Program, Standing, TransientUnits, UnitExistsError
from homed.config.jobs import Jobs as Config
from homed.errors import BusUnavailableError
from homed.jobs.launch import Launch, launch
from homed.jobs.ports import Attempt
from homed.jobs.records import Handle, Job, Result, State
from homed.jobs.runners import sandbox
from homed.jobs.runners.endings import ended, lost, never_ran, not_started

log = logging.getLogger(__name__)
RUNNER = "units"
PATTERN = "homed-job-*.service"
# Signals tell; this is for those that nobody heard.
_LOOK_AGAIN = 30.0
_ASK_AGAIN = 1.0
_T = TypeVar("_T")


def unit_name(job: Job) -> str:
    suffix = f"-{job.attempt}" if job.attempt > 1 else ""
    return f"homed-job-{job.id}{suffix}.service"


class _Watch:
    """What was last told of a unit: of what came meanwhile only the newest counts."""

    def __init__(self) -> None:
        self._told = asyncio.Event()
        self._main: Main | None = None
        self.missed = False

    def tell(self, main: Main | None) -> None:
        self._main = main
        self.missed |= main is None
        self._told.set()

    def look(self) -> None:
        """Have it asked."""
        self._main = None
        self._told.set()

    async def next(self) -> Main | None:
        """None where systemd is to be asked."""
        try:
            async with asyncio.timeout(_LOOK_AGAIN):
                await self._told.wait()
        except TimeoutError:
            return None
        self._told.clear()
        return None if self.missed else self._main


class _Unit(NamedTuple):
    name: str
    attempt: Attempt
    watch: _Watch


class UnitRunner:
    """A ports.Runner. `boot` is the kernel's id of this boot; `uploads` where the executor's archives are."""

    def __init__(self, units: TransientUnits, uploads: Path, boot: str, config: Callable[[], Config]):
        self._units = units
        self._uploads = uploads
        self._boot = boot
        self._config = config
        self._watches: dict[str, _Watch] = {}
        # Those that are to end, from when that was said: also before they have begun.
        self._doomed: set[str] = set()
        self._failed: dict[str, bool] = {}

    async def run(self, attempt: Attempt) -> Result:
        """JobError where it cannot be started as it is."""
        config = self._config()
        user = attempt.job.user or config.user
        if user and user not in config.users:
            return not_started(f"no job may run as {user!r} here")
        try:
            program = await self._prepare(attempt, config)
        except OSError as error:
            return not_started(f"its files cannot be written: {error.strerror}")
        return await self._followed(attempt, lambda unit: self._first(unit, program))

    async def _prepare(self, attempt: Attempt, config: Config) -> Program:
        """Write the job's files. OSError."""
        async with attempt.whole() as job:
            described = launch(job, sandbox.place(self._uploads), config)
            await asyncio.to_thread(_write, described, attempt.output.folder)
            return sandbox.program(job, described, attempt.output, config)

    async def resume(self, attempt: Attempt) -> Result | None:
        """None where it certainly never began: assigned in this boot, and systemd knows nothing of it."""
        handle = attempt.job.handle
        if handle is not None and handle.boot != self._boot:
            return lost("the board was restarted while it ran")
        return await self._followed(attempt, self._again)

    async def kill(self, job: Job) -> None:
        """BusUnavailableError or CallError where it cannot be ended now."""
        name = unit_name(job)
        self._doomed.add(name)
        await self._units.stop(name)
        watch = self._watches.get(name)
        if watch is not None:
            watch.look()

    async def release(self, job: Job) -> None:
        name = unit_name(job)
        self._doomed.discard(name)
        self._units.release(name, failed=self._failed.pop(name, None))

    async def close(self) -> None:
        """Units go on by themselves."""

    async def sweep(self, active: Callable[[], Iterable[Job]]) -> None:
        """Let go of units whose results are durable, but homed was ended before it could. `active` are the jobs that
        have not ended, asked for after systemd.
        """
        found = await _until_asked(lambda: self._units.standings(PATTERN))
        for name in found.keys() - {unit_name(job) for job in active()}:
            self._units.release(name, failed=None)

    async def _followed(self, attempt: Attempt, act: Callable[[_Unit], Awaitable[_T]]) -> _T:
        unit = _Unit(unit_name(attempt.job), attempt, _Watch())
        self._watches[unit.name] = unit.watch
        try:
            with self._units.followed(unit.name, unit.watch.tell):
                return await act(unit)
        finally:
            del self._watches[unit.name]

    async def _first(self, unit: _Unit, program: Program) -> Result:
        unsure = False
        while unit.name not in self._doomed:
            try:
                await self._units.start(unit.name, program)
            except UnitExistsError:
                # It was heard, whatever became of the answer.
                unit.watch.tell(None)
            except BusUnavailableError as error:
                if not unsure:
                    log.warning("Job %s waits for systemd: %s", unit.attempt.job.id, error.message)
                unsure = True
                await asyncio.sleep(_ASK_AGAIN)
                continue
            except CallError as error:
                return not_started(f"systemd does not start it: {error.message}")
            return await self._to_its_end(unit)
        if unsure:
            await _until_asked(lambda: self._units.stop(unit.name))
            unit.watch.tell(None)
            return await self._to_its_end(unit)
        return Result(code="CANCELLED", error="it was ended before it began")

    async def _again(self, unit: _Unit) -> Result | None:
        handle = unit.attempt.job.handle
        if await self._standing(unit.name) is None:
            if handle is not None and not handle.unit:
                return None
            return lost("nothing is left of it: it was stopped by somebody else, or the board was restarted")
        if unit.name in self._doomed:
            await _until_asked(lambda: self._units.stop(unit.name))
        unit.watch.tell(None)
        return await self._to_its_end(unit)

    async def _to_its_end(self, unit: _Unit) -> Result:
        begun = unit.attempt.job.state is State.RUNNING
        while True:
            main = await unit.watch.next()
            try:
                standing = None
                if main is None:
                    standing, main = await self._ask(unit)
                    if main is None:
                        return self._gone(unit)
                if not begun and (main.pid or main.code):
                    begun = True
                    await unit.attempt.started(Handle(runner=RUNNER, boot=self._boot, unit=unit.name))
                if await self._is_over(unit, main, standing):
                    return await self._result(unit, main)
            except (BusUnavailableError, CallError) as error:
                log.debug("Job %s: %s", unit.attempt.job.id, error.message)
                await asyncio.sleep(_ASK_AGAIN)
                unit.watch.look()

    async def _ask(self, unit: _Unit) -> tuple[Standing | None, Main | None]:
        """How it stands, where nothing was told, or something was missed; (None, None) where it is not there."""
        missed, unit.watch.missed = unit.watch.missed, False
        try:
            if missed:
                await self._units.hold(unit.name)
            standing = (await self._units.standings(unit.name)).get(unit.name)
            return (None, None) if standing is None else (standing, await self._units.main(unit.name))
        except BusUnavailableError:
            unit.watch.missed |= missed
            raise

    async def _is_over(self, unit: _Unit, main: Main, standing: Standing | None) -> bool:
        if main.succeeded:
            self._failed[unit.name] = False
            return True
        if standing is None:
            if not main.code and main.result == "success":
                return False
            # What it has left running is being ended.
            standing = (await self._units.standings(unit.name)).get(unit.name)
        if standing is not None and standing.over:
            self._failed[unit.name] = standing.active == "failed"
        return standing is None or standing.over

    async def _result(self, unit: _Unit, main: Main) -> Result:
        """Asked once more: how it ended may have become plain only with all of it gone."""
        if main.succeeded:
            return ended(main.code, main.status, main.result)
        try:
            last = await self._units.main(unit.name)
            # Of one that is gone systemd knows nothing: what was heard of it stands.
            gone = bool(main.code) and not last.code
            main = main if gone else last
            ran = gone or (bool(main.code) and await self._units.was_active(unit.name))
            if main.result == "timeout" and not await self._ran_out(unit):
                # Time ran out for its end, when something else had ended it.
                main = main._replace(result="signal")
        except CallError:
            ran = True
        if ran:
            return ended(main.code, main.status, main.result)
        if unit.name in self._doomed:
            return Result(code="CANCELLED", error="it was ended before it began")
        return never_ran(main.code, main.status, main.result)

    async def _ran_out(self, unit: _Unit) -> bool:
        limit = unit.attempt.job.timeout
        return unit.name not in self._doomed and limit is not None and await self._units.lasted(unit.name) >= limit

    def _gone(self, unit: _Unit) -> Result:
        if unit.name in self._doomed:
            return Result(code="CANCELLED", error="it was ended")
        return lost("its unit is gone: it was stopped by somebody else")

    async def _standing(self, name: str) -> Standing | None:
        return (await _until_asked(lambda: self._units.standings(name))).get(name)


async def _until_asked(ask: Callable[[], Awaitable[_T]]) -> _T:
    """That systemd is away is no answer."""
    while True:
        try:
            return await ask()
        except BusUnavailableError:
            await asyncio.sleep(_ASK_AGAIN)


def _write(described: Launch, folder: Path) -> None:
    with dirfd.opened(str(folder)) as inside:
        for file in described.files:
            path = sandbox.real(file.path, folder)
            if path.parent != folder:
                raise OSError(22, "is not in the attempt's directory", str(path))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path.name, dir_fd=inside)
            os.close(dirfd.write(path.name, inside, file.content, file.mode))
