"""What the daemon tells of its parts: their health, the gauges that Prometheus reads, the line for systemd."""

from collections import Counter
from collections.abc import Iterable, Mapping

from homed.containers import plan
from homed.containers.keeper import Report
from homed.containers.model import Container, State
from homed.containers.reconciler import Reconciler
from homed.containers.services import Services
from homed.containers.view import View
from homed.health import Component, Health, Level

Gauge = tuple[str, str, tuple[str, ...], list[tuple[tuple[str, ...], float]]]
_WELL = frozenset(
    {"running", "stopped", "starting", "pulling", "creating", "restarting", "stopping", "deleting", "pending", "held"}
)


def orphans(containers: Iterable[Container], services: Iterable[str]) -> list[Container]:
    """What is labelled as managed and belongs to no service: told of, never removed."""
    known = set(services)
    return [container for container in containers if container.managed and container.service not in known]


def struggling(reports: Iterable[tuple[str, Report]]) -> list[str]:
    """The services, by name and report, that are not as they are wanted, with why."""
    return [
        f"{name} is {report.status}" + (f" ({report.message})" if report.message else "")
        for name, report in reports
        if (report.status not in _WELL and report.reason != plan.FROZEN) or report.reason == plan.NOT_ALLOWED
    ]


def own_gauges(streams: Mapping[str, int], buckets: int, lost: float, uptime: float) -> list[Gauge]:
    """homed's own: streams that are followed, by kind; clients and classes that the limits remember; log records that
    were lost; seconds since the start.
    """
    return [
        ("homed_streams_open", "Streams being followed.", ("kind",), [
            ((kind,), float(count)) for kind, count in streams.items()
        ]),
        ("homed_rate_limit_buckets", "Clients and classes that the limits remember.", (), [((), float(buckets))]),
        ("homed_log_records_lost", "Log records dropped because their reader was too slow.", (), [((), lost)]),
        ("homed_uptime_seconds", "Time since the start.", (), [((), uptime)]),
    ]  # fmt: skip


class Observation:
    """Gathers it; every function of it is quick."""

    def __init__(self, view: View, services: Services, reconciler: Reconciler, health: Health):
        self._view = view
        self._services = services
        self._reconciler = reconciler
        self._health = health
        health.add("docker", self._tell_docker)
        health.add("services", self._tell_services)

    def status_line(self) -> str:
        services = self._services.all()
        running = sum(self._reconciler.report(service.name).status == "running" for service in services)
        engine = f"Docker {self._view.engine_version}" if self._view.connected else "Docker Engine is away"
        if self._view.starting:
            engine = "Docker Engine is being looked at"
        return f"{running} of {len(services)} services run; {engine}"

    def gauges(self) -> list[Gauge]:
        services, containers = self._services.all(), self._view.all()
        by_state = Counter(str(container.state) for container in containers)
        by_status = Counter(self._reconciler.report(service.name).status for service in services)
        enabled = Counter(service.enabled for service in services)
        states = dict.fromkeys((str(State.RUNNING), str(State.STOPPED), *sorted(by_state)))
        healthy: list[tuple[tuple[str, ...], float]] = [
            ((n,), float(c.status is Level.HEALTHY)) for n, c in self._health.components().items()
        ]
        return [
            (
                "homei_containers_total",
                "Total number of containers",
                ("status",),
                [((state,), by_state[state]) for state in states],
            ),
            (
                "homei_services_total",
                "Total number of managed services",
                ("enabled",),
                [(("true",), enabled[True]), (("false",), enabled[False])],
            ),
            (
                "homed_services",
                "Services by status.",
                ("status",),
                [((s,), n) for s, n in sorted(by_status.items())],
            ),
            (
                "homed_containers_orphaned",
                "Containers labelled as managed that belong to no service.",
                (),
                [((), float(len(orphans(containers, self._services.names()))))],
            ),
            (
                "homed_docker_up",
                "Whether Docker Engine is being followed.",
                (),
                [((), float(self._view.connected))],
            ),
            ("homed_component_healthy", "Whether a part of homed is healthy.", ("component",), healthy),
        ]

    def _tell_docker(self) -> Component:
        if self._view.starting:
            return Component(Level.STARTING, self._view.trouble)
        if not self._view.connected:
            return Component(Level.UNHEALTHY, self._view.trouble)
        return Component(Level.HEALTHY)

    def _tell_services(self) -> Component:
        services = self._services.names()
        found = struggling([(name, self._reconciler.report(name)) for name in services])
        if found:
            return Component(Level.DEGRADED, "; ".join(found), needed=False)
        lost = orphans(self._view.all(), services)
        if lost:
            names = ", ".join(container.name for container in lost)
            return Component(Level.HEALTHY, f"managed containers without a service: {names}", needed=False)
        return Component(Level.HEALTHY, needed=False)
