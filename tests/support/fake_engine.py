"""Docker Engine and its streams as `containers/` sees them, in memory: quick, and as wrong as a test wants it."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from homed.containers.model import Listed, Volume
from homed.containers.spec import Registry
from homed.errors import ConflictError, EngineError, EngineUnavailableError, NotFoundError

_ZERO = "0001-01-01T00:00:00Z"


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass
class Trouble:
    """What goes wrong: `errors` by call, `gates` hold a call up until they are set."""

    errors: dict[str, Exception] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)


class FakeEngine:
    """Has the interface of `Engine` and of `Streams`. `crashes` and `refuses` name images."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, Any]] = {}
        self.volumes: dict[str, Volume] = {}
        self.images: set[str] = set()
        self.image_ids: dict[str, str] = {}
        self.pullable: set[str] = {"app:1", "app:2"}
        self.crashes: set[str] = set()
        self.refuses: set[str] = set()
        self.calls: list[tuple[str, str]] = []
        self.trouble = Trouble()
        self.away = False
        self._readers: set[asyncio.Queue[dict[str, Any] | None]] = set()
        self._serial = itertools.count(1)

    # What a test does to it

    def by_name(self, name: str) -> dict[str, Any]:
        return next(c for c in self.containers.values() if c["Name"] == f"/{name}")

    def running(self) -> list[str]:
        return sorted(c["Name"][1:] for c in self.containers.values() if c["State"]["Status"] == "running")

    def count(self, call: str) -> int:
        return sum(name == call for name, _ in self.calls)

    def end(self, identity: str, code: int = 1) -> None:
        state = self.containers[identity]["State"]
        state.update(Status="exited", Running=False, ExitCode=code, FinishedAt=_now(), Health=None)
        self._tell("die", identity)

    def set_health(self, identity: str, health: str) -> None:
        self.containers[identity]["State"]["Health"] = {"Status": health}
        self._tell(f"health_status: {health}", identity)

    def pause_by_hand(self, identity: str) -> None:
        self.containers[identity]["State"]["Status"] = "paused"
        self._tell("pause", identity)

    def rename_by_hand(self, identity: str, name: str) -> None:
        self.containers[identity]["Name"] = f"/{name}"
        self._tell("rename", identity)

    def remove_by_hand(self, identity: str) -> None:
        gone = self.containers.pop(identity)
        self._tell("destroy", identity, gone)

    def go_away(self) -> None:
        self.away = True
        for reader in self._readers:
            reader.put_nowait(None)

    # Engine

    async def version(self) -> dict[str, Any]:
        await self._call("version", "")
        return {"Version": "fake"}

    async def all(self) -> list[Listed]:
        await self._call("list", "")
        return [
            Listed(identity, one["State"]["Status"], one["Name"][1:], (one["State"].get("Health") or {}).get("Status"))
            for identity, one in self.containers.items()
        ]

    async def inspect(self, container: str) -> dict[str, Any]:
        await self._call("inspect", container)
        return dict(self._find(container))

    async def image_id(self, image: str) -> str:
        return self.image_ids.get(image, image)

    async def has_image(self, image: str) -> bool:
        await self._call("inspect_image", image)
        return image in self.images

    async def pull(self, image: str, registry: Registry | None, progress: Callable[[dict[str, Any]], None]) -> None:
        progress({"status": "Downloading", "id": "l1", "progressDetail": {"current": 1, "total": 2}})
        await self._call("pull", image)
        if image not in self.pullable:
            raise EngineError(f"manifest for {image} not found")
        self.images.add(image)

    async def create(self, name: str, configuration: dict[str, Any]) -> str:
        await self._call("create", name)
        if any(one["Name"] == f"/{name}" for one in self.containers.values()):
            raise ConflictError(f"the name {name} is in use", code="DOCKER_ERROR")
        identity = f"{next(self._serial):064x}"
        self.containers[identity] = {
            "Id": identity,
            "Name": f"/{name}",
            "Created": _now(),
            "Image": self.image_ids.get(configuration["Image"], configuration["Image"]),
            "Config": {"Image": configuration["Image"], "Labels": configuration["Labels"]},
            "State": {"Status": "created", "Running": False, "StartedAt": _ZERO, "FinishedAt": _ZERO, "ExitCode": 0},
            "HostConfig": configuration.get("HostConfig", {"Privileged": False}),
            "Checked": "Healthcheck" in configuration,
        }
        self._tell("create", identity)
        return identity

    async def ensure_network(self, name: str) -> None:
        await self._call("create_network", name)

    async def start(self, container: str, check: Callable[[dict[str, Any]], None] = lambda made: None) -> None:
        await self._call("start", container)
        one = self._find(container)
        check(one)
        image = one["Config"]["Image"]
        if image in self.refuses:
            raise EngineError("driver failed: port is already allocated")
        one["State"].update(Status="running", Running=True, StartedAt=_now(), ExitCode=0)
        one["State"]["Health"] = {"Status": "starting"} if one["Checked"] else None
        self._tell("start", container)
        if image in self.crashes:
            self.end(container)

    async def stop(self, container: str, timeout: int) -> None:
        await self._call("stop", container)
        if self._find(container)["State"]["Status"] in ("running", "paused"):
            self.end(container, 0)

    async def pause(self, container: str) -> None:
        await self._call("pause", container)
        state = self._find(container)["State"]
        if state["Status"] != "running":
            raise ConflictError(f"{container} is {state['Status']}", code="DOCKER_ERROR")
        self.pause_by_hand(container)

    async def unpause(self, container: str) -> None:
        await self._call("unpause", container)
        state = self._find(container)["State"]
        if state["Status"] != "paused":
            raise ConflictError(f"{container} is not paused", code="DOCKER_ERROR")
        state["Status"] = "running"
        self._tell("unpause", container)

    async def find_volume(self, name: str) -> Volume | None:
        await self._call("inspect_volume", name)
        return self.volumes.get(name)

    async def ensure_volume(self, name: str) -> Volume:
        await self._call("create_volume", name)
        return self.volumes.setdefault(name, Volume(name, f"/volumes/{name}/_data", "local", {}))

    async def inspect_running(self) -> list[dict[str, Any]]:
        await self._call("list", "")
        return [dict(one) for one in self.containers.values() if one["State"]["Status"] in ("running", "paused")]

    async def remove(self, container: str) -> None:
        await self._call("remove", container)
        self._find(container)
        self.remove_by_hand(container)

    async def rename(self, container: str, name: str) -> None:
        await self._call("rename", container)
        if any(one["Name"] == f"/{name}" for one in self.containers.values()):
            raise ConflictError(f"the name {name} is in use", code="DOCKER_ERROR")
        self._find(container)["Name"] = f"/{name}"
        self._tell("rename", container)

    # Streams

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        if self.away:
            raise EngineUnavailableError("it is away")
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._readers.add(queue)
        try:
            yield self._follow(queue)
        finally:
            self._readers.discard(queue)

    async def _follow(self, queue: "asyncio.Queue[dict[str, Any] | None]") -> AsyncIterator[dict[str, Any]]:
        while (event := await queue.get()) is not None:
            yield event
        raise EngineUnavailableError("it went away")

    async def _call(self, name: str, about: str) -> None:
        self.calls.append((name, about))
        gate = self.trouble.gates.get(name)
        if gate is not None:
            await gate.wait()
        await asyncio.sleep(0)
        if self.away:
            raise EngineUnavailableError("it is away")
        error = self.trouble.errors.get(name)
        if error is not None:
            raise error

    def _find(self, container: str) -> dict[str, Any]:
        if container not in self.containers:
            raise NotFoundError("no such container", code="CONTAINER_NOT_FOUND")
        return self.containers[container]

    def _tell(self, action: str, identity: str, one: Mapping[str, Any] | None = None) -> None:
        known = one or self.containers[identity]
        event = {"Action": action, "Actor": {"ID": identity, "Attributes": {"name": known["Name"][1:]}}}
        for reader in self._readers:
            reader.put_nowait(event)
