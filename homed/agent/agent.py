"""The worker: known to its server, asking for work while it has room, and done with all of it before it ends."""

import asyncio
import contextlib
import logging
import os
import platform
import socket
from collections.abc import Awaitable
from pathlib import Path

import msgspec
import psutil

from homed import __version__
from homed.agent.attempt import Attempt, Job, left_report
from homed.agent.home import Home
from homed.agent.run import end_leftovers
from homed.agent.server import AwayError, KeyRefusedError, RefusedError, Server, pause
from homed.errors import HomedError
from homed.jobs.removal import remove

log = logging.getLogger(__name__)
_BEAT = 10.0
_WAIT = 20.0
_MIB = 1024 * 1024


class Agent:
    """`slots` is how many jobs it runs at once."""

    def __init__(self, server: Server, home: Home, id: str, slots: int):
        self._server = server
        self._home = home
        self._id = id
        self._slots = slots
        self._attempts: dict[str, asyncio.Task[None]] = {}
        self._running: set[str] = set()
        self._draining = asyncio.Event()
        self._changed = asyncio.Event()

    def drain(self) -> None:
        """Take nothing more, and end when what it has is done and reported."""
        log.info("Finishing %d jobs; nothing more is taken", len(self._attempts))
        self._draining.set()

    async def run(self) -> None:
        """Until it is drained. Where it is cancelled, what runs is ended, and the server will give it to another.

        KeyRefusedError where the server does not let it in.
        """
        beating: asyncio.Task[None] | None = None
        try:
            await self._take_up()
            if await self._until_draining(self._register()):
                beating = asyncio.create_task(self._beat())
                await self._until_draining(self._poll())
                await self._last_words()
            while self._attempts:
                await asyncio.wait(self._attempts.values())
        finally:
            tasks = [*self._attempts.values(), *([beating] if beating else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_draining(self, work: Awaitable[None]) -> bool:
        """Whether it came to its own end."""
        task = asyncio.ensure_future(work)
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait({task, draining}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
                return True
            return False
        finally:
            draining.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _take_up(self) -> None:
        """What is reported late; what was running when an earlier one was killed is ended, and given to another."""
        for folder in self._home.left():
            await end_leftovers(folder)
            report = left_report(folder)
            if report is None:
                await asyncio.to_thread(remove, folder)
            else:
                attempt = Attempt(report.job, folder, self._server, self._id)
                self._begin(report.job, attempt.deliver(report))

    async def _register(self) -> None:
        body = {
            "workerId": self._id,
            "hostname": socket.gethostname(),
            "os": platform.system().lower(),
            "cpuCount": os.cpu_count() or 1,
            "version": __version__,
        }
        failures = 0
        while True:
            try:
                await self._server.call("POST", "api/workers/register", body)
            except AwayError as error:
                failures += 1
                if failures == 1:
                    log.warning("The server is away: %s", error.message)
                await asyncio.sleep(pause(failures))
            else:
                log.info("Registered as %s at %s", self._id, self._server.url)
                return

    async def _beat(self) -> None:
        psutil.cpu_percent()  # it tells of the time since it was last asked
        while True:
            memory = psutil.virtual_memory()
            body = {
                "workerId": self._id,
                "cpuUsage": psutil.cpu_percent(),
                "ramFreeMb": memory.available // _MIB,
                "ramTotalMb": memory.total // _MIB,
            }
            try:
                await self._server.call("POST", "api/workers/heartbeat", body)
            except RefusedError as error:
                if error.answer == 404:
                    with contextlib.suppress(HomedError):
                        await self._register()
            except HomedError as error:
                log.debug("A heartbeat was not heard: %s", error.message)
            await asyncio.sleep(_BEAT)

    async def _poll(self) -> None:
        failures = 0
        while True:
            while len(self._running) >= self._slots:
                self._changed.clear()
                await self._changed.wait()
            try:
                await self._ask(self._slots, _WAIT)
                failures = 0
            except (AwayError, KeyRefusedError, RefusedError) as error:
                failures += 1
                if failures == 1:
                    log.warning("No work can be asked for: %s", error.message)
                await asyncio.sleep(pause(failures))
                if isinstance(error, RefusedError) and error.answer == 404:
                    with contextlib.suppress(KeyRefusedError, RefusedError):
                        await self._register()

    async def _last_words(self) -> None:
        """What was given away by an answer that nobody waited for any more is wanted elsewhere, at once."""
        with contextlib.suppress(HomedError):
            await self._ask(0, 0)

    async def _ask(self, slots: int, wait: float) -> None:
        params = [("workerId", self._id), ("wait", f"{wait:g}"), ("slots", str(slots))]
        params += [("holds", id) for id in self._attempts]
        answer = await self._server.call("GET", "api/jobs/get-job", params=params, patience=wait + 15)
        given = answer.body.get("job")
        if answer.status != 200 or given is None:
            return
        try:
            job = msgspec.convert(given, Job)
        except msgspec.ValidationError as error:
            raise AwayError(f"it gives a job that cannot be read: {error}") from error
        if job.job_id in self._attempts:
            return
        log.info("Job %s: %s", job.job_id, job.filename)
        self._running.add(job.job_id)
        self._begin(job.job_id, self._carry_out(job))

    async def _carry_out(self, job: Job) -> None:
        folder = self._home.folder(job.job_id)
        await asyncio.to_thread(_make, folder)
        await Attempt(job.job_id, folder, self._server, self._id).carry_out(job)

    def _begin(self, id: str, work: Awaitable[None]) -> None:
        task = self._attempts[id] = asyncio.ensure_future(work)

        def ended(task: "asyncio.Future[None]") -> None:
            self._attempts.pop(id, None)
            self._running.discard(id)
            self._changed.set()
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("Job %s was not brought to its end", id, exc_info=error)

        task.add_done_callback(ended)


def _make(folder: Path) -> None:
    remove(folder)
    folder.mkdir(mode=0o700)
