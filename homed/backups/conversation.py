"""What homed and a worker say to each other during one operation."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping

import msgspec

from homed.backups.failures import failure_of, raised
from homed.backups.launcher import Connection
from homed.backups.records import Failure, Progress
from homed.backups.worker.messages import (
    Ask,
    Cancel,
    Done,
    Failed,
    FromHomed,
    FromWorker,
    Kill,
    Reply,
    Request,
    Told,
    Warned,
)
from homed.errors import BackupError, HomedError

log = logging.getLogger(__name__)
_decode = msgspec.json.Decoder(FromWorker)
Answer = Callable[[Mapping[str, object]], Coroutine[object, object, Mapping[str, object]]]
APPLY = "apply"


class Conversation:
    """One operation with one worker. `told` hears how far it is, `warned` what its owner should know."""

    def __init__(self, connection: Connection, told: Callable[[Progress], None], warned: Callable[[str], None]):
        self._reader, self._writer = connection
        self._told = told
        self._warned = warned
        self._cancelled = asyncio.Event()
        self._applied = False

    async def run(self, request: Request, answers: Mapping[str, Answer]) -> Done:
        """Have it done; `answers` are homed's parts of it. The worker's error, or BackupError where it is gone."""
        await self._send(request)
        return await self._until_done(answers)

    async def cancel(self) -> None:
        """Have the worker stop as soon as nothing is left half done: `run` raises then, unless it was done already."""
        self._cancelled.set()
        await self._send(Cancel())

    async def kill(self, pid: int, container: str) -> None:
        await self._send(Kill(pid=pid, container=container))

    async def _until_done(self, answers: Mapping[str, Answer]) -> Done:
        while line := await self._line():
            message = _decoded(line)
            if isinstance(message, Told):
                self._told(message.progress)
            elif isinstance(message, Warned):
                self._warned(message.message)
            elif isinstance(message, Ask):
                await self._send(await self._answer(message, answers))
            elif isinstance(message, Failed):
                raise raised(Failure(message.code, message.message, message.details))
            else:
                return message
        raise BackupError("the backup worker ended without a word: the journal may say why (it was killed?)")

    async def _answer(self, ask: Ask, answers: Mapping[str, Answer]) -> Reply:
        try:
            return Reply(data=await self._unless_cancelled(ask.what, answers[ask.what](ask.data)))
        except HomedError as error:
            failure = failure_of(error)
            return Reply(failure.message, code=failure.code, details=failure.details)
        except Exception:
            # The worker rolls back; without an answer it would repeat the same request forever.
            log.exception("homed's part of an operation on backups failed")
            return Reply("an internal error of homed's: the log says more", code=HomedError.code)

    async def _unless_cancelled(
        self, what: str, work: Coroutine[object, object, Mapping[str, object]]
    ) -> Mapping[str, object]:
        """What the worker waits for, given up where it is cancelled; but for what cannot be taken back."""
        if what == APPLY:
            self._applied = True
            return await work
        task, cancelled = asyncio.create_task(work), asyncio.create_task(self._cancelled.wait())
        try:
            await asyncio.wait((task, cancelled), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise BackupError("it was cancelled", code="BACKUP_CANCELLED")
        finally:
            task.cancel()
            cancelled.cancel()
            await asyncio.gather(task, cancelled, return_exceptions=True)

    async def _line(self) -> bytes:
        try:
            return await self._reader.readline()
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and self._cancelled.is_set() and not self._applied:
                # The worker ended as requested: homed's last message met a closed socket.
                raise BackupError("it was cancelled: the board is as it was", code="BACKUP_CANCELLED") from error
            raise BackupError(f"the backup worker cannot be understood: {error}") from error

    async def _send(self, message: FromHomed) -> None:
        try:
            self._writer.write(msgspec.json.encode(message) + b"\n")
            await self._writer.drain()
        except OSError:
            log.debug("The worker is gone")  # which the next line that is read says


def _decoded(line: bytes) -> FromWorker:
    try:
        message: FromWorker = _decode.decode(line)
    except msgspec.MsgspecError as error:
        raise BackupError(f"the backup worker cannot be understood: {error}") from error
    return message
