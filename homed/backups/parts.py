"""Builds the parts of backups, of what the daemon gives; what is done at its start, and what is looked at meanwhile."""

import asyncio
import contextlib
import logging
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from homed.backups import launcher
from homed.backups.backups import Backups
from homed.backups.boardstate import BoardState
from homed.backups.catalog import Catalog
from homed.backups.creating import Board, Creating
from homed.backups.leftovers import Leftovers
from homed.backups.operations import Operations
from homed.backups.ports import Services
from homed.backups.records import Backup, Operation, OperationKind, State, Type
from homed.backups.restore_step import read_step
from homed.backups.restoring import Restoring, Settings
from homed.backups.schedules import Timers
from homed.backups.workplaces import interrupted, unfinished
from homed.clock import now
from homed.config.backups import Backups as Config
from homed.errors import BackupError, HomedError
from homed.events import Events
from homed.health import Component, Level
from homed.store.base import Store

log = logging.getLogger(__name__)
Gauge = tuple[str, str, tuple[str, ...], list[tuple[tuple[str, ...], float]]]
_LOOKS_EVERY = 30.0
FOLDER, WORK = "backups", "backup-work"
_CACHE = "restic-cache"  # what restic knows of the repository: costly to fetch anew


class Parts:
    """`load` before the services are kept, `run` while homed runs, `stop` at its end."""

    def __init__(
        self,
        backups: Backups,
        restoring: Restoring,
        services: Services,
        timers: Timers,
        events: Events,
        config: Callable[[], Config],
        work: Path,
    ):
        self.backups = backups
        self.timers = timers
        self.ended: Counter[tuple[str, str]] = Counter()
        self._restoring = restoring
        self._services = services
        self._events = events
        self._config = config
        self._work = work
        self._since = now()
        self._overdue = False
        self._last: dict[str, Operation] = {}
        self._looked_at: set[tuple[str, int]] = set()
        self._asked: set[str] = set()
        self._stuck: str | None = None
        # Their services are held, whether or not a worker that lives on ends the restore meanwhile.
        self._interrupted: set[Path] = set()
        self._broken_off = asyncio.Event()
        self._trouble = ""
        self._leftovers = Leftovers(work, restoring.clean, lambda: backups.operations.running is not None)
        backups.operations.listen(self._note)

    async def load(self) -> None:
        """Read the stored state. Services of an interrupted restore stay stopped until it ends. Raises: BackupError."""
        # First of all: no later failure may let a service see half of its data.
        for work in interrupted(self._work):
            step = await asyncio.to_thread(read_step, work)
            self._interrupted.add(work)
            self._services.keep_held(step.held, "a restore of its data was interrupted and is being ended")
        await self.backups.operations.load()
        try:
            await asyncio.to_thread(self._read)
        except OSError as error:
            raise BackupError(f"the backups cannot be read: {error}") from error

    def _read(self) -> None:
        self.backups.catalog.load()
        self.backups.catalog.sweep()
        # A worker that lives on may end its restore meanwhile: who that concerns still stands in the folder.
        needed = {*self._interrupted, *interrupted(self._work), *unfinished(self._work)}
        with contextlib.suppress(FileNotFoundError):
            for path in self._work.iterdir():
                if path not in needed and path.name != _CACHE:
                    shutil.rmtree(path, ignore_errors=True)

    async def run(self) -> None:
        """End what was interrupted, then look from time to time at what nobody tells of."""
        while True:
            for work in sorted({*self._interrupted, *interrupted(self._work)}):
                await self._recover(work)
            await self._leftovers.look()
            try:
                await self._look()
            except (HomedError, OSError) as error:
                log.warning("Backups: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOKS_EVERY):
                    await self._broken_off.wait()
            self._broken_off.clear()

    async def stop(self) -> None:
        await self.backups.stop()

    async def _recover(self, work: Path) -> None:
        """Again and again, where it cannot be done yet: a filesystem may come late."""
        operations = self.backups.operations
        if operations.running is not None:
            return  # perhaps a restore that is under way
        try:
            operation = await operations.begin(
                OperationKind.RECOVER, work.name, lambda running: self._restoring.recover(running, work)
            )
            ended = await operations.wait(operation.id)
        except HomedError as error:
            log.error("A restore that was interrupted cannot be ended: %s", error.message)  # noqa: TRY400
        else:
            self._stuck = None if ended.failure is None else ended.failure.message
            if ended.failure is None:
                self._interrupted.discard(work)

    async def _look(self) -> None:
        overdue = self.overdue() is not None
        if overdue and not self._overdue:
            self._events.publish("backup.overdue", {"message": self.overdue()})
        self._overdue = overdue
        await self._adopt()

    async def _adopt(self) -> None:
        """Take in what this board does not know of: snapshots in a repository, and archives that were put into the
        folder by hand, which are read to their end first. Once each.
        """
        if self.backups.operations.running is not None or self._trouble:
            return
        url = self._config().repository.url
        if url and url not in self._asked and not any(b.type is Type.INCREMENTAL for b in self.backups.all()):
            self._asked.add(url)
            await self.backups.adopt_snapshots()
            return
        for path in await asyncio.to_thread(self.backups.catalog.unknown):
            seen = (path.name, path.stat().st_mtime_ns)
            if seen not in self._looked_at:
                self._looked_at.add(seen)
                await self.backups.adopt(path.name)
                return

    def _note(self, operation: Operation) -> None:
        self.ended[str(operation.kind), str(operation.state)] += 1
        if operation.kind is OperationKind.RESTORE:
            self._broken_off.set()  # its services stay stopped if its worker was killed; or leftovers exist
        if operation.schedule is not None:
            self._last[operation.schedule] = operation

    def overdue(self) -> str | None:
        """Why the last good backup is too old; None where it is not, or nobody wants to know."""
        return overdue(self.backups.all(), self._config().max_age, now(), self._since)

    def tell(self) -> Component:
        """For /health: a board whose backups are old or fail works, but is not safe."""
        texts = (self._trouble, self._stuck, self._leftovers.message, self.overdue(), *self._failed())
        said = [text for text in texts if text]
        timers = self.timers.component()
        if timers.status is not Level.HEALTHY and timers.message:
            said.append(timers.message)
        damaged = [backup.name for backup in self.backups.all() if not backup.whole]
        if damaged:
            said.append(f"damaged: {', '.join(damaged[:3])}{' …' if len(damaged) > 3 else ''}")
        if said:
            return Component(Level.DEGRADED, "; ".join(said), needed=False)
        return Component(Level.HEALTHY, needed=False)

    def _failed(self) -> list[str]:
        wanted = {schedule.name for schedule in self._config().schedules}
        return [
            f"schedule {name}: {operation.failure.message}"
            for name, operation in self._last.items()
            if name in wanted and operation.state is State.FAILED and operation.failure is not None
        ]

    def gauges(self) -> list[Gauge]:
        backups, running = self.backups.all(), self.backups.operations.running
        newest = {kind: _newest(backups, kind) for kind in Type}
        there = [(str(kind), backup) for kind, backup in newest.items() if backup is not None]
        counts = Counter(str(backup.type) for backup in backups)
        verified = [
            (str(kind), max((b.verified_at for b in backups if b.type is kind and b.verified_at), default=None))
            for kind in Type
        ]
        return [
            ("homed_backups", "Backups on this board.", ("type",), [((str(k),), counts[str(k)]) for k in Type]),
            ("homed_backups_damaged", "Backups that were found damaged.", (), [
                ((), sum(not backup.whole for backup in backups)),
            ]),
            ("homed_backup_last_success_timestamp_seconds", "When the newest good backup was made.", ("type",), [
                ((kind,), backup.created_at.timestamp()) for kind, backup in there
            ]),
            ("homed_backup_age_seconds", "How old the newest good backup is.", ("type",), [
                ((kind,), (now() - backup.created_at).total_seconds()) for kind, backup in there
            ]),
            ("homed_backup_size_bytes", "How large it is.", ("type",), [((kind,), b.size) for kind, b in there]),
            ("homed_backup_duration_seconds", "How long it took.", ("type",), [((k,), b.duration) for k, b in there]),
            ("homed_backup_last_verified_timestamp_seconds", "When one was last verified.", ("type",), [
                ((kind,), at.timestamp()) for kind, at in verified if at is not None
            ]),
            ("homed_backup_operation_running", "Whether an operation is under way.", ("kind",), [
                ((str(kind),), float(running is not None and running.kind is kind)) for kind in OperationKind
            ]),
            ("homed_backup_operations_ended", "Operations that have ended since the start.", ("kind", "state"), [
                (key, float(count)) for key, count in sorted(self.ended.items())
            ]),
        ]  # fmt: skip


def overdue(backups: list[Backup], max_age: float, at: datetime, since: datetime) -> str | None:
    """`since`: when homed started: a board that has none yet has as long from then. `max_age` 0: never."""
    if not max_age:
        return None
    good = [backup.created_at for backup in backups if backup.whole and not backup.uploaded]
    if at - max(good, default=since) <= timedelta(seconds=max_age):
        return None
    return f"the last good backup is of {max(good):%Y-%m-%d %H:%M} UTC" if good else "there is no good backup"


def _newest(backups: list[Backup], kind: Type) -> Backup | None:
    return next((one for one in backups if one.type is kind and one.whole and not one.uploaded), None)


def build(
    board: Board,
    folder: Path,
    settings: Settings,
    store: Store,
    services: Services,
    events: Events,
    start: launcher.Start,
    timers: Timers,
    config: Callable[[], Config],
) -> Parts:
    """`folder` is where the archives lie."""
    catalog = Catalog(folder)
    own = BoardState(board.state, settings.file, store, services, buckets=("keys",))
    operations = Operations(store, events)
    creating = Creating(board, catalog, services, own, start, config)
    restores = Restoring(board, catalog, services, own, settings, start, config)
    backups = Backups(board, catalog, operations, creating, restores, start, timers, config)
    return Parts(backups, restores, services, timers, events, config, board.work)
