"""`/api/v1/containers`: what the engine has."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from homed.api.routes import Call, Route
from homed.api.streaming import Streaming
from homed.clock import now
from homed.containers.engine import Engine
from homed.containers.logs import MOST_LINES, Logs, Wish, parse_since
from homed.containers.model import Container, Port, State, from_inspect
from homed.containers.service_logs import ServiceLogs
from homed.containers.services import Services
from homed.containers.stats import Stats
from homed.containers.view import View
from homed.errors import EngineError, FieldError, NotFoundError, ValidationError

PATH = "/api/v1/containers"
# Docker's own words are understood beside those that are shown.
_STATUSES = {**{str(state): state for state in State}, "exited": State.STOPPED}


class ContainerQuery(msgspec.Struct, frozen=True):
    managed: bool | None = None
    status: str | None = None


class ContainerSummary(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    image: str
    status: str
    managed: bool
    created_at: datetime
    ports: Sequence[Port]
    service: str | None
    health: str | None


class ContainerList(msgspec.Struct, frozen=True):
    containers: Sequence[ContainerSummary]


class ContainerState(msgspec.Struct, frozen=True, kw_only=True):
    status: str
    running: bool
    pid: int
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None
    health: str | None
    error: str


class ContainerConfig(msgspec.Struct, frozen=True):
    hostname: str
    env: Sequence[str]
    cmd: Sequence[str]
    entrypoint: Sequence[str]
    user: str
    labels: Mapping[str, str]


class HostBinding(msgspec.Struct, frozen=True):
    host_ip: str
    host_port: str


class NetworkSettings(msgspec.Struct, frozen=True):
    ports: Mapping[str, Sequence[HostBinding]]
    addresses: Mapping[str, str]


class ContainerDetails(ContainerSummary, frozen=True, kw_only=True):
    state: ContainerState
    config: ContainerConfig
    network_settings: NetworkSettings
    mounts: Sequence[str]


class LogQuery(msgspec.Struct, frozen=True):
    """The extent of a log. `tail`: lines from the end, or `all`. `since`: Unix seconds, RFC 3339, or an age (`10m`)."""

    tail: Annotated[int, Meta(ge=0, le=MOST_LINES)] | Literal["all"] = 100
    follow: bool = False
    timestamps: bool = False
    since: Annotated[str, Meta(max_length=64)] | None = None


class LogLines(msgspec.Struct, frozen=True):
    logs: Sequence[str]


class MemoryUsage(msgspec.Struct, frozen=True):
    usage: int
    limit: int
    percent: float


class NetworkIo(msgspec.Struct, frozen=True):
    rx_bytes: int
    tx_bytes: int


class BlockIo(msgspec.Struct, frozen=True):
    read_bytes: int
    write_bytes: int


class ContainerStats(msgspec.Struct, frozen=True):
    """Sizes in bytes; `cpu_percent` is of one core, over the last `cpu_seconds`."""

    cpu_percent: float
    memory_usage: MemoryUsage
    network_io: NetworkIo
    block_io: BlockIo
    pids: int
    cpu_seconds: float


def routes(
    view: View, engine: Engine, logs: Logs, stats: Stats, streaming: Streaming, services: Services
) -> list[Route]:
    resource = _Resource(view, engine, logs, stats, streaming)
    of_service = _ServiceLogs(services, ServiceLogs(view, logs, services.exists), streaming)
    service = {"service_name": "The service's name."}
    name = {"container_id": "A container's id, the beginning of it, or its name."}
    one = f"{PATH}/{{container_id}}"

    def route(path: str, handler: Any, summary: str, **more: Any) -> Route:
        return Route("GET", path, handler, summary, tag="Containers", limit="containers", **more)

    return [
        route(PATH, resource.list, "List containers", query=ContainerQuery, response=ContainerList, errors=(400, 503)),
        route(one, resource.get, "Get a container", params=name, response=ContainerDetails, errors=(404, 500, 503)),
        route(
            f"{one}/logs", resource.logs, "Read a container's log", params=name, query=LogQuery, response=LogLines,
            streams=("text/plain",), errors=(400, 404, 409, 500, 503),
        ),
        route(
            f"{one}/stats", resource.stats, "What a container uses", params=name, response=ContainerStats,
            errors=(404, 409, 500, 503),
        ),
        route(
            "/ws/containers/{container_id}/logs", resource.follow, "Follow a container's log", params=name,
            query=LogQuery, socket=True, errors=(400, 404, 409, 503),
        ),
        route(
            "/api/v1/services/{service_name}/logs", of_service.logs,
            "Read a service's log, or follow it over restarts and new containers", params=service, query=LogQuery,
            response=LogLines, streams=("text/plain",), errors=(400, 404, 409, 500, 503),
        ),
        route(
            "/ws/services/{service_name}/logs", of_service.follow, "Follow a service's log over restarts",
            params=service, query=LogQuery, socket=True, errors=(400, 404, 503),
        ),
    ]  # fmt: skip


class _Resource:
    def __init__(self, view: View, engine: Engine, logs: Logs, stats: Stats, streaming: Streaming):
        self._view = view
        self._engine = engine
        self._logs = logs
        self._stats = stats
        self._streaming = streaming
        self._seen: Sequence[Container] = ()
        self._shown: Sequence[ContainerSummary] = ()
        self._encoded = msgspec.Raw(msgspec.json.encode(ContainerList(())))

    async def list(self, call: Call) -> ContainerList | msgspec.Raw:
        self._view.require_connection()
        query: ContainerQuery = call.query
        status = _status(query.status)
        shown = self._all()
        if query.managed is None and status is None:
            return self._encoded
        return ContainerList([c for c in shown if query.managed in (None, c.managed) and status in (None, c.status)])

    def _all(self) -> Sequence[ContainerSummary]:
        """All of them by name, made and encoded anew only where one has changed: it is what clients poll."""
        containers = self._view.all()
        if containers != self._seen:
            self._seen, self._shown = containers, sorted(map(summary, containers), key=lambda c: c.name)
            self._encoded = msgspec.Raw(msgspec.json.encode(ContainerList(self._shown)))
        return self._shown

    async def get(self, call: Call) -> ContainerDetails:
        container = self._find(call)
        try:
            return details(await self._engine.inspect(container.id))
        except NotFoundError as error:
            raise _gone(call) from error

    async def logs(self, call: Call) -> LogLines | web.StreamResponse:
        container = self._find(call)
        wish = _wish(call.query)
        if wish.follow:
            return await self._streaming.text(call, self._logs.follow(container, wish))
        return LogLines(await self._logs.read(container, wish))

    async def follow(self, call: Call) -> web.StreamResponse:
        container = self._find(call)
        return await self._streaming.lines(call, self._logs.follow(container, _wish(call.query)._replace(follow=True)))

    async def stats(self, call: Call) -> ContainerStats:
        container = self._find(call)
        try:
            used = await self._stats.usage(container)
        except NotFoundError as error:
            raise _gone(call) from error
        sample = used.sample
        percent = round(100 * sample.memory / sample.memory_limit, 2) if sample.memory_limit else 0.0
        return ContainerStats(
            cpu_percent=used.cpu_percent,
            memory_usage=MemoryUsage(sample.memory, sample.memory_limit, percent),
            network_io=NetworkIo(sample.rx, sample.tx),
            block_io=BlockIo(sample.read, sample.written),
            pids=sample.pids,
            cpu_seconds=used.seconds,
        )

    def _find(self, call: Call) -> Container:
        self._view.require_connection()
        return self._view.find(call.path["container_id"])


class _ServiceLogs:
    def __init__(self, services: Services, logs: ServiceLogs, streaming: Streaming):
        self._services = services
        self._logs = logs
        self._streaming = streaming

    async def logs(self, call: Call) -> LogLines | web.StreamResponse:
        name, wish = self._name(call), _wish(call.query)
        if wish.follow:
            return await self._streaming.text(call, self._logs.follow(name, wish))
        return LogLines(await self._logs.read(name, wish))

    async def follow(self, call: Call) -> web.StreamResponse:
        wish = _wish(call.query)._replace(follow=True)
        return await self._streaming.lines(call, self._logs.follow(self._name(call), wish))

    def _name(self, call: Call) -> str:
        return self._services.get(call.path["service_name"]).service.name


def _gone(call: Call) -> NotFoundError:
    reference = call.path["container_id"]
    details = {"container_id": reference}
    return NotFoundError(f"there is no container '{reference}'", code="CONTAINER_NOT_FOUND", details=details)


def _status(text: str | None) -> State | None:
    if text is None:
        return None
    if text.lower() not in _STATUSES:
        raise ValidationError([FieldError("status", f"must be one of {', '.join(sorted(_STATUSES))}")])
    return _STATUSES[text.lower()]


def _wish(query: LogQuery) -> Wish:
    since = None if query.since is None else parse_since(query.since, now())
    return Wish(None if query.tail == "all" else query.tail, since, query.timestamps, query.follow)


def summary(container: Container) -> ContainerSummary:
    return ContainerSummary(
        id=container.id,
        name=container.name,
        image=container.image,
        status=container.state,
        managed=container.managed,
        created_at=container.created_at,
        ports=container.ports,
        service=container.service,
        health=container.health,
    )


def details(data: Mapping[str, Any]) -> ContainerDetails:
    """From the engine's inspection. EngineError where it is not in a form that is known."""
    try:
        return _details(data)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise EngineError(f"Docker Engine told of a container in an unknown form: {error!r}") from error


