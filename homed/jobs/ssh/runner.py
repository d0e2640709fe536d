"""Runs commands and scripts at hosts. What is there of a job is known only while a session to it lasts."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from homed.errors import HomedError, JobError
from homed.jobs.ports import Attempt
from homed.jobs.records import Command, Handle, Job, Result, Script
from homed.jobs.ssh import connections as sessions
from homed.jobs.ssh import remote
from homed.jobs.ssh.connections import Connections
from homed.jobs.ssh.listener import Listener
from homed.jobs.ssh.remote import Swept

if TYPE_CHECKING:
    from homed.jobs.ssh.session import Session

log = logging.getLogger(__name__)
NAME: Final = "ssh"
# For what a child that outlives its parent, and holds its output, may still print.
_REST: Final = 1.0
_SWEEPING: Final = 10.0
_SAID: Final = 1024


class _Running:
    """`sent` from when the command may be at the host; `killed` from when its end is brought about, `swept` is what
    came of that.
    """

    def __init__(self) -> None:
        self.work: asyncio.Task[Result] | None = None
        self.session: Session | None = None
        self.sent = False
        self.killed = False
        self.swept: Swept | None = None


class SshRunner:
    """A Runner for jobs with a host. A job ends with its first process: what it leaves behind there is ended then only
    where it holds the job's output.
    """

    def __init__(self, connections: Connections):
        self._connections = connections
        self._running: dict[str, _Running] = {}

    async def run(self, attempt: Attempt) -> Result:
        job, running = attempt.job, _Running()
        self._running[job.id] = running
        running.work = asyncio.create_task(self._run(attempt, running))
        try:
            return await asyncio.shield(running.work)
        except asyncio.CancelledError:
            if not running.work.cancelled():
                running.work.cancel()
                await asyncio.wait({running.work})
                raise
            return Result(code="JOB_NOT_STARTED", error="it was ended before it began")
        finally:
            del self._running[job.id]

    async def resume(self, attempt: Attempt) -> Result | None:
        """Its session ended with the homed that had it. What is left of it is ended, so that it does not run twice."""
        if attempt.job.handle is None:
            return None  # that is written down before anything is sent
        rest = await self._rest(attempt.job)
        said = "homed was started anew while it ran at its host, so nobody knows how it ended"
        return Result(code="JOB_LOST", error=f"{said}; {rest}")

    async def kill(self, job: Job) -> None:
        running = self._running.get(job.id)
        if running is None or running.work is None or running.work.done():
            return
        session = running.session
        running.killed = True
        if session is None:
            running.work.cancel()
            await asyncio.wait({running.work}, timeout=_REST)
            if running.sent:
                await self._sweep(job)
            return
        running.swept = await self._sweep(job)
        if running.swept is None:
            session.kill("TERM")
            await asyncio.wait({running.work}, timeout=_REST)
        # Who carries no mark any more, but stayed in the session.
        session.kill("KILL")
        await asyncio.wait({running.work}, timeout=_REST)
        session.close()

    async def release(self, job: Job) -> None:
        """Nothing is kept."""

    async def sweep(self, active: Callable[[], Sequence[Job]]) -> None:
        """Nothing of it outlives homed on this board."""

    async def close(self) -> None:
        """Its sessions end with their connections."""

    async def _run(self, attempt: Attempt, running: _Running) -> Result:
        job = attempt.job
        assert job.host is not None
        if not isinstance(job.work, Command | Script):
            raise JobError(f"a {job.kind} cannot be run at a host")

        async def before() -> None:
            await attempt.started(Handle(runner=NAME))
            running.sent = True

        async with AsyncExitStack() as stack:
            async with attempt.whole() as whole:
                assert isinstance(whole.work, Command | Script)
                order = remote.order(whole, whole.work)
                session = await stack.enter_async_context(
                    self._connections.session(job.host, order.command, before)
                )  # fmt: skip
                running.session = session
                if session.open:
                    session.send(order.text)
                listener = Listener(order.key)
                del whole, order
            await self._take(session, attempt, listener)
            if running.killed and (rest := await self._survivors(job, running)):
                return Result(exit_code=session.exit_code, signal=session.signal, code="JOB_NOT_ENDED", error=rest)
            if session.lost:
                return Result(code="SSH_LOST", error=f"the connection to its host was lost; {await self._rest(job)}")
            if listener.refused:
                return _refused(listener.refused, job)
            if not listener.begun and not session.signal:
                return _not_run(session, listener)
            return _result(session)

    async def _survivors(self, job: Job, running: _Running) -> str:
        """Return a note on processes that may have survived the end of a job; empty if there are none."""
        if running.swept is not None and not running.swept.left:
            return ""
        try:
            async with asyncio.timeout(_SWEEPING):
                swept = await self._swept(job)
        except (HomedError, TimeoutError):
            swept = None
        if swept is None:
            session = running.session
            if session is not None and session.told and running.swept is None:
                return "its first process ended; whether others of it run on at its host cannot be seen"
            return "whether its processes run on at its host cannot be seen"
        return f"{swept.left} of its processes run on at its host, and could not be ended" if swept.left else ""

    async def _take(self, session: "Session", attempt: Attempt, listener: Listener) -> None:
        """Record its output until it has ended."""
        pump = asyncio.create_task(_pump(session, attempt, listener))
        ended = asyncio.create_task(session.ended.wait())
        try:
            await asyncio.wait({pump, ended}, return_when=asyncio.FIRST_COMPLETED)
            while not pump.done():
                await asyncio.wait({pump}, timeout=_REST)
                if not pump.done() and session.quiet():
                    await self._sweep(attempt.job)
                    await asyncio.wait({pump}, timeout=_REST)
                    session.close()
            await pump
        finally:
            pump.cancel()
            ended.cancel()

    async def _rest(self, job: Job) -> str:
        """What is to be said of a job's processes that nobody heard of any more."""
        try:
            async with asyncio.timeout(_SWEEPING):
                swept = await self._swept(job)
        except (HomedError, TimeoutError) as error:
            why = error.message if isinstance(error, HomedError) else "it does not answer"
            return f"its processes may run on there: {why}"
        if swept is None:
            return "whether its processes run on there cannot be seen"
        if swept.left:
            return f"{swept.left} of its processes run on there, and could not be ended"
        return (
            "its processes that ran on there were ended" if swept.found else "none of its processes is there any more"
        )

    async def _sweep(self, job: Job) -> Swept | None:
        try:
            async with asyncio.timeout(_SWEEPING):
                return await self._swept(job)
        except (HomedError, TimeoutError) as error:
            log.warning("The processes of job %s cannot be looked for: %s", job.id, error)
            return None

    async def _swept(self, job: Job) -> Swept | None:
        assert job.host is not None
        order = remote.sweep(job)
        async with self._connections.aside(job.host, order.command) as session:
            said, _, _ = await sessions.run(session, order, _SAID)
        return remote.swept(said)


