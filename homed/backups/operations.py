"""The operations on backups: one at a time, its progress told, and the last ones remembered."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from homed.backups.failures import failure_of, is_full
from homed.backups.records import Failure, Operation, OperationKind, Progress, State
from homed.clock import now
from homed.errors import BackupConflictError, BackupError, BackupSpaceError, HomedError, NotFoundError
from homed.events import Events
from homed.store import damage
from homed.store.base import Record, Store

log = logging.getLogger(__name__)
BUCKET = "backup_operations"
_KEPT = 50
_BETWEEN_EVENTS = 0.5
_ENDED = {
    OperationKind.CREATE: "created",
    OperationKind.RESTORE: "restored",
    OperationKind.VERIFY: "verified",
    OperationKind.COPY: "copied",
    OperationKind.RECEIVE: "received",
    OperationKind.DELETE: "deleted",
    OperationKind.PRUNE: "pruned",
    OperationKind.RECOVER: "recovered",
    OperationKind.UNLOCK: "unlocked",
}


class Cancellable(Protocol):
    async def cancel(self) -> None: ...


class Running:
    """The operation under way, for what does it: it tells how far it is, and who can stop it."""

    def __init__(self, operation: Operation, told: Callable[[Operation], None]):
        self.operation = operation
        self.cancelled = False
        self.over = asyncio.Event()
        self._told = told
        self._stops: Cancellable | None = None

    @property
    def id(self) -> str:
        return self.operation.id

    def tell(self, progress: Progress) -> None:
        self._change(msgspec.structs.replace(self.operation, progress=progress))

    def phase(self, name: str) -> None:
        self.tell(Progress(phase=name))

    def warn(self, message: str) -> None:
        log.warning("%s %s: %s", self.operation.kind, self.operation.backup, message)
        if len(self.operation.warnings) < 100:
            warnings = (*self.operation.warnings, message)
            self._change(msgspec.structs.replace(self.operation, warnings=warnings))

    def check(self) -> None:
        """BackupError (BACKUP_CANCELLED) where it was cancelled."""
        if self.cancelled:
            raise cancelled()

    async def stopped_by(self, worker: Cancellable | None) -> None:
        """Who does the work now and can be stopped."""
        self._stops = worker
        if worker is not None and self.cancelled:
            await worker.cancel()

    async def cancel(self) -> None:
        self.cancelled = True
        if self._stops is not None:
            await self._stops.cancel()

    def _change(self, operation: Operation) -> None:
        self.operation = operation
        self._told(operation)


def _interrupted(operation: Operation) -> Operation:
    failure = Failure("BACKUP_INTERRUPTED", "homed ended while it ran")
    return msgspec.structs.replace(operation, state=State.FAILED, failure=failure, finished_at=now())


def cancelled() -> BackupError:
    return BackupError("it was cancelled: the board is as it was", code="BACKUP_CANCELLED")


Work = Callable[[Running], Awaitable[Mapping[str, object]]]


class Operations:
    """Begin with `begin`; each runs as a task of its own, whoever waits for it."""

    def __init__(self, store: Store, events: Events):
        self._store = store
        self._events = events
        self._all: dict[str, Operation] = {}
        self._running: Running | None = None
        self._task: asyncio.Task[None] | None = None
        self._told_at = 0.0
        self._ended: Callable[[Operation], None] = lambda operation: None

    def listen(self, ended: Callable[[Operation], None]) -> None:
        """Have `ended` called with each operation that has ended."""
        self._ended = ended

    async def load(self) -> None:
        """Read those of earlier runs: one that was under way when homed ended was interrupted."""
        for _, operation in await damage.read_all(self._store, BUCKET, _decode):
            if not operation.ended:
                failure = Failure("BACKUP_INTERRUPTED", "homed ended while it ran")
                operation = msgspec.structs.replace(operation, state=State.FAILED, failure=failure, finished_at=now())
                await self._write(operation)
            self._all[operation.id] = operation

    @property
    def running(self) -> Operation | None:
        return None if self._running is None else self._running.operation

    def all(self) -> list[Operation]:
        """The newest first."""
        return sorted(self._all.values(), key=lambda one: (one.started_at, one.id), reverse=True)

    def get(self, id: str) -> Operation:
        """NotFoundError (OPERATION_NOT_FOUND)."""
        if id not in self._all:
            raise NotFoundError(f"there is no operation '{id[:64]}'", code="OPERATION_NOT_FOUND")
        return self._all[id]

    def check(self) -> None:
        """BackupConflictError (BACKUP_BUSY) where an operation is under way."""
        if self._running is not None:
            other = self._running.operation
            raise BackupConflictError(
                f"a {other.kind} of {other.backup} is under way: try again when it has ended, or cancel it",
                details={"operation_id": other.id, "kind": str(other.kind), "backup": other.backup},
            )

    async def begin(self, kind: OperationKind, backup: str, work: Work, *, schedule: str | None = None) -> Operation:
        """Have `work` done. BackupConflictError (BACKUP_BUSY) where another one runs."""
        self.check()
        operation = Operation(id=os.urandom(8).hex(), kind=kind, backup=backup, started_at=now(), schedule=schedule)
        running = self._running = Running(operation, self._told)
        self._all[operation.id] = operation
        try:
            await self._write(operation)
        except HomedError as error:
            # On a full disk there must yet be a way to delete a backup; what needs room says so itself.
            log.error("An operation could not be recorded: %s", error.message)  # noqa: TRY400
        except BaseException:
            self._running = None
            running.over.set()
            del self._all[operation.id]
            raise
        self._publish("started", operation)
        self._task = asyncio.create_task(self._run(running, work), name=f"backup {kind}")
        return operation

    async def wait(self, id: str) -> Operation:
        """Wait until the operation or homed has ended. Raises: NotFoundError (OPERATION_NOT_FOUND)."""
        if self._running is not None and self._running.id == id:
            await self._running.over.wait()
        return self.get(id)

    async def cancel(self, id: str) -> Operation:
        """BackupConflictError where it has ended already."""
        operation = self.get(id)
        if self._running is None or operation.ended or self._running.id != id:
            raise BackupConflictError("it has ended already", code="OPERATION_ENDED")
        await self._running.cancel()
        return self.get(id)

    async def stop(self) -> None:
        """homed ends: what runs is interrupted, and taken up or undone at the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._running is not None:  # its task had not started yet
            self._running.over.set()
        for operation in self.all():
            if not operation.ended:
                # On the disk it stays as it is: the next start says what became of it.
                self._all[operation.id] = _interrupted(operation)

    async def _run(self, running: Running, work: Work) -> None:
        try:
            try:
                ended = await self._outcome(running, work)
            finally:
                self._running = None
            await self._close(ended)
        finally:
            running.over.set()

    async def _close(self, ended: Operation) -> None:
        self._all[ended.id] = ended
        self._log(ended)
        try:
            await self._write(ended)
            await self._forget()
        except HomedError as error:
            log.error("The operation could not be recorded: %s", error.message)  # noqa: TRY400  its message says all
        self._publish(_ENDED[ended.kind] if ended.state is State.SUCCEEDED else ended.state.value, ended)
        self._ended(ended)

    async def _outcome(self, running: Running, work: Work) -> Operation:
        state, failure, result = State.SUCCEEDED, None, {}
        try:
            result = dict(await work(running))
        except HomedError as error:
            state = State.CANCELLED if error.code == "BACKUP_CANCELLED" else State.FAILED
            failure = failure_of(error)
        except Exception as error:
            log.exception("An operation on backups failed")
            state, failure = State.FAILED, Failure("INTERNAL_ERROR", "an internal error: the log says more")
            if is_full(error):
                failure = Failure(BackupSpaceError.code, "there is no space left")
        progress = running.operation.progress
        if state is State.SUCCEEDED:
            progress = msgspec.structs.replace(progress, phase="done", percent=100.0, remaining=None, service=None)
        return msgspec.structs.replace(
            running.operation, state=state, failure=failure, result=result, finished_at=now(), progress=progress
        )

    def _told(self, operation: Operation) -> None:
        self._all[operation.id] = operation
        if time.monotonic() - self._told_at >= _BETWEEN_EVENTS:
            self._told_at = time.monotonic()
            self._publish("progress", operation)

    def _publish(self, what: str, operation: Operation) -> None:
        self._events.publish(
            f"backup.{what}",
            {
                "operation_id": operation.id,
                "kind": str(operation.kind),
                "name": operation.backup,
                "schedule": operation.schedule,
                "progress": msgspec.to_builtins(operation.progress),
                "error": None if operation.failure is None else msgspec.to_builtins(operation.failure),
            },
        )

    def _log(self, operation: Operation) -> None:
        fields = {"fields": {"operation_id": operation.id, "backup": operation.backup, "kind": str(operation.kind)}}
        if operation.failure is None:
            log.info("%s of %s is done", operation.kind, operation.backup, extra=fields)
        else:
            level = logging.INFO if operation.state is State.CANCELLED else logging.ERROR
            log.log(level, "%s of %s: %s", operation.kind, operation.backup, operation.failure.message, extra=fields)

    async def _write(self, operation: Operation) -> None:
        await self._store.put(BUCKET, operation.id, msgspec.json.encode(operation), None)

    async def _forget(self) -> None:
        for operation in self.all()[_KEPT:]:
            del self._all[operation.id]
            await self._store.delete(BUCKET, operation.id, None)


def _decode(record: Record) -> Operation:
    operation = msgspec.json.decode(record.value, type=Operation)
    if operation.id != record.key:
        raise ValueError(f"it is the operation {operation.id}")
    return operation