def _details(data: Mapping[str, Any]) -> ContainerDetails:
    container = from_inspect(data)
    state, config, network = data["State"], data["Config"], data.get("NetworkSettings") or {}
    return ContainerDetails(
        **msgspec.structs.asdict(summary(container)),
        state=ContainerState(
            status=str(state["Status"]),
            running=bool(state["Running"]),
            pid=int(state["Pid"]),
            started_at=container.started_at,
            finished_at=container.finished_at,
            exit_code=container.exit_code,
            health=container.health,
            error=container.error,
        ),
        config=ContainerConfig(
            hostname=config.get("Hostname") or "",
            env=config.get("Env") or [],
            cmd=config.get("Cmd") or [],
            entrypoint=config.get("Entrypoint") or [],
            user=config.get("User") or "",
            labels=config.get("Labels") or {},
        ),
        network_settings=NetworkSettings(
            ports={
                port: [HostBinding(one["HostIp"], one["HostPort"]) for one in bindings or ()]
                for port, bindings in (network.get("Ports") or {}).items()
            },
            addresses={
                name: one["IPAddress"] for name, one in (network.get("Networks") or {}).items() if one.get("IPAddress")
            },
        ),
        mounts=[f"{m.get('Name') or m.get('Source')}:{m['Destination']}" for m in data.get("Mounts") or ()],
    )
