"""`/health`, `/api/v1/system/info` and `/api/v1/config`: the board itself.

Three families share these paths. Each answer is a union: what a later family documents joins it by `extras`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from homed.access.scopes import Scope
from homed.api.routes import Call, Route
from homed.clock import now
from homed.config import Config
from homed.events import Events
from homed.health import Component, Health, Level, not_ready, overall
from homed.host.system import System, SystemInfo
from homed.settings import Settings, parse_change


class Extra(NamedTuple):
    """What another family adds: its fields, and what tells them."""

    fields: type[msgspec.Struct]
    tell: Callable[[Call], Awaitable[msgspec.Struct]]


class HealthAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`components` name each part's state; `details` say why one is not healthy, to whom may read."""

    status: Level
    version: str
    timestamp: datetime
    uptime_seconds: int
    database: str
    components: Mapping[str, Level]
    details: Mapping[str, str]


class Ready(msgspec.Struct, frozen=True):
    status: str
    reasons: Sequence[str] = ()


class Alive(msgspec.Struct, frozen=True):
    status: str


class ConfigAnswer(msgspec.Struct, frozen=True):
    """The configuration in force, with the program's version beside it."""

    orchestrator: Mapping[str, Any]


class ConfigChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields to change; null makes a field go back to what the file says."""

    orchestrator: Mapping[str, Any]


class ConfigChanged(msgspec.Struct, frozen=True):
    """The result of a configuration change: `restart_required` lists the fields that take effect at the next start,
    `overridden` those stored without effect because a flag or an environment variable overrides them.
    """

    status: str
    message: str
    restart_required: Sequence[str]
    overridden: Sequence[str]


class Extras:
    """What other families add to the shared answers: to be said before the routes are made."""

    def __init__(self) -> None:
        self.health: list[Extra] = []
        self.system: list[Extra] = []
        self.config: list[Extra] = []


def routes(
    health: Health,
    system: System,
    settings: Settings,
    events: Events,
    extras: Extras,
    *,
    version: str,
    uptime: Callable[[], float],
) -> list[Route]:
    resource = _Resource(health, system, settings, events, extras, version, uptime)
    whole_health, whole_info = union(HealthAnswer, extras.health), union(SystemInfo, extras.system)

    def open_route(path: str, handler: Any, summary: str, response: Any, **more: Any) -> Route:
        return Route("GET", path, handler, summary, "Health", "health", scope=None, response=response, **more)

    return [
        open_route("/health", resource.health, "How the board does", whole_health),
        # An alias for clients that use this path; the OpenAPI document has only the first.
        open_route("/api/health", resource.health, "", whole_health, documented=False),
        open_route("/api/v1/health", resource.health, "", whole_health, documented=False),
        open_route("/health/ready", resource.ready, "Whether it can serve", Ready, statuses=(503,)),
        open_route("/health/live", resource.live, "Whether it answers", Alive),
        Route("GET", "/api/v1/system/info", resource.info, "The board's facts", "System", "system",
              response=whole_info),
        Route("GET", "/api/v1/config", resource.config, "Get the configuration", "Configuration", "system",
              response=ConfigAnswer),
        Route(
            "PUT", "/api/v1/config", resource.change_config, "Change the configuration", "Configuration", "system",
            scope=Scope.ADMIN, body=ConfigChange, response=ConfigChanged, errors=(400, 500), change="config.update",
        ),
    ]  # fmt: skip


class _Resource:
    def __init__(
        self,
        health: Health,
        system: System,
        settings: Settings,
        events: Events,
        extras: Extras,
        version: str,
        uptime: Callable[[], float],
    ):
        self._health = health
        self._system = system
        self._settings = settings
        self._events = events
        self._extras = extras
        self._version = version
        self._uptime = uptime
        self._changing = asyncio.Lock()

    async def health(self, call: Call) -> object:
        components = self._health.components()
        store = components.get("store")
        answer = HealthAnswer(
            status=overall(components),
            version=self._version,
            timestamp=now(),
            uptime_seconds=int(self._uptime()),
            database="connected" if store is not None and store.status is Level.HEALTHY else "disconnected",
            components={name: component.status for name, component in components.items()},
            details=_told(components) if call.principal.scope is not None else {},
        )
        return await _with(answer, self._extras.health, call)

    async def ready(self, call: Call) -> object:
        reasons = not_ready(self._health.components())
        if not reasons:
            return Ready("ready")
        return 503, Ready("not ready", reasons if call.principal.scope is not None else ())

    async def live(self, call: Call) -> Alive:
        return Alive("alive")

    async def info(self, call: Call) -> object:
        return await _with(await self._system.info(), self._extras.system, call)

    async def config(self, call: Call) -> object:
        return await _with(ConfigAnswer(shown(self._settings.current, self._version)), self._extras.config, call)

    async def change_config(self, call: Call) -> ConfigChanged:
        change = parse_change({"orchestrator": call.body.orchestrator})
        async with self._changing:
            restart = await asyncio.get_running_loop().run_in_executor(None, self._settings.change, change)
            self._settings.apply()
        self._events.publish("config.updated", {"restart_required": restart})
        overridden = self._settings.overridden(change)
        return ConfigChanged("updated", "Configuration updated successfully", restart, overridden)


def shown(config: Config, version: str) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(config)
    return {"name": data.pop("name"), "version": version, **data}


def _told(components: Mapping[str, Component]) -> dict[str, str]:
    return {name: component.message for name, component in components.items() if component.message}


def union(kind: type[msgspec.Struct], extras: Sequence[Extra]) -> type[msgspec.Struct]:
    """The type of an answer with what others add to it."""
    if not extras:
        return kind
    kinds = (kind, *(extra.fields for extra in extras))
    fields = [(field.encode_name, field.type) for one in kinds for field in msgspec.structs.fields(one)]
    return msgspec.defstruct(f"Whole{kind.__name__}", fields, kw_only=True, frozen=True)


async def _with(answer: msgspec.Struct, extras: Sequence[Extra], call: Call) -> object:
    if not extras:
        return answer
    merged: dict[str, object] = msgspec.to_builtins(answer, builtin_types=(datetime,))
    for extra in extras:
        merged.update(msgspec.to_builtins(await extra.tell(call), builtin_types=(datetime,)))
    return merged
