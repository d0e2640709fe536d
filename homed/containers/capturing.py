"""The services as backups need them: their data, held still while it is read or replaced, and their records."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from homed.config import Containers
from homed.containers import backup_labels, policy, restoring, sources
from homed.containers.engine import Engine
from homed.containers.freezing import Freezer
from homed.containers.holding import MARGIN, Holding
from homed.containers.hooks import Hooks
from homed.containers.keeper import Report
from homed.containers.mappings import parse_volume
from homed.containers.model import Container, State, from_inspect
from homed.containers.protected import Protected
from homed.containers.reconciler import Reconciler
from homed.containers.records import Service
from homed.containers.services import Services
from homed.containers.streams import Streams
from homed.containers.view import View
from homed.errors import BackupError, FieldError, NotFoundError, ValidationError
from homed.model import Capture, Hook, Source
from homed.store.base import Store

_LOOK = 10.0
_VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")


class Capturing:
    """The backup adapter of services. `protected` returns homed's own paths; `margin` is added to a service's stop
    timeout, in seconds.

    Call `recover` once the store is open and before the services are kept, `close` before the engine's.
    """

    def __init__(
        self,
        services: Services,
        reconciler: Reconciler,
        view: View,
        engine: Engine,
        streams: Streams,
        store: Store,
        config: Callable[[], Containers],
        protected: Callable[[], Protected],
        margin: float = MARGIN,
    ):
        self._services = services
        self._reconciler = reconciler
        self._view = view
        self._engine = engine
        self._config = config
        self._protected = protected
        self._hooks = Hooks(engine, streams)
        self._holding = Holding(services, reconciler, view, margin)
        self._freezer = Freezer(engine, view, store, self._holding)

    async def recover(self) -> None:
        """Let go on what a homed that was killed left frozen. StoreError."""
        await self._freezer.recover()

    async def close(self) -> None:
        await self._freezer.close()

    # What there is

    async def captures(self) -> Sequence[Capture]:
        """Every service that is not being deleted, with its data. EngineUnavailableError, EngineError."""
        services = [service for service in self._services.all() if not service.deleting]
        if services:
            self._view.require_connection()
        return [await self._capture(service) for service in services]

    async def _capture(self, service: Service) -> Capture:
        spec = service.effective
        wishes = backup_labels.wishes(spec.labels)
        volumes, paths = sources.mounted(map(parse_volume, spec.volumes))
        found = [sources.of_volume(name, await self._engine.find_volume(name), wishes.exclude) for name in volumes]
        found += [await self._look_at(path, wishes.exclude) for path in paths]
        container = self._up(service.name)
        if container is not None:
            try:
                found += sources.anonymous(await self._engine.inspect(container.id), volumes)
            except NotFoundError:
                container = None
        running = container is not None and container.state is State.RUNNING
        return Capture(service.name, wishes.mode, tuple(found), wishes.before, wishes.after, running)

    async def _look_at(self, path: str, exclude: frozenset[str]) -> Source:
        socket = self._config().engine.removeprefix("unix://")
        try:
            async with asyncio.timeout(_LOOK):
                return await asyncio.to_thread(sources.of_path, path, self._protected(), socket, exclude)
        except TimeoutError:
            return Source("path", path, "", f"it could not be looked at within {_LOOK:.0f} s")

    def container(self, name: str) -> str | None:
        """The full id of the service's container that is up."""
        container = self._up(name)
        return None if container is None else container.id

    def _up(self, name: str) -> Container | None:
        up = [container for container in self._view.of_service(name) if container.is_up]
        return max(up, key=lambda container: container.created_at, default=None)

    async def strangers(self, paths: Sequence[str], services: Sequence[str]) -> list[str]:
        """Names of containers that are up, of none of these services, and in the way of replacing these paths."""
        running = await self._engine.inspect_running()

        def look() -> list[str]:
            real = [str(Path(path).resolve()) for path in paths]
            found = []
            for inspection in running:
                container = from_inspect(inspection)
                is_theirs = container.managed and container.service in services
                if not is_theirs and sources.touches(inspection, real):
                    found.append(container.name)
            return sorted(found)

        return await asyncio.to_thread(look)

    async def find_volume(self, name: str) -> str | None:
        """The path of a volume's data; None where there is none. BackupError where it is not in its own folder."""
        volume = await self._engine.find_volume(name) if _VOLUME.fullmatch(name) else None
        if volume is None:
            return None
        if why := sources.why_not(volume):
            raise BackupError(f"volume {name} cannot be restored: {why}")
        return volume.path

    async def make_volume(self, name: str) -> str:
        """Likewise, of one that is made where it is not there."""
        if not _VOLUME.fullmatch(name):
            raise ValidationError([FieldError("volumes", f"'{name[:128]}' is no name of a volume")])
        return await self.find_volume(name) or (await self._engine.ensure_volume(name)).path

    # Held still

    async def pause(self, names: Sequence[str]) -> None:
        """Freeze their containers; those that do not run, or were paused by hand, are left. HomedError: none is."""
        await self._freezer.pause(names)

    async def resume(self, names: Sequence[str]) -> None:
        """Let them go on: only what `pause` froze. BackupError where one does not yet: it is tried until it does."""
        await self._freezer.resume(names)

    async def hold(self, names: Sequence[str], why: str) -> None:
        """Stop them, and keep them so. BackupError where one does not stop: then none is held."""
        await self._holding.hold(names, why)

    def keep_held(self, names: Sequence[str], why: str) -> None:
        self._holding.keep_held(names, why)

    async def release(self, names: Sequence[str]) -> None:
        self._holding.release(names)

    async def run_hook(self, name: str, hook: Hook) -> int | None:
        """None where it ended well; its process's id on the board where it still runs after its deadline.

        BackupError (BACKUP_HOOK_FAILED) with the end of its output; NotFoundError where nothing of the service runs.
        """
        container = self._up(name)
        if container is None:
            raise NotFoundError(f"{name} does not run", code="CONTAINER_NOT_FOUND", details={"service": name})
        return await self._hooks.run(name, container.id, hook)

    # Their records

    def records(self) -> Mapping[str, bytes]:
        """Each service that is not being deleted, as it is stored."""
        return {one.name: self._services.sealing.encode(one) for one in self._services.all() if not one.deleting}

    def order(self, records: Mapping[str, bytes]) -> Sequence[str]:
        """What is depended on first. ValidationError."""
        return [service.name for service in restoring.in_order(self._read(*item) for item in records.items())]

    def problems(self, records: Mapping[str, bytes], *, alone: bool = False) -> list[FieldError]:
        """Why these could not be services of this board. It looks at paths, as where a service is stored."""
        return restoring.problems(records, self._services, alone=alone)

    def paths(self, records: Mapping[str, bytes]) -> set[str]:
        """The paths of the board that these mount; what cannot be read mounts none.

        Not those of the system, which some may read: as they are captured of nobody, nobody's restore may replace them.
        """
        found: set[str] = set()
        for name, record in records.items():
            try:
                found |= restoring.mounted_paths(self._read(name, record))
            except ValidationError:
                continue
        protected = self._protected()
        return {path for path in found if not policy.is_the_systems(policy.real_path(path), protected)}

    async def put(self, records: Mapping[str, bytes]) -> None:
        """Have the services as these say, all of them or none. ValidationError, StoreError."""
        await self._services.put(restoring.in_order(self._read(*item) for item in records.items()))

    def _read(self, name: str, record: bytes) -> Service:
        return restoring.read(name, record, self._services.sealing)

    async def settle(self, names: Sequence[str], timeout: float) -> list[str]:
        """Wait until these run, as far as they should; those that do not by then, with why."""
        stuck = await asyncio.gather(*(self._settle(name, timeout) for name in names))
        return [line for line in stuck if line]

    async def _settle(self, name: str, timeout: float) -> str:
        entry = self._services.find(name)
        if entry is None:
            return f"{name}: there is no such service"

        def settled(report: Report) -> bool:
            return report.revision >= entry.revision and not report.busy and _is_as_wanted(report)

        report = await self._reconciler.until(name, settled, timeout)
        if report is None or settled(report):
            return ""
        return f"{name} is {report.status}" + (f" ({report.message})" if report.message else "")


def _is_as_wanted(report: Report) -> bool:
    if report.wanted != "running":
        return report.container is None or not report.container.is_up
    return report.status == "running" or report.reason in ("ended", "paused")