async def _pump(session: "Session", attempt: Attempt, listener: Listener) -> None:
    while (piece := await session.next()) is not None:
        if data := listener.hear(piece.stream, piece.data):
            await attempt.output.write(piece.stream, data)


def _refused(word: str, job: Job) -> Result:
    if word == "shell" and isinstance(job.work, Script):
        return Result(code="SHELL_NOT_FOUND", error=f"there is no {job.work.shell} at its host")
    if word == "cut":
        return Result(code="JOB_NOT_STARTED", error="its text did not reach its host whole")
    return Result(code="JOB_NOT_STARTED", error="its host has no room for the script in its temporary folder")


def _not_run(session: "Session", listener: Listener) -> Result:
    """Return the error for a login shell that ended without starting /bin/sh."""
    said = f"it said: {listener.noise}" if listener.noise else f"it said nothing and ended with {session.exit_code}"
    return Result(code="JOB_NOT_STARTED", error=f"the login shell at its host did not start /bin/sh to run it; {said}")


def _result(session: "Session") -> Result:
    if session.signal:
        return Result(signal=session.signal, code="SIGNAL", error=f"it was ended by {session.signal}")
    if session.exit_code:
        return Result(exit_code=session.exit_code, code="EXIT", error=f"it ended with {session.exit_code}")
    return Result(exit_code=0)
