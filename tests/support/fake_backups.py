"""Backups that a test makes end as it wants, behind the API's own door: no worker, no archive that means anything."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from homed.backups.records import Backup, Failure, Operation, OperationKind, Section, State, Type
from homed.backups.retention import Retained, Verdict
from homed.backups.schedules import Scheduled
from homed.backups.wishes import RestoreWish, Wish
from homed.backups.worker.messages import Unlock
from homed.config.backups import BackupSchedule
from homed.errors import BackupConflictError, HomedError, NotFoundError

AT = datetime(2024, 1, 15, 10, 0, tzinfo=UTC)
FULL = "backup-20240115-100000.tar.gz"
SEALED = "sealed-20240115-110000.age.tar"
SNAPSHOT = "nightly-20240115-120000"
SCHEDULE = BackupSchedule(name="nightly", calendar="*-*-* 02:00:00")


def backup(name: str = FULL, **more: Any) -> Backup:
    known = {
        "type": Type.FULL,
        "created_at": AT,
        "size": 1073741824,
        "services": ("postgres",),
        "sections": (Section(kind="volume", name="data", prefix="volumes/data", users=("postgres",)),),
    }
    return Backup(name=name, **{**known, **more})


class FakeOperations:
    def __init__(self) -> None:
        self.known: dict[str, Operation] = {}

    def all(self) -> Sequence[Operation]:
        return list(reversed(self.known.values()))

    def get(self, id: str) -> Operation:
        if id not in self.known:
            raise NotFoundError(f"there is no operation '{id}'", code="OPERATION_NOT_FOUND")
        return self.known[id]


class FakeBackups:
    """`asked` is what was asked for, in order. An operation ends as `ends` says as soon as `go_on` is set."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.asked: list[object] = []
        self.backups = {
            one.name: one
            for one in (
                backup(),
                backup(SEALED, encrypted=True),
                backup(SNAPSHOT, type=Type.INCREMENTAL, schedule="nightly", snapshot="ab12"),
            )
        }
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.failure: Failure | None = None
        self.refusal: HomedError | None = None
        self.result: Mapping[str, object] = {}
        self.warnings: tuple[str, ...] = ()
        self.nothing_to_do = False
        self.waited = 0
        self.tasks: set[asyncio.Task[Operation]] = set()
        self.operations = FakeOperations()

    def archive(self, data: bytes, name: str = FULL) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def all(self) -> Sequence[Backup]:
        return list(self.backups.values())

    def get(self, name: str) -> Backup:
        if name not in self.backups:
            raise NotFoundError(f"Backup '{name}' not found", code="BACKUP_NOT_FOUND")
        return self.backups[name]

    def path(self, name: str) -> Path:
        if self.get(name).type is Type.INCREMENTAL:
            raise BackupConflictError("it is no file", code="BACKUP_NO_ARCHIVE")
        return self.folder / name

    async def create(self, wish: Wish) -> Operation:
        self.asked.append(wish)
        return self._begin(OperationKind.CREATE, f"{wish.name}-20240115-103000.tar.gz")

    async def restore(self, name: str, wish: RestoreWish) -> Operation:
        self.get(name)
        self.asked.append(wish)
        return self._begin(OperationKind.RESTORE, name)

    async def verify(self, name: str, unlock: Unlock | None) -> Operation:
        self.get(name)
        self.asked.append(unlock)
        return self._begin(OperationKind.VERIFY, name)

    async def copy(self, name: str, target: str) -> Operation:
        self.get(name)
        self.asked.append(target)
        return self._begin(OperationKind.COPY, name)

    async def receive(self, name: str, chunks: AsyncIterator[bytes], unlock: Unlock | None) -> Operation:
        self.asked.append(unlock)
        operation = self._begin(OperationKind.RECEIVE, name)
        self._spawn(self._receive(operation, chunks))
        return operation

    async def delete(self, name: str) -> Operation:
        self.get(name)
        operation = self._begin(OperationKind.DELETE, name)
        del self.backups[name]
        return operation

    async def prune(self, *, dry_run: bool) -> Retained:
        self.asked.append(dry_run)
        kept, gone = self.backups[FULL], self.backups[SNAPSHOT]
        return Retained((Verdict(kept, "made by hand"),), (Verdict(gone, "no generation keeps it"),))

    async def unlock(self, *, force: bool) -> Operation:
        self.asked.append(force)
        return self._begin(OperationKind.UNLOCK, "repository")

    async def schedules(self) -> Sequence[Scheduled]:
        return [Scheduled(SCHEDULE, AT, None, None)]

    async def run_schedule(self, name: str) -> Operation | None:
        if name != SCHEDULE.name:
            raise NotFoundError(f"there is no schedule '{name}'", code="SCHEDULE_NOT_FOUND")
        if self.nothing_to_do:
            return None
        return self._begin(OperationKind.CREATE, SNAPSHOT, schedule=name)

    async def cancel(self, id: str) -> Operation:
        operation = self.operations.get(id)
        if operation.ended:
            raise BackupConflictError("it has ended already", code="OPERATION_ENDED")
        self.failure = Failure("BACKUP_CANCELLED", "it was cancelled: the board is as it was")
        self.go_on.set()
        return operation

    async def wait(self, id: str) -> Operation:
        self.waited += 1
        while not self.operations.get(id).ended:
            await asyncio.sleep(0.005)
        return self.operations.get(id)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _refuse(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def _begin(self, kind: OperationKind, name: str, schedule: str | None = None) -> Operation:
        self._refuse()
        operation = Operation(
            id=f"op{len(self.operations.known) + 1}", kind=kind, backup=name, started_at=AT, schedule=schedule
        )
        self.operations.known[operation.id] = operation
        if kind is not OperationKind.RECEIVE:
            self._spawn(self._run(operation))
        return operation

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)

    async def _run(self, operation: Operation) -> Operation:
        await self.go_on.wait()
        return self._end(operation, self.failure)

    async def _receive(self, operation: Operation, chunks: AsyncIterator[bytes]) -> Operation:
        partial = self.folder / f".partial-{operation.id}"
        failure = self.failure
        with partial.open("wb") as file:
            try:
                async for chunk in chunks:
                    await self.go_on.wait()
                    file.write(chunk)
            except HomedError as error:
                failure = Failure(error.code, error.message, error.details)
        if failure is None:
            size = partial.rename(self.folder / operation.backup).stat().st_size
            self.backups[operation.backup] = backup(operation.backup, size=size, uploaded=True)
        else:
            partial.unlink()
        return self._end(operation, failure)

    def _end(self, operation: Operation, failure: Failure | None) -> Operation:
        state = State.SUCCEEDED
        if failure is not None:
            state = State.CANCELLED if failure.code == "BACKUP_CANCELLED" else State.FAILED
        ended = msgspec.structs.replace(
            operation, state=state, failure=failure, result=self.result, warnings=self.warnings, finished_at=AT
        )
        self.operations.known[operation.id] = ended
        return ended
