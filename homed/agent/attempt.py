"""One job on this worker: fetched, unpacked, run, its output sent while it comes, and its end reported."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from homed import atomic
from homed.agent.run import Run, signal_name
from homed.agent.server import Answer, AwayError, KeyRefusedError, RefusedError, Server, pause
from homed.agent.spool import PIECE, Spool
from homed.errors import HomedError
from homed.jobs.removal import remove
from homed.jobs.unpack.unpack import Limits, unpack

log = logging.getLogger(__name__)
_CHECK = 1.0
_BATCH = 0.2
_ARCHIVE_LIMIT = 4 << 30
_LIMITS = Limits(size=4 << 30, members=100_000)
_OUTPUT_LIMIT = 64 << 20
_REPORT = "report.json"
CANCELLED = 130


class Job(msgspec.Struct, frozen=True, rename="camel"):
    """As the server gives it away."""

    job_id: str
    command: str
    file_url: str
    filename: str = ""


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of it: an exit code, or why it came to none."""

    job: str
    exit_code: int | None = None
    error: str = ""


class Attempt:
    """`folder` is its own, and gone when it is over."""

    def __init__(self, id: str, folder: Path, server: Server, worker: str):
        self.id = id
        self._folder = folder
        self._server = server
        self._worker = worker
        self._changed = asyncio.Event()
        self._spools = {
            name: Spool(folder / name, _OUTPUT_LIMIT, self._changed) for name in ("stdout", "stderr")
        }  # fmt: skip
        self._over = asyncio.Event()
        self._finished = asyncio.Event()
        self._lost = False

    async def carry_out(self, job: Job) -> None:
        """To the end that the server knows of. What it does not take any more is dropped."""
        sending, watching = asyncio.create_task(self._send()), asyncio.create_task(self._watch())
        try:
            report = await self._done(job)
            await asyncio.to_thread(atomic.write, self._folder / _REPORT, msgspec.json.encode(report))
            await self._close(report, sending)
        finally:
            for task in (sending, watching):
                task.cancel()
            await asyncio.gather(sending, watching, return_exceptions=True)

    async def deliver(self, report: Report) -> None:
        """What an earlier run of this worker could not report any more."""
        await self._close(report, asyncio.create_task(self._send()))

    async def _close(self, report: Report, sending: "asyncio.Task[None]") -> None:
        self._finished.set()
        self._changed.set()
        try:
            try:
                await sending
            except OSError:
                log.exception("The output of job %s cannot be read", self.id)
            if not self._lost:
                await self._tell(report)
        finally:
            sending.cancel()
        await asyncio.to_thread(remove, self._folder)

    async def _done(self, job: Job) -> Report:
        """Whatever goes wrong is its report."""
        working = asyncio.create_task(self._work(job))
        over = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({working, over}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                working.cancel()
            code = await working
            log.info("Job %s ended with %s", self.id, signal_name(code))
            return Report(self.id, code)
        except asyncio.CancelledError:
            if not self._over.is_set():
                raise
            log.info("Job %s was ended", self.id)
            return Report(self.id, CANCELLED)
        except HomedError as error:
            log.warning("Job %s failed: %s", self.id, error.message)
            return Report(self.id, error=error.message)
        except OSError as error:
            log.warning("Job %s failed: %s", self.id, error)
            return Report(self.id, error=f"the worker cannot run it: {error.strerror or error}")
        finally:
            over.cancel()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            for spool in self._spools.values():
                await spool.finish()

    async def _work(self, job: Job) -> int:
        archive, tree = self._folder / "archive", self._folder / "tree"
        try:
            await self._server.download(job.file_url, archive, _ARCHIVE_LIMIT)
        except (AwayError, RefusedError, KeyRefusedError) as error:
            raise HomedError(f"File download failed: {error.message}") from error
        await _to_its_end(_unpack, archive, tree)
        run = Run(job.command, tree, self.id, self._spools["stdout"], self._spools["stderr"])
        return await run.to_its_end()

    async def _watch(self) -> None:
        """Whether it is still wanted, and still this worker's."""
        params = [("jobId", self.id), ("workerId", self._worker)]
        while not self._over.is_set():
            await asyncio.sleep(_CHECK)
            try:
                answer = await self._server.call("GET", "api/jobs/check-cancel", params=params)
            except (AwayError, KeyRefusedError):
                continue  # it goes on, and is reported when the server is there again
            except RefusedError as error:
                gone = error.answer == 404
            else:
                gone = bool(answer.body.get("cancelled"))
            if gone:
                self._over.set()

    async def _send(self) -> None:
        """Output as it comes, in order, until all of it is there or nobody wants it."""
        failures = 0
        while not self._lost:
            due = [spool for spool in self._spools.values() if spool.waiting]
            if not due:
                if self._finished.is_set():
                    return
                self._changed.clear()
                await self._changed.wait()
                if max(spool.waiting for spool in self._spools.values()) < PIECE:
                    await self._gather()
                continue
            try:
                for name, spool in self._spools.items():
                    if spool.waiting:
                        await self._send_piece(name, spool)
                failures = 0
            except (AwayError, KeyRefusedError):
                failures += 1
                await asyncio.sleep(pause(failures))
            except RefusedError as error:
                log.warning("The output of job %s is not wanted any more: %s", self.id, error.message)
                self._lost = True
                self._over.set()

    async def _gather(self) -> None:
        """What comes soon goes with it, unless nothing more will."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_BATCH):
                await self._finished.wait()

    async def _send_piece(self, name: str, spool: Spool) -> None:
        text = await spool.piece()
        body = {"jobId": self.id, "workerId": self._worker, "type": name, "data": text, "offset": spool.sent}
        answer = await self._server.call("POST", "api/jobs/stream-output", body, also=(409,))
        received = answer.body.get("received")
        if not isinstance(received, int):
            raise RefusedError(answer.status, str(answer.body.get("error", "it says nothing")))
        # Where the server has more, or less, than we knew of, it is right.
        spool.sent = min(received, spool.size)

    async def _tell(self, report: Report) -> None:
        """Again and again, until it is known there."""
        failures = 0
        while True:
            try:
                await self._call(report)
            except RefusedError as error:
                log.warning("The result of job %s is not wanted any more: %s", self.id, error.message)
                return
            except (AwayError, KeyRefusedError) as error:
                failures += 1
                if failures == 1:
                    log.warning("The result of job %s cannot be reported yet: %s", self.id, error.message)
                await asyncio.sleep(pause(failures))
            else:
                return

    async def _call(self, report: Report) -> Answer:
        body: dict[str, object] = {"jobId": self.id, "workerId": self._worker}
        if report.error:
            return await self._server.call("PUT", "api/jobs/submit-result", body | {"errorMessage": report.error})
        return await self._server.call("POST", "api/jobs/submit-result", body | {"exitCode": report.exit_code})


def left_report(folder: Path) -> Report | None:
    """What is still to be reported of the job in this folder."""
    try:
        return msgspec.json.decode((folder / _REPORT).read_bytes(), type=Report)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError, UnicodeDecodeError):
        return None


async def _to_its_end(work: Callable[..., None], *arguments: object) -> None:
    """On a thread, which cannot be ended: what it writes must not come after it was cleaned up."""
    task = asyncio.create_task(asyncio.to_thread(work, *arguments))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _unpack(archive: Path, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    with archive.open("rb") as file:
        unpack(file, folder, _LIMITS)
    archive.unlink()
