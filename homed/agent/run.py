"""One run of a job's commands: a shell in a session of its own, its output read as it comes, its whole tree ended."""

import asyncio
import os
import secrets
import signal
import subprocess
from pathlib import Path

from homed import atomic
from homed.agent.spool import PIECE, Spool
from homed.jobs.runners import waiting
from homed.jobs.spawner.processes import Tracked, look

MARK_FILE = "run"
_SHELL = "/bin/sh"
_GRACE = 0.5


class Run:
    """`folder` is where the commands begin. They run line by line, and stop at the first that fails."""

    def __init__(self, commands: str, folder: Path, job: str, stdout: Spool, stderr: Spool):
        self._commands = commands
        self._folder = folder
        self._job = job
        self._spools = (stdout, stderr)
        # In the place of an attempt's number, which nobody tells a worker: its processes bear both.
        self._mark = secrets.randbits(62)

    async def to_its_end(self) -> int:
        """The exit code; 128 and the signal's number where one ended it. Where it is cancelled, its tree is ended by
        TERM, and by KILL 1.5 s later. Nothing of it is left either way. OSError.
        """
        # What an agent that is killed leaves behind, the next one ends by this.
        await asyncio.to_thread(atomic.write, self._folder.parent / MARK_FILE, f"{self._mark} {self._job}".encode())
        # Not on a thread: where this is cancelled meanwhile, nobody would know of it.
        process = self._start()
        readers = [
            asyncio.create_task(self._read(pipe, spool))
            for pipe, spool in zip((process.stdout, process.stderr), self._spools, strict=True)
        ]
        found = look(process.pid)
        tracked = Tracked(self._job, self._mark, process.pid, found.started if found else 0)
        try:
            await waiting.gone(tracked.pid, tracked.started)
            # What it left running holds its output open.
            await asyncio.wait(readers, timeout=_GRACE)
            await waiting.end(tracked)
            await asyncio.wait(readers, timeout=_GRACE)
        finally:
            await waiting.end(tracked)
            await waiting.gone(tracked.pid, tracked.started)
            for reader in readers:
                reader.cancel()
            failed = await asyncio.gather(*readers, return_exceptions=True)
            code = process.wait()  # not before: until then nobody else can have its number
        for error in failed:
            if isinstance(error, Exception):
                raise error
        return code if code >= 0 else 128 - code

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._folder),
            "LANG": "C.UTF-8",
            "HOMED_JOB_ID": self._job,
            "HOMED_JOB_ATTEMPT": str(self._mark),
        }
        return subprocess.Popen(
            [_SHELL, "-e", "-c", self._commands],
            cwd=self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    async def _read(self, pipe: object, spool: Spool) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=2 * PIECE)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while data := await reader.read(2 * PIECE):
                await spool.write(data)
        finally:
            transport.close()


async def end_leftovers(folder: Path) -> None:
    """What an agent that was killed has left running of the job in this folder."""
    try:
        mark = (folder / MARK_FILE).read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return
    number, _, job = mark.partition(" ")
    if number.isdecimal() and job:
        await waiting.end(Tracked(job, int(number), 0, 0))


def signal_name(code: int) -> str:
    """For what is written into the log."""
    try:
        return signal.Signals(code - 128).name if code > 128 else str(code)
    except ValueError:
        return str(code)
