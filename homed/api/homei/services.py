"""`/api/v1/services`: what should run, and how it stands."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from homed.access.scopes import Scope
from homed.api.read_back import ReadBack
from homed.api.routes import Call, Route
from homed.containers import plan
from homed.containers.keeper import Report
from homed.containers.reconciler import Reconciler
from homed.containers.records import Service
from homed.containers.services import Services
from homed.containers.spec import MANAGED_LABEL, HealthCheck, ServiceChange, ServiceName, ServiceSpec
from homed.errors import ConflictError, EngineError, EngineUnavailableError, HomedError

PATH = "/api/v1/services"
_WAIT = 60.0
# Reasons that prevent an image pull now.
_NO_PULL = ("pull_failed", "engine_unavailable", plan.HELD, plan.FROZEN)


class NewService(ServiceSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A service to be made: its name, whether it is enabled, and its spec."""

    name: ServiceName
    enabled: bool = True


class ServiceSummary(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    image: str
    status: str
    enabled: bool
    restart_policy: str
    created_at: datetime
    labels: Mapping[str, str]


class ServiceList(msgspec.Struct, frozen=True):
    services: Sequence[ServiceSummary]


class RolledBack(msgspec.Struct, frozen=True):
    """The wanted configuration did not run well: the one before it runs instead."""

    reason: str
    at: datetime


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted, what is, and why no step is taken now.

    `reason` is a stable word (dependency, pull_failed, crashed, settling, name_taken, …), `message` is for people,
    `next_try` says when homed acts again by itself, `progress` how far a pull is.
    """

    wanted: str
    actual: str
    step: str | None
    reason: str | None
    message: str | None
    next_try: datetime | None
    attempts: int
    progress: Mapping[str, Any] | None
    health: str | None
    exit_code: int | None
    rolled_back: RolledBack | None


class ServiceDetails(ServiceSummary, frozen=True, kw_only=True):
    environment: Mapping[str, str]
    ports: Sequence[str]
    volumes: Sequence[str]
    depends_on: Sequence[str] | Mapping[str, str]
    updated_at: datetime
    command: str | Sequence[str] | None
    entrypoint: str | Sequence[str] | None
    network: str
    devices: Sequence[str]
    user: str | None
    read_only: bool
    tmpfs: Sequence[str]
    memory: int | str | None
    cpus: float | None
    health_check: HealthCheck | None
    privileged: bool
    stop_timeout: int
    init: bool
    cap_add: Sequence[str]
    extra_hosts: Sequence[str]
    create_missing: bool | None
    has_registry_credentials: bool
    container_id: str | None
    conditions: Conditions


class PullQuery(msgspec.Struct, frozen=True):
    """`pull`: pull the image's tag again; if the tag now names another image, the container is re-created."""

    pull: bool = False


class Acted(msgspec.Struct, frozen=True):
    name: str
    status: str
    message: str


def routes(services: Services, reconciler: Reconciler) -> list[Route]:
    resource = _Resource(services, reconciler)
    shown = ReadBack(resource.get, ServiceChange)
    name = {"service_name": "The service's name."}

    def route(method: str, path: str, handler: object, summary: str, **more: object) -> Route:
        return Route(method, path, handler, summary, tag="Services", limit="services", **more)  # type: ignore[arg-type]

    def act(verb: str, handler: object, summary: str, **more: object) -> Route:
        return route(
            "POST",
            f"{PATH}/{{service_name}}/{verb}",
            handler,
            summary,
            params=name,
            response=Acted,
            scope=Scope.OPERATE,
            change=f"service.{verb}",
            statuses=(202,),
            errors=(404, 409, 500, 503),
            **more,
        )

    one = f"{PATH}/{{service_name}}"
    change = {"scope": Scope.OPERATE, "response": Acted}
    return [
        route("GET", PATH, resource.list, "List services", response=ServiceList),
        route("GET", one, shown.get, "Get a service", params=name, response=ServiceDetails, errors=(404,)),
        route(
            "POST", PATH, resource.create, "Create a service", body=NewService, status=201, errors=(400, 409),
            change="service.create", **change,
        ),
        route(
            "PUT", one, resource.update, "Change the fields given", params=name, body=ServiceChange, query=PullQuery,
            errors=(400, 404, 409), change="service.update", prune=shown.pruner, **change,
        ),
        route(
            "DELETE", one, resource.delete, "Delete a service and its container", params=name,
            statuses=(202,), errors=(404, 409, 503), change="service.delete", **change,
        ),
        act("start", resource.start, "Start a service"),
        act("stop", resource.stop, "Stop a service"),
        act("restart", resource.restart, "Restart a service", query=PullQuery),
        act("pull", resource.pull, "Pull a service's image anew, and use it if it is another one"),
        act("enable", resource.enable, "Enable a service"),
        act("disable", resource.disable, "Disable a service: it stays stopped"),
    ]  # fmt: skip


class _Resource:
    def __init__(self, services: Services, reconciler: Reconciler):
        self._services = services
        self._reconciler = reconciler

    async def list(self, call: Call) -> ServiceList:
        found = [s for s in self._services.all() if not s.deleting]
        return ServiceList([summary(s, self._reconciler.report(s.name)) for s in found])

    async def get(self, call: Call) -> ServiceDetails:
        service, _ = self._services.get(call.path["service_name"])
        return details(service, self._reconciler.report(service.name))

    async def create(self, call: Call) -> Acted:
        new: NewService = call.body
        values = {f.name: getattr(new, f.name) for f in msgspec.structs.fields(ServiceSpec)}
        await self._services.create(new.name, ServiceSpec(**values), enabled=new.enabled)
        return Acted(new.name, "created", "Service created successfully")

    async def update(self, call: Call) -> Acted:
        given = {
            field.name: value
            for field in msgspec.structs.fields(ServiceChange)
            if (value := getattr(call.body, field.name)) is not UNSET
        }
        enabled = given.pop("enabled", None)

        def change(service: Service) -> Service:
            # Asked for again, a configuration that was taken back gets another try.
            return msgspec.structs.replace(
                _enabled(service, service.enabled if enabled is None else enabled),
                spec=msgspec.structs.replace(service.spec, **given),
                pull=service.pull or call.query.pull,
                rejected=None,
            )

        name = call.path["service_name"]
        await self._services.change(name, change)
        return Acted(name, "updated", "Service updated successfully")

    async def delete(self, call: Call) -> object:
        name = call.path["service_name"]
        entry = await self._services.delete(name)
        report = await self._reconciler.settle(name, entry.revision, _WAIT)
        if report is None:
            return Acted(name, "deleted", "Service deleted successfully")
        if report.reason == "engine_unavailable":
            raise EngineUnavailableError(f"Service '{name}' is deleted when Docker Engine is back: {report.message}")
        return 202, Acted(name, "deleting", "Service is being deleted")

    async def start(self, call: Call) -> object:
        name = call.path["service_name"]
        up = (container := self._reconciler.report(name).container) is not None and container.is_up

        def change(service: Service) -> Service:
            self._require_enabled(service)
            return msgspec.structs.replace(service, stopped=False, restart=not up)

        return await self._act(name, change, "started", running=True)

    async def stop(self, call: Call) -> object:
        def change(service: Service) -> Service:
            return msgspec.structs.replace(service, stopped=True, restart=False)

        return await self._act(call.path["service_name"], change, "stopped", running=False)

    async def restart(self, call: Call) -> object:
        def change(service: Service) -> Service:
            self._require_enabled(service)
            return msgspec.structs.replace(
                service, stopped=False, restart=True, rejected=None, pull=service.pull or call.query.pull
            )

        name = call.path["service_name"]
        await self._reconciler.check_restart(self._services.get(name).service)
        return await self._act(name, change, "restarted", running=True)

    async def pull(self, call: Call) -> object:
        name = call.path["service_name"]
        entry = await self._services.change(name, lambda service: msgspec.structs.replace(service, pull=True))
        self._reconciler.retry(name)

        def done(report: Report) -> bool:
            found = self._services.find(name)
            return report.revision >= entry.revision and not report.busy and (found is None or not found.service.pull)

        def ended(report: Report) -> bool:
            return done(report) or (report.revision >= entry.revision and report.reason in _NO_PULL)

        report = await self._reconciler.until(name, ended, _WAIT)
        if report is None or done(report):
            return Acted(name, "pulled", "Image pulled successfully")
        if report.reason == "pull_failed" or report.reason == "engine_unavailable":
            raise _failed(name, report, "cannot pull its image, and retries")
        return 202, Acted(name, report.status, f"It will be pulled: {report.message or report.status}")

    async def enable(self, call: Call) -> object:
        def change(service: Service) -> Service:
            return _enabled(service, True)

        entry = self._services.get(call.path["service_name"])
        return await self._act(entry.service.name, change, "enabled", running=not entry.service.stopped)

    async def disable(self, call: Call) -> object:
        def change(service: Service) -> Service:
            return _enabled(service, False)

        return await self._act(call.path["service_name"], change, "disabled", running=False)

    async def _act(self, name: str, change: object, done: str, *, running: bool) -> object:
        """Store the wish, then wait until it is fulfilled, or until it is clear that it will not be for now."""
        entry = await self._services.change(name, change)  # type: ignore[arg-type]
        self._reconciler.retry(name)
        report = await self._reconciler.settle(name, entry.revision, _WAIT)
        is_up = report is not None and report.container is not None and report.container.is_up
        if report is None or (is_up == running and not report.busy and report.reason != plan.FROZEN):
            return Acted(name, done, f"Service {done} successfully")
        if report.busy or report.reason in ("dependency", plan.HELD, plan.FROZEN):
            waiting = f": {report.message}" if report.message else ""
            return 202, Acted(name, report.status, f"It will be {done}{waiting}")
        if report.wanted != ("running" if running else "stopped"):
            raise ConflictError(
                f"Service '{name}' was told otherwise meanwhile", code="OVERTAKEN", details={"service_name": name}
            )
        if not running and report.reason == "engine_unavailable":
            raise EngineUnavailableError(f"It will be {done} when Docker Engine is back: {report.message}")
        raise _failed(name, report)

    def _require_enabled(self, service: Service) -> None:
        if not service.enabled:
            raise ConflictError(
                f"Service '{service.name}' is disabled: enable it first",
                code="SERVICE_DISABLED",
                details={"service_name": service.name},
            )


def _enabled(service: Service, enabled: bool) -> Service:
    """Enabled anew, it is started whatever its policy would leave ended: it was homed that had stopped it."""
    if enabled == service.enabled:
        return service
    return msgspec.structs.replace(service, enabled=enabled, restart=enabled and not service.stopped)


def _failed(name: str, report: Report, what: str = "does not run") -> HomedError:
    details = {"service_name": name, "status": report.status, "reason": report.reason}
    if report.next_try is not None:
        details["next_try"] = report.next_try.isoformat()
    kind = EngineUnavailableError if report.reason == "engine_unavailable" else EngineError
    return kind(f"Service '{name}' {what}: {report.message or report.status}", details=details)


def summary(service: Service, report: Report) -> ServiceSummary:
    spec = service.spec
    return ServiceSummary(
        name=service.name,
        image=spec.image,
        status=report.status,
        enabled=service.enabled,
        restart_policy=spec.restart_policy,
        created_at=service.created_at,
        labels={MANAGED_LABEL: "true", **spec.labels},
    )


def details(service: Service, report: Report) -> ServiceDetails:
    """Everything but the registry's credentials."""
    spec, container = service.spec, report.container
    shown = ("environment", "ports", "volumes", "depends_on", "command", "entrypoint", "network", "devices", "user",
             "read_only", "tmpfs", "memory", "cpus", "health_check", "privileged", "stop_timeout",
             "init", "cap_add", "extra_hosts", "create_missing")  # fmt: skip
    return ServiceDetails(
        **msgspec.structs.asdict(summary(service, report)),
        **{field: getattr(spec, field) for field in shown},
        updated_at=service.updated_at,
        has_registry_credentials=spec.registry is not None,
        container_id=container.id if container is not None else None,
        conditions=_conditions(service, report),
    )


def _conditions(service: Service, report: Report) -> Conditions:
    container, rejected = report.container, service.rejected
    return Conditions(
        wanted=report.wanted,
        actual=report.actual,
        step=report.step,
        reason=report.reason,
        message=report.message,
        next_try=report.next_try,
        attempts=report.attempts,
        progress=report.progress,
        health=container.health if container is not None else None,
        exit_code=container.exit_code if container is not None else None,
        rolled_back=RolledBack(rejected.reason, rejected.at) if service.fallback and rejected else None,
    )
