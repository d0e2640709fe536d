"""The backups of this board, for whoever asks: the API, the command line, the timers."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from homed.backups import launcher, names, retention, secrets, targets
from homed.backups.catalog import Catalog
from homed.backups.conversation import Conversation
from homed.backups.creating import Board, Creating
from homed.backups.failures import error_of
from homed.backups.operations import Operations, Running, Work
from homed.backups.receiving import Receiving
from homed.backups.records import Backup, Operation, OperationKind, State, Type
from homed.backups.restoring import Restoring
from homed.backups.retention import Retained
from homed.backups.schedules import Scheduled, Timers
from homed.backups.wishes import RestoreWish, Wish
from homed.backups.worker.messages import Adopt, Copy, Done, Forget, Free, Request, Unlock, Verify
from homed.backups.workplaces import interrupted, workplace
from homed.clock import now
from homed.config.backups import Backups as Config
from homed.config.backups import BackupSchedule, BackupTarget
from homed.errors import ArchiveError, BackupConflictError, HomedError, NotFoundError

log = logging.getLogger(__name__)
# The name under which what concerns the repository of snapshots is recorded.
_REPOSITORY = "repository"
_REPOSITORY_WAIT = 60.0


class Backups:
    """Everything that is done with backups. Each act is an operation; one runs at a time."""

    def __init__(
        self,
        board: Board,
        catalog: Catalog,
        operations: Operations,
        creating: Creating,
        restoring: Restoring,
        start: launcher.Start,
        timers: Timers,
        config: Callable[[], Config],
    ):
        self._board = board
        self._timers = timers
        self.catalog = catalog
        self.operations = operations
        self._creating = creating
        self._restoring = restoring
        self._start = start
        self._config = config
        self._following: set[asyncio.Task[None]] = set()
        self._receiving = Receiving(catalog, lambda: config().max_upload)

    def all(self) -> list[Backup]:
        """The newest first."""
        return self.catalog.all()

    def get(self, name: str) -> Backup:
        """NotFoundError (BACKUP_NOT_FOUND)."""
        return self.catalog.get(name)

    def path(self, name: str) -> Path:
        """Where its archive lies. BackupConflictError (BACKUP_NO_ARCHIVE) where it has none."""
        backup = self.get(name)
        if backup.type is Type.INCREMENTAL:
            raise BackupConflictError(f"{name} lies in the repository: it is no file", code="BACKUP_NO_ARCHIVE")
        return self.catalog.path(backup)

    async def create(self, wish: Wish) -> Operation:
        await self._wait_for_repository()
        self._check_whole()
        name = self._creating.name(wish)
        return await self._begin(
            OperationKind.CREATE, str(name), lambda running: self._creating.run(running, name, wish), wish.schedule
        )

    async def restore(self, name: str, wish: RestoreWish) -> Operation:
        backup = self.get(name)
        await self._wait_for_repository()
        self._check_whole()
        return await self._begin(
            OperationKind.RESTORE, name, lambda running: self._restoring.run(running, backup, wish)
        )

    def _check_whole(self) -> None:
        """BackupConflictError (BACKUP_BUSY) while data may be half old and half new."""
        self.operations.check()
        if interrupted(self._board.work):
            raise BackupConflictError("a restore was broken off and has to be ended first: try again")

    async def verify(self, name: str, unlock: Unlock | None = None, schedule: str | None = None) -> Operation:
        self.get(name)
        return await self._begin(
            OperationKind.VERIFY, name, lambda running: self._verify(running, name, unlock), schedule
        )

    async def copy(self, name: str, target: str, schedule: str | None = None) -> Operation:
        """NotFoundError (TARGET_NOT_FOUND)."""
        self.path(name)
        settings = self._target(target)
        return await self._begin(
            OperationKind.COPY, name, lambda running: self._copy(running, name, settings), schedule
        )

    async def delete(self, name: str) -> Operation:
        self.get(name)
        return await self._begin(OperationKind.DELETE, name, lambda running: self._delete(running, [name]))

    async def prune(self, *, dry_run: bool) -> Retained:
        """Remove what the rules of the schedules no longer keep, or only say what that is."""
        retained = self._retained()
        operation = None if dry_run else await self._prune()
        if operation is not None and (ended := await self.wait(operation.id)).state is not State.SUCCEEDED:
            raise error_of(ended)
        return retained

    def _retained(self) -> Retained:
        return retention.prune(self.all(), self._config().schedules, now())

    async def _prune(self, schedule: str | None = None) -> Operation | None:
        doomed = [verdict.backup.name for verdict in self._retained().removed]
        if not doomed:
            return None
        return await self._begin(
            OperationKind.PRUNE, ", ".join(doomed), lambda running: self._delete(running, doomed), schedule
        )

    async def receive(self, name: str, chunks: AsyncIterator[bytes], unlock: Unlock | None = None) -> Operation:
        """Take an archive from elsewhere: it is a backup of this board's only when it was read to its end.

        A sealed one that nothing was given for is taken as it is: nothing is known of it until it is verified.
        """
        self._receiving.check(name)
        await self._wait_for_repository()
        self.operations.check()
        partial = await self._receiving.take(name, chunks)
        try:
            while (running := self.operations.running) is not None:
                await self.wait(running.id)
            return await self._begin(
                OperationKind.RECEIVE, name, lambda running: self._receive(running, name, partial, unlock)
            )
        except BaseException:
            await asyncio.to_thread(partial.unlink, missing_ok=True)
            raise

    async def schedules(self) -> Sequence[Scheduled]:
        """Each with when it runs next, or why not."""
        return await self._timers.states()

    async def run_schedule(self, name: str) -> Operation | None:
        """Begin what a schedule says; copies and retention follow by themselves. None where nothing is to be done."""
        schedule = self.schedule(name)
        if schedule.action == "verify":
            return await self._verify_oldest(schedule)
        wish = Wish(
            name=schedule.name, type=Type(schedule.type), include_data=schedule.include_data, schedule=schedule.name
        )
        operation = await self.create(wish)
        following = asyncio.create_task(self._follow(operation.id, schedule), name=f"after {operation.backup}")
        self._following.add(following)
        following.add_done_callback(self._following.discard)
        return operation

    async def _follow(self, id: str, schedule: BackupSchedule) -> None:
        """What comes after a backup by schedule: each copy is tried although another one failed."""
        operation = await self.wait(id)
        if operation.state is not State.SUCCEEDED:
            return
        for target in schedule.copy_to:
            await self._in_turn(lambda target=target: self.copy(operation.backup, target, schedule.name))  # type: ignore[misc]
        await self._in_turn(lambda: self._prune(schedule.name))

    async def _in_turn(self, begin: Callable[[], Awaitable[Operation | None]]) -> None:
        """Begin it when nothing else is under way, and wait for its end. What goes wrong stands in its record."""
        try:
            while (running := self.operations.running) is not None:
                await self.wait(running.id)
            operation = await begin()
            if operation is not None:
                await self.wait(operation.id)
        except HomedError as error:
            log.error("What follows a backup could not be done: %s", error.message)  # noqa: TRY400

    async def stop(self) -> None:
        """homed ends."""
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        await self.operations.stop()

    def schedule(self, name: str) -> BackupSchedule:
        """NotFoundError (SCHEDULE_NOT_FOUND)."""
        for schedule in self._config().schedules:
            if schedule.name == name:
                return schedule
        raise NotFoundError(f"there is no schedule '{name[:64]}'", code="SCHEDULE_NOT_FOUND")

    async def wait(self, id: str) -> Operation:
        return await self.operations.wait(id)

    async def cancel(self, id: str) -> Operation:
        return await self.operations.cancel(id)

    async def _begin(self, kind: OperationKind, name: str, work: Work, schedule: str | None = None) -> Operation:
        await self._wait_for_repository()
        return await self.operations.begin(kind, name, work, schedule=schedule)

    async def _wait_for_repository(self) -> None:
        """Wait until the repository was read, which homed begins by itself when it starts: nobody asked for that."""
        running = self.operations.running
        if running is not None and (running.kind, running.backup) == (OperationKind.RECEIVE, _REPOSITORY):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REPOSITORY_WAIT):
                    await self.operations.wait(running.id)

    async def _verify_oldest(self, schedule: BackupSchedule) -> Operation | None:
        """What was not verified for longest, and what never was before all."""
        backups = [one for one in self.all() if not one.name.endswith(names.SEALED) or one.digest is not None]
        if not backups:
            return None
        oldest = min(backups, key=lambda one: (one.verified_at is not None, one.verified_at or one.created_at))
        return await self.verify(oldest.name, schedule=schedule.name)

    async def _verify(self, running: Running, name: str, unlock: Unlock | None) -> Mapping[str, object]:
        backup = self.get(name)
        try:
            done = await self._work(running, lambda work: self._verification(backup, work, unlock))
        except ArchiveError as error:
            if error.code in ("BACKUP_DAMAGED", "BACKUP_UNSAFE"):
                changed = msgspec.structs.replace(backup, damage=error.message, verified_at=now())
                await asyncio.to_thread(self.catalog.change, changed)
            raise
        known = self.get(name)
        found = known if done.backup is None else done.backup
        changed = msgspec.structs.replace(
            found,
            damage=None,
            verified_at=now(),
            schedule=known.schedule,
            copies=known.copies,
            uploaded=known.uploaded,
            duration=known.duration or found.duration,
        )
        await asyncio.to_thread(self.catalog.change, changed)
        return {"name": name, "members": changed.members, "data_size": changed.data_size}

    def _verification(self, backup: Backup, work: Path, unlock: Unlock | None) -> Verify:
        repository = None
        if backup.type is Type.INCREMENTAL:
            repository = secrets.repository(self._config().repository, self._board.state)
        return Verify(
            name=backup.name,
            folder=str(self.catalog.folder),
            work=str(work),
            path="" if repository else str(self.catalog.path(backup)),
            unlock=unlock,
            repository=repository,
            record=backup if repository else None,
            digest=backup.digest,
        )

    async def _receive(self, running: Running, name: str, partial: Path, unlock: Unlock | None) -> Mapping[str, object]:
        try:
            backup = await self._described(running, name, partial, unlock)
            await asyncio.to_thread(self._receiving.publish, partial, backup)
        finally:
            await asyncio.to_thread(partial.unlink, missing_ok=True)
        return {"name": name, "size": backup.size}

    async def _described(self, running: Running, name: str, path: Path, unlock: Unlock | None) -> Backup:
        """The record of an archive that came from elsewhere."""
        if unlock is None and name.endswith(names.SEALED):
            return await asyncio.to_thread(self._receiving.unopened, name, path)
        done = await self._work(running, lambda work: self._reading(name, path, work, unlock))
        if done.backup is None:
            raise ArchiveError("it is not an archive of a backup")
        return done.backup

    async def adopt(self, name: str) -> Operation:
        """Take in an archive that was put into the folder by hand."""

        async def work(running: Running) -> Mapping[str, object]:
            backup = await self._described(running, name, self.catalog.folder / name, None)
            await asyncio.to_thread(self.catalog.change, backup)
            return {"name": name, "size": backup.size}

        return await self._begin(OperationKind.RECEIVE, name, work)

    async def adopt_snapshots(self) -> Operation:
        """Take in what the repository holds: the backups of a board that was lost, or of this one before it was."""

        async def work(running: Running) -> Mapping[str, object]:
            repository = await asyncio.to_thread(secrets.repository, self._config().repository, self._board.state)
            done = await self._work(
                running, lambda work: Adopt(folder=str(self.catalog.folder), work=str(work), repository=repository)
            )
            await asyncio.to_thread(self.catalog.load)
            return done.data

        return await self._begin(OperationKind.RECEIVE, _REPOSITORY, work)

    async def unlock(self, *, force: bool) -> Operation:
        """Remove the locks that others have left in the repository. Raises: BackupConflictError (NO_REPOSITORY)."""
        repository = await asyncio.to_thread(secrets.repository, self._config().repository, self._board.state)

        async def work(running: Running) -> Mapping[str, object]:
            done = await self._work(running, lambda work: Free(work=str(work), repository=repository, force=force))
            return done.data

        return await self._begin(OperationKind.UNLOCK, _REPOSITORY, work)

    def _reading(self, name: str, path: Path, work: Path, unlock: Unlock | None) -> Verify:
        return Verify(
            name=name, folder=str(self.catalog.folder), work=str(work), path=str(path), unlock=unlock, upload=True
        )

    async def _copy(self, running: Running, name: str, target: BackupTarget) -> Mapping[str, object]:
        backup = self.get(name)
        settings = await asyncio.to_thread(targets.load, target)
        await self._work(
            running,
            lambda work: Copy(
                name=name, path=str(self.catalog.path(backup)), work=str(work), settings=settings, record=backup
            ),
        )
        known = self.get(name)
        if target.name not in known.copies:
            changed = msgspec.structs.replace(known, copies=(*known.copies, target.name))
            await asyncio.to_thread(self.catalog.change, changed)
        return {"name": name, "target": target.name}

    async def _delete(self, running: Running, doomed: list[str]) -> Mapping[str, object]:
        backups = [self.get(name) for name in doomed]
        snapshots = tuple(
            snapshot
            for backup in backups
            for snapshot in {backup.snapshot, *(section.snapshot for section in backup.sections)}
            if backup.type is Type.INCREMENTAL and snapshot is not None
        )
        for backup in backups:
            if backup.type is Type.FULL:
                await asyncio.to_thread(self.catalog.remove, backup)
        if snapshots:
            repository = await asyncio.to_thread(secrets.repository, self._config().repository, self._board.state)
            await self._work(running, lambda work: Forget(work=str(work), repository=repository, snapshots=snapshots))
            for backup in backups:
                if backup.type is Type.INCREMENTAL:
                    await asyncio.to_thread(self.catalog.remove, backup)
        return {"removed": doomed}

    async def _work(self, running: Running, request: Callable[[Path], Request]) -> Done:
        """One request to a worker of its own, that homed has no part in."""
        async with (
            workplace(self._board.work, running.id) as work,
            launcher.worker(self._start, work) as connection,
        ):
            conversation = Conversation(connection, running.tell, running.warn)
            await running.stopped_by(conversation)
            try:
                return await conversation.run(await asyncio.to_thread(request, work), {})
            finally:
                await running.stopped_by(None)

    def _target(self, name: str) -> BackupTarget:
        for target in self._config().targets:
            if target.name == name:
                return target
        raise NotFoundError(f"there is no target '{name[:64]}'", code="TARGET_NOT_FOUND")
