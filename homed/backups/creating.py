"""Making a backup, homed's side of it: what is to be in it, who is frozen when, and the worker that does it."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, timedelta
from pathlib import Path
from typing import NamedTuple

from homed.backups import grouping, launcher, names, secrets
from homed.backups.boardstate import BoardState
from homed.backups.capturing import Capturing
from homed.backups.catalog import Catalog
from homed.backups.conversation import Conversation
from homed.backups.operations import Running
from homed.backups.ports import Capture, Services
from homed.backups.records import Backup, Type
from homed.backups.wishes import Wish
from homed.backups.worker import journal
from homed.backups.worker.messages import Create, Done, Request
from homed.backups.workplaces import unfinished, workplace
from homed.clock import now
from homed.config.backups import Backups as Config
from homed.errors import BackupConflictError, BackupError


class Board(NamedTuple):
    """What is the same for every operation. `work` holds a folder for each; `schema` is that of homed's database."""

    state: Path
    work: Path
    name: str
    architecture: str
    homed: str
    schema: int


class Creating:
    def __init__(
        self,
        board: Board,
        catalog: Catalog,
        services: Services,
        own: BoardState,
        start: launcher.Start,
        config: Callable[[], Config],
    ):
        self._board = board
        self._catalog = catalog
        self._services = services
        self._own = own
        self._start = start
        self._config = config

    def name(self, wish: Wish) -> names.Name:
        """What a backup that is made now is called: no other one has that name."""
        encrypted = wish.type is Type.FULL and self._config().encryption != "off"
        name = names.Name(wish.name, now().replace(microsecond=0), names.extension(wish.type, encrypted=encrypted))
        while self._catalog.find(str(name)) is not None:
            name = name._replace(at=name.at + timedelta(seconds=1))
        return name

    async def run(self, running: Running, name: names.Name, wish: Wish) -> Mapping[str, object]:
        """Make it. BackupError and what it is made of: then there is no backup, and no service is other than before."""
        config, started = self._config(), time.monotonic()
        seal = (
            None if wish.type is Type.INCREMENTAL else await asyncio.to_thread(secrets.seal, config, self._board.state)
        )
        repository = (
            await asyncio.to_thread(secrets.repository, config.repository, self._board.state)
            if wish.type is Type.INCREMENTAL
            else None
        )
        captures = await self._services.captures() if wish.include_data else []
        grouped = grouping.group(captures)
        draft = self._draft(name, wish, encrypted=seal is not None or repository is not None)
        if (seal is not None) != (name.extension == names.SEALED):
            raise BackupConflictError("the configuration changed meanwhile: try again")
        for missing in grouped.left_out:
            running.warn(f"left out: {missing}")
        async with workplace(self._board.work, running.id) as work:
            # The same path each time, so that restic finds what it has read before.
            state = self._board.work / "state"
            left = await asyncio.to_thread(_left_behind, self._board.work)
            request = Create(
                draft=draft,
                folder=str(self._catalog.folder),
                work=str(work),
                state=str(state),
                groups=grouped.groups,
                exclude=(str(self._catalog.folder), str(self._board.state), *left),
                level=config.compression,
                seal=seal,
                must_seal=wish.type is Type.FULL and config.encryption != "off",
                repository=repository,
                parent=self._parent(wish.name, repository.url) if repository is not None else None,
                expected=self._expected(wish),
            )
            writing = asyncio.create_task(self._own.write(state))  # while the worker starts
            try:
                done = await self._with_worker(running, work, request, captures, writing)
            finally:
                await asyncio.gather(writing, return_exceptions=True)
                await asyncio.to_thread(shutil.rmtree, state, ignore_errors=True)
                # Of a worker that was killed; one that failed has removed it, one that is done has named it.
                await asyncio.to_thread(self._catalog.drop_partial, running.id)
        if done.backup is None:
            raise BackupError("the worker has made no backup")
        self._catalog.took(done.backup)
        for section in done.backup.sections:
            if section.changed_count:
                running.warn(f"{section.name}: {section.changed_count} files changed while they were read")
        return {"name": done.backup.name, "size": done.backup.size, "seconds": round(time.monotonic() - started, 3)}

    async def _with_worker(
        self, running: Running, work: Path, request: Request, captures: Sequence[Capture], ready: Awaitable[None]
    ) -> Done:
        async with launcher.worker(self._start, work) as connection:
            conversation = Conversation(connection, running.tell, running.warn)
            capturing = Capturing(self._services, captures, running.warn, conversation.kill)
            await ready
            await running.stopped_by(conversation)
            try:
                return await conversation.run(request, {"begin": capturing.begin, "end": capturing.end})
            finally:
                await running.stopped_by(None)
                await asyncio.shield(capturing.end_all())

    def _draft(self, name: names.Name, wish: Wish, *, encrypted: bool) -> Backup:
        return Backup(
            name=str(name),
            type=wish.type,
            created_at=name.at.astimezone(UTC),
            size=0,
            include_data=wish.include_data,
            encrypted=encrypted,
            homed=self._board.homed,
            schema=self._board.schema,
            board=self._board.name,
            architecture=self._board.architecture,
            services=tuple(sorted(self._services.records())),
            schedule=wish.schedule,
        )

    def _expected(self, wish: Wish) -> int:
        like = [b for b in self._catalog.all() if (b.type, b.include_data) == (wish.type, wish.include_data)]
        return like[0].data_size if like else 0

    def _parent(self, stem: str, repository: str) -> str | None:
        """The snapshot before, in the same repository: restic compares with it."""
        found = [one for one in self._catalog.all() if one.repository == repository and one.snapshot]
        same = [one for one in found if (name := names.parse(one.name)) is not None and name.stem == stem]
        return next((one.snapshot for one in [*same, *found]), None)


def _left_behind(root: Path) -> list[str]:
    """Return the directories that restores could not remove: they may lie in a volume, but are no part of it."""
    return [str(path) for work in unfinished(root) for path in journal.left_behind(work)]
