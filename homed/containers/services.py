"""The services that are wanted: kept in the store, changed by compare-and-set, told to the reconciler."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from homed.clock import now
from homed.containers import dependencies, mount_sources, spec_rules
from homed.containers.records import Rejected, Service
from homed.containers.sealing import Sealing
from homed.containers.spec import ServiceSpec
from homed.errors import ConflictError, FieldError, NotFoundError, ValidationError
from homed.store import damage
from homed.store.base import Record, Store

BUCKET = "services"
_LOOK = 10.0
# All of them are held in memory, and read at each start: a homed that cannot hold them would never start again.
MOST_SERVICES = 512
LONGEST_SPEC = 256 * 1024
# Bytes of all together: 512 services of 64 KiB.
MAX_TOTAL_BYTES = 32 * 1024 * 1024
T = TypeVar("T")


class Entry(NamedTuple):
    service: Service
    revision: int


class Services:
    """`allow` refuses what a spec may not ask of this board (it returns the wrong fields). `sealing` is how services
    are stored.
    """

    def __init__(self, store: Store, allow: Callable[[ServiceSpec], list[FieldError]], sealing: Sealing):
        self.sealing = sealing
        self._store = store
        self._allow = allow
        self._entries: dict[str, Entry] = {}
        self._sizes: dict[str, int] = {}
        self._listeners: list[Callable[[str], None]] = []
        # One change at a time: the checks between services (cycles) see what they decide on.
        self._lock = asyncio.Lock()

    def listen(self, listener: Callable[[str], None]) -> None:
        """Have `listener` called with the name of each service that was changed."""
        self._listeners.append(listener)

    async def load(self) -> None:
        """Read the stored services. A service with a damaged record is unknown: its container stays untouched."""
        for record, service in await damage.read_all(self._store, BUCKET, self._decode):
            self._entries[record.key] = Entry(service, record.revision)
            self._sizes[record.key] = spec_size(service)
            self._tell(record.key)

    def _decode(self, record: Record) -> Service:
        service = self.sealing.decode(record.value)
        if service.name != record.key:
            raise ValueError(f"it is the service '{service.name}'")
        return service

    def names(self) -> list[str]:
        return list(self._entries)

    def all(self) -> list[Service]:
        return [entry.service for entry in self._entries.values()]

    def find(self, name: str) -> Entry | None:
        return self._entries.get(name)

    def exists(self, name: str) -> bool:
        """Return whether a service of this name exists and is not being deleted."""
        entry = self._entries.get(name)
        return entry is not None and not entry.service.deleting

    def get(self, name: str) -> Entry:
        """NotFoundError (SERVICE_NOT_FOUND) where there is none, or it is being deleted."""
        entry = self._entries.get(name)
        if entry is None or entry.service.deleting:
            raise NotFoundError(f"Service '{name}' not found", code="SERVICE_NOT_FOUND", details={"service_name": name})
        return entry

    def refused(self, spec: ServiceSpec) -> list[FieldError]:
        """What the board does not give it. It looks at paths: a folder whose disk or server hangs holds it up."""
        return list(self._allow(spec))

    def size_without(self, names: Collection[str]) -> int:
        """Return the size in bytes of all other services' configurations."""
        return sum(size for name, size in self._sizes.items() if name not in names)

    def graph(self) -> dict[str, tuple[str, ...]]:
        return {name: tuple(entry.service.spec.depends_on) for name, entry in self._entries.items()}

    async def create(self, name: str, spec: ServiceSpec, *, enabled: bool) -> Entry:
        """ConflictError (SERVICE_EXISTS), ValidationError."""
        async with self._lock:
            if name in self._entries:
                state = "is being deleted" if self._entries[name].service.deleting else "exists already"
                raise ConflictError(f"Service '{name}' {state}", code="SERVICE_EXISTS", details={"service_name": name})
            if len(self._entries) >= MOST_SERVICES:
                raise ConflictError(f"there are {MOST_SERVICES} services already", code="TOO_MANY_SERVICES")
            await self._check(name, spec)
            moment = now()
            service = Service(name=name, spec=spec, enabled=enabled, created_at=moment, updated_at=moment)
            return await self._write(service, 0)

    async def change(self, name: str, change: Callable[[Service], Service]) -> Entry:
        """Change a service by its owner's wish. NotFoundError, ConflictError, ValidationError."""
        async with self._lock:
            old, revision = self.get(name)
            new = change(old)
            if new.spec != old.spec:
                await self._check(name, new.spec)
            if new == old:
                return self._entries[name]
            return await self._write(msgspec.structs.replace(new, updated_at=now()), revision)

    async def delete(self, name: str) -> Entry:
        """Mark as to be deleted; the reconciler removes its containers and then forgets it. ConflictError."""
        async with self._lock:
            old, revision = self.get(name)
            needing = [
                other
                for other in dependencies.dependents(self.graph(), name)
                if not self._entries[other].service.deleting
            ]
            if needing:
                raise ConflictError(
                    f"Service '{name}' is what {', '.join(needing)} depends on",
                    code="SERVICE_NEEDED",
                    details={"service_name": name, "dependents": needing},
                )
            return await self._write(msgspec.structs.replace(old, deleting=True, updated_at=now()), revision)

    async def confirm(self, name: str, spec: ServiceSpec, build: str = "") -> None:
        """Remember a configuration as one that runs well: the wanted one may be another by now."""
        await self._note(name, lambda service: msgspec.structs.replace(service, good=spec, good_build=build))

    async def pulled(self, name: str, spec: ServiceSpec, build: str | None) -> None:
        """Record that an image was pulled again; `build` is its id if it needs a new container."""

        def change(service: Service) -> Service:
            if build is None or service.effective != spec:
                return msgspec.structs.replace(service, pull=False)
            return msgspec.structs.replace(service, pull=False, build=build, rejected=None)

        await self._note(name, change)

    async def reject(self, name: str, digest: str, reason: str) -> None:
        """Take a configuration back: the last good one takes its place."""
        rejected = Rejected(digest, reason, now())
        await self._note(name, lambda service: msgspec.structs.replace(service, rejected=rejected))

    async def start_again(self, name: str) -> None:
        """Remember that it is stopped for a while only."""
        await self._note(name, lambda service: msgspec.structs.replace(service, again=True))

    async def restarted(self, name: str) -> None:
        await self._note(name, lambda service: msgspec.structs.replace(service, restart=False, again=False))

    async def forget(self, name: str) -> None:
        async with self._lock:
            entry = self._entries.get(name)
            if entry is not None and entry.service.deleting:  # a restore may have brought it back meanwhile
                await self._delete(entry)

    async def put(self, wanted: Sequence[Service]) -> None:
        """Have these services as they are given: changed, or made. All of them, or StoreError and none.

        They were checked (`restoring.problems`). Done twice, it does nothing more.
        """
        async with self._lock:
            changed: list[Service] = []
            for service in wanted:
                entry = self._entries.get(service.name)
                new = _restored(service, None if entry is None else entry.service)
                if entry is None or new != entry.service:
                    changed.append(new)
            known = self._entries
            revisions = await self._store.put_all(
                BUCKET,
                [
                    (one.name, self.sealing.encode(one), known[one.name].revision if one.name in known else 0)
                    for one in changed
                ],
            )
            for service, revision in zip(changed, revisions, strict=True):
                self._took(service, revision)

    async def _delete(self, entry: Entry) -> None:
        name = entry.service.name
        await self._store.delete(BUCKET, name, entry.revision)
        del self._entries[name]
        self._sizes.pop(name, None)
        self._tell(name)

    async def _note(self, name: str, change: Callable[[Service], Service]) -> None:
        """Remember something of homed's own; the owner's `updated_at` stays."""
        async with self._lock:
            entry = self._entries.get(name)
            if entry is not None and (new := change(entry.service)) != entry.service:
                await self._write(new, entry.revision)

    async def _write(self, service: Service, revision: int) -> Entry:
        return self._took(service, await self._store.put(BUCKET, service.name, self.sealing.encode(service), revision))

    def _took(self, service: Service, revision: int) -> Entry:
        """It is written."""
        is_new = service.name not in self._entries
        self._sizes[service.name] = spec_size(service)
        entry = self._entries[service.name] = Entry(service, revision)
        if is_new:  # in the order in which they are listed, far more often than made
            self._entries = dict(sorted(self._entries.items()))
        self._tell(service.name)
        return entry

    def _tell(self, name: str) -> None:
        for listener in self._listeners:
            listener(name)

    async def _check(self, name: str, spec: ServiceSpec) -> None:
        errors = [*spec_rules.problems(spec), *await self._refused(spec)]
        errors += [
            FieldError(dependencies.field(spec.depends_on, i), f"there is no service '{other}'")
            for i, other in enumerate(spec.depends_on)
            if other != name and (other not in self._entries or self._entries[other].service.deleting)
        ]
        if len(msgspec.json.encode(spec)) > LONGEST_SPEC:
            errors.append(FieldError("", f"a service's configuration may have at most {LONGEST_SPEC} bytes"))
        loop = dependencies.cycle({**self.graph(), name: spec.depends_on}, name)
        if loop:
            errors.append(FieldError("depends_on", f"would make a circle: {' → '.join(loop)}"))
        if errors:
            raise ValidationError(errors)
        if self.size_without((name,)) + len(msgspec.json.encode(spec)) > MAX_TOTAL_BYTES:
            message = f"the services' configurations have over {MAX_TOTAL_BYTES} bytes together: make some smaller"
            raise ConflictError(message, code="TOO_MANY_SERVICES")
        missing = await self._on_thread(lambda: mount_sources.missing(spec))
        if missing:
            raise ConflictError(
                "; ".join(f"{field}: {message}" for field, message in missing),
                code="MOUNT_SOURCE_MISSING",
                details={"errors": [{"field": field, "message": message} for field, message in missing]},
            )

    async def _refused(self, spec: ServiceSpec) -> list[FieldError]:
        """Return the problems of fields that the board's policy refuses."""
        if not spec.volumes and not spec.devices:
            return list(self._allow(spec))
        return list(await self._on_thread(lambda: self._allow(spec)))

    async def _on_thread(self, look: Callable[[], T]) -> T:
        """Check paths on a thread, because a disk or server may hang. Raises: ValidationError, also on a timeout."""
        try:
            async with asyncio.timeout(_LOOK):
                return await asyncio.to_thread(look)
        except TimeoutError as error:
            raise ValidationError([FieldError("volumes", f"could not be checked within {_LOOK:.0f} s")]) from error


def spec_size(service: Service) -> int:
    """Return the size in bytes of a service's configuration as stored."""
    return len(msgspec.json.encode(service.spec))


def _restored(service: Service, old: Service | None) -> Service:
    """As a backup has it. What was being done with it then is over; that it is to be started again now is not."""
    moment = now()
    new = msgspec.structs.replace(
        service,
        deleting=False,
        restart=False,
        pull=False,
        build="",
        good_build="",
        again=old is not None and (old.again or old.restart),
        created_at=service.created_at if old is None else old.created_at,
        updated_at=moment if old is None else old.updated_at,
    )
    return new if new == old else msgspec.structs.replace(new, updated_at=moment)
