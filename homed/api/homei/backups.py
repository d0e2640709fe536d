"""`/api/v1/backups`: the board's backups, what is done with them, and how that goes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import unquote

from aiohttp import web
from msgspec import UNSET

from homed.access.scopes import Scope
from homed.api import transfers
from homed.api.homei.backup_answers import (
    BackupDetails,
    BackupList,
    Copying,
    Created,
    Deleted,
    Done,
    NewBackup,
    Opening,
    OperationList,
    OperationShown,
    Pruned,
    Pruning,
    Restoring,
    ScheduleList,
    ScheduleRun,
    ScheduleShown,
    Unlocking,
    Verdict,
    Waiting,
    details,
    shown,
    summary,
)
from homed.api.routes import Call, Handler, Route
from homed.backups import names
from homed.backups.failures import error_of
from homed.backups.records import Backup, Operation, OperationKind, State
from homed.backups.retention import Retained
from homed.backups.schedules import Scheduled
from homed.backups.wishes import RestoreWish, Wish
from homed.backups.worker.messages import Unlock
from homed.errors import BackupConflictError, FieldError, ForbiddenError, HomedError, NotFoundError, ValidationError

PATH = "/api/v1/backups"
MEDIA = {names.PLAIN: "application/gzip", names.SEALED: "application/x-tar"}
T = TypeVar("T")


class Operations(Protocol):
    """The newest first."""

    def all(self) -> Sequence[Operation]: ...

    def get(self, id: str) -> Operation: ...


class Backups(Protocol):
    """What is asked of the backups. What it returns as an operation goes on by itself: `wait` tells of its end."""

    def all(self) -> Sequence[Backup]: ...

    def get(self, name: str) -> Backup: ...

    def path(self, name: str) -> Path:
        """BackupConflictError where it has none."""
        ...

    async def create(self, wish: Wish) -> Operation: ...

    async def restore(self, name: str, wish: RestoreWish) -> Operation: ...

    async def verify(self, name: str, unlock: Unlock | None) -> Operation: ...

    async def copy(self, name: str, target: str) -> Operation: ...

    async def receive(self, name: str, chunks: AsyncIterator[bytes], unlock: Unlock | None) -> Operation: ...

    async def delete(self, name: str) -> Operation: ...

    async def prune(self, *, dry_run: bool) -> Retained: ...

    async def unlock(self, *, force: bool) -> Operation: ...

    async def schedules(self) -> Sequence[Scheduled]: ...

    async def run_schedule(self, name: str) -> Operation | None: ...

    @property
    def operations(self) -> Operations: ...

    async def cancel(self, id: str) -> Operation: ...

    async def wait(self, id: str) -> Operation: ...


class StoppingError(HomedError):
    """homed ends before the answer could be known."""

    code = "STOPPING"
    status = 503
    grpc = "UNAVAILABLE"


def routes(backups: Backups, max_upload: Callable[[], int], stopping: asyncio.Event) -> list[Route]:
    """`max_upload` in bytes. Who waits, sends or receives is sent away as soon as `stopping` is set."""
    resource = _Resource(backups, max_upload, stopping)

    def route(method: str, path: str, handler: Handler, summary: str, response: object, **more: Any) -> Route:
        more = {"limit": "backups", "scope": Scope.OPERATE, **more}
        return Route(method, f"{PATH}{path}", handler, summary, "Backups", response=response, **more)

    def read(path: str, handler: Handler, summary: str, response: object, **more: Any) -> Route:
        # Not of the class of those that change something: who follows an operation has to look often.
        return route("GET", path, handler, summary, response, limit="system", scope=Scope.READ, **more)

    def act(path: str, handler: Handler, summary: str, response: object, change: str, **more: Any) -> Route:
        more = {"query": Waiting, "statuses": (202,), "optional": True, **more}
        more["errors"] = (400, 404, 409, 500, 503, *more.get("errors", ()))
        return route("POST", path, handler, summary, response, change=change, **more)

    admin: dict[str, Any] = {"scope": Scope.ADMIN}
    one, name = "/{backup_name}", {"params": {"backup_name": "The backup's name."}}
    operation = {"params": {"operation_id": "The operation's id."}}
    schedule = {"params": {"schedule_name": "The schedule's name."}}
    return [
        read("", resource.list, "List backups", BackupList),
        act("", resource.create, "Make a backup", Created, "backup.create", body=NewBackup, status=201,
            errors=(502, 507)),
        act("/prune", resource.prune, "Remove what retention does not keep", Pruned, "backup.prune", body=Pruning,
            query=None, statuses=(), errors=(502,)),
        act("/unlock", resource.unlock, "Remove the repository's locks", Done, "backup.unlock", body=Unlocking,
            errors=(422, 502), **admin),
        read("/operations", resource.operations, "List what was done with backups", OperationList),
        read("/operations/{operation_id}", resource.operation, "Get an operation", OperationShown, errors=(404,),
             **operation),
        act("/operations/{operation_id}/cancel", resource.cancel, "Cancel an operation", Done, "backup.cancel",
            query=None, **operation),
        read("/schedules", resource.schedules, "List the schedules", ScheduleList),
        act("/schedules/{schedule_name}/run", resource.run_schedule, "Do what a schedule says, now", ScheduleRun,
            "backup.run_schedule", errors=(422, 502, 507), **schedule),
        read(one, resource.get, "Get a backup", BackupDetails, errors=(404,), **name),
        route("DELETE", one, resource.delete, "Delete a backup", Deleted, change="backup.delete",
              errors=(404, 409, 500, 502), **name),
        route("PUT", one, resource.upload, "Upload an archive", BackupDetails, status=201, change="backup.upload",
              uploads=(*MEDIA.values(), "application/octet-stream"),
              errors=(400, 404, 409, 413, 422, 503, 507), **name, **admin),
        route("GET", f"{one}/download", resource.download, "Download an archive", None, change="backup.download",
              streams=tuple(MEDIA.values()), statuses=(206, 304), errors=(404, 409, 416), **name, **admin),
        act(f"{one}/restore", resource.restore, "Restore a backup", Done, "backup.restore", body=Restoring,
            errors=(422, 502, 507), **name, **admin),
        act(f"{one}/verify", resource.verify, "Read a backup to its end", Done, "backup.verify", body=Opening,
            errors=(422, 502, 507), **name),
        act(f"{one}/copy", resource.copy, "Copy an archive to a target", Done, "backup.copy", body=Copying,
            optional=False, errors=(502,), **name),
    ]  # fmt: skip


class _Resource:
    def __init__(self, backups: Backups, max_upload: Callable[[], int], stopping: asyncio.Event):
        self._backups = backups
        self._max_upload = max_upload
        self._stopping = stopping

    async def list(self, call: Call) -> BackupList:
        return BackupList([summary(backup) for backup in self._backups.all()])

    async def get(self, call: Call) -> BackupDetails:
        return details(self._backups.get(_name(call)))

    async def create(self, call: Call) -> object:
        wanted: NewBackup = call.body
        begun = await self._backups.create(Wish(wanted.name, wanted.type, wanted.include_data))
        if not call.query.wait:
            return 202, Created(
                name=begun.backup, status="creating", message="Backup is being created", operation_id=begun.id
            )
        ended = await self._ended(begun)
        return 201, Created(
            name=ended.backup,
            status="created",
            message="Backup created successfully",
            operation_id=ended.id,
            warnings=ended.warnings,
        )

    async def restore(self, call: Call) -> object:
        wanted: Restoring = call.body
        if wanted.file_settings and not call.control:
            raise ForbiddenError(
                "settings that can be set in homed.toml only are never restored over the API: on the board, as root, "
                "use `homed backup restore --file-settings`"
            )
        wish = RestoreWish(
            services=wanted.services,
            volumes=wanted.volumes,
            config=wanted.config,
            keys=wanted.keys,
            file_settings=wanted.file_settings,
            dry_run=wanted.dry_run,
            unlock=wanted.unlock,
        )
        begun = await self._backups.restore(_name(call), wish)
        if wanted.dry_run:
            return await self._done(call, begun, "planned", "Nothing was changed: the plan says what would be")
        return await self._done(call, begun, "restored", "Backup restored successfully")

    async def verify(self, call: Call) -> object:
        begun = await self._backups.verify(_name(call), call.body.unlock)
        return await self._done(call, begun, "verified", "Backup verified successfully")

    async def copy(self, call: Call) -> object:
        begun = await self._backups.copy(_name(call), call.body.target)
        return await self._done(call, begun, "copied", "Backup copied successfully")

    async def delete(self, call: Call) -> Deleted:
        await self._ended(await self._backups.delete(_name(call)))
        return Deleted("deleted", "Backup deleted successfully")

    async def prune(self, call: Call) -> Pruned:
        wanted: Pruning = call.body
        found = await self._unless_stopping(self._backups.prune(dry_run=wanted.dry_run))
        kept, removed = ([Verdict(one.backup.name, one.reason) for one in part] for part in found)
        return Pruned(kept, removed, wanted.dry_run)

    async def unlock(self, call: Call) -> object:
        begun = await self._backups.unlock(force=call.body.force)
        return await self._done(call, begun, "unlocked", "The repository has no locks any more")

    async def upload(self, call: Call) -> BackupDetails:
        name = names.known(call.path["backup_name"])
        if not name.extension:
            raise ValidationError(
                [
                    FieldError(
                        "backup_name", f"must end in {' or '.join(MEDIA)}: a snapshot is no file that could be sent"
                    )
                ]
            )
        if self._is_there(str(name)):
            raise BackupConflictError(f"there is a backup '{name}' already", code="BACKUP_EXISTS")
        chunks = transfers.received(call.request, self._max_upload())
        begun = await self._unless_stopping(self._backups.receive(str(name), chunks, _unlock(call.request)))
        return details(self._backups.get((await self._ended(begun)).backup))

    async def download(self, call: Call) -> web.StreamResponse:
        name = _name(call)
        path = self._backups.path(name)
        sent = transfers.send(call.request, path, MEDIA[names.known(name).extension])
        try:
            return await self._unless_stopping(sent)
        except StoppingError:
            # Begun or not, it cannot be ended: who asked for it goes on with Range.
            transfers.abort(call.request)
            raise

    async def operations(self, call: Call) -> OperationList:
        return OperationList([shown(one) for one in self._backups.operations.all()])

    async def operation(self, call: Call) -> OperationShown:
        return shown(self._backups.operations.get(call.path["operation_id"]))

    async def cancel(self, call: Call) -> Done:
        operation = await self._backups.cancel(call.path["operation_id"])
        if operation.state is State.CANCELLED:
            return Done(status="cancelled", message="It was cancelled", operation_id=operation.id)
        return Done(
            status="cancelling", message="It ends as soon as nothing is left half done", operation_id=operation.id
        )

    async def schedules(self, call: Call) -> ScheduleList:
        operations = self._backups.operations.all()
        return ScheduleList([_shown(one, operations) for one in await self._backups.schedules()])

    async def run_schedule(self, call: Call) -> object:
        begun = await self._backups.run_schedule(call.path["schedule_name"])
        if begun is None:
            return ScheduleRun(status="nothing", message="There is nothing to do")
        if not call.query.wait:
            return 202, _ran(begun, _UNDER_WAY[begun.kind], "It is under way")
        done = "created" if begun.kind is OperationKind.CREATE else "verified"
        return _ran(await self._ended(begun), done, f"Backup {done} successfully")

    async def _done(self, call: Call, begun: Operation, status: str, message: str) -> object:
        if not call.query.wait:
            return 202, Done(status=_UNDER_WAY[begun.kind], message="It is under way", operation_id=begun.id)
        ended = await self._ended(begun)
        planned = status == "planned"
        return Done(
            status=status,
            message=message,
            operation_id=ended.id,
            warnings=ended.warnings,
            result=UNSET if planned else ended.result,
            plan=cast("Mapping[str, object]", ended.result.get("plan", {})) if planned else UNSET,
        )

    async def _ended(self, begun: Operation) -> Operation:
        """Wait for its end, which comes also where nobody waits. The error that it failed with."""
        try:
            operation = await self._unless_stopping(self._backups.wait(begun.id))
        except StoppingError as error:
            error.details.update(operation_id=begun.id, name=begun.backup)
            raise
        if operation.state is not State.SUCCEEDED:
            raise error_of(operation)
        return operation

    async def _unless_stopping(self, work: Coroutine[Any, Any, T]) -> T:
        task, stopping = asyncio.create_task(work), asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise StoppingError("homed is stopping: what came of it is told when it is there again")
        finally:
            task.cancel()
            stopping.cancel()
            await asyncio.gather(task, stopping, return_exceptions=True)

    def _is_there(self, name: str) -> bool:
        try:
            self._backups.get(name)
        except NotFoundError:
            return False
        return True


_UNDER_WAY: Mapping[OperationKind, str] = {
    OperationKind.CREATE: "creating",
    OperationKind.RESTORE: "restoring",
    OperationKind.VERIFY: "verifying",
    OperationKind.COPY: "copying",
    OperationKind.UNLOCK: "unlocking",
}


def _name(call: Call) -> str:
    """The name of the path, which may hold anything: what no backup can be called is not looked for."""
    return str(names.known(call.path["backup_name"]))


def _unlock(request: web.Request) -> Unlock | None:
    """What opens an archive that is sent: in headers, percent-encoded, as the body is the archive itself."""
    passphrase, identity = (request.headers.get(f"X-Backup-{one}") for one in ("Passphrase", "Identity"))
    if passphrase is None and identity is None:
        return None
    return Unlock(None if passphrase is None else unquote(passphrase), identity)


def _ran(operation: Operation, status: str, message: str) -> ScheduleRun:
    return ScheduleRun(
        status=status,
        message=message,
        name=operation.backup,
        operation_id=operation.id,
        warnings=operation.warnings,
    )


def _shown(scheduled: Scheduled, operations: Sequence[Operation]) -> ScheduleShown:
    schedule = scheduled.schedule
    return ScheduleShown(
        name=schedule.name,
        calendar=schedule.calendar,
        action=schedule.action,
        type=schedule.type,
        include_data=schedule.include_data,
        copy_to=schedule.copy_to,
        next_run=scheduled.next,
        last_run=scheduled.last,
        problem=scheduled.problem,
        last_operation=next((shown(one) for one in operations if one.schedule == schedule.name), None),
    )
