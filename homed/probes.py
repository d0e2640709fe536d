"""What is healthy on this board, asked before an update and again after it: services, homed's parts, the network.

Each probe has a name (`service:web`); what is not wanted (a stopped service) has no probe.
"""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from homed.config import UpdateCheck
from homed.containers.keeper import Report
from homed.containers.reconciler import Reconciler
from homed.containers.services import Services
from homed.health import Component, Health, Level
from homed.host import network
from homed.updates import checks
from homed.updates.judgement import Finding, Findings

# Services are asked one by one. An update cannot judge itself; and backups that have grown old, or were found damaged,
# in the very minutes of the judgement tell nothing of the new system.
_NOT_ASKED = frozenset({"services", "updates", "backups"})


class Probes:
    """`own_checks` are the owner's, from the configuration."""

    def __init__(
        self,
        services: Services,
        reconciler: Reconciler,
        health: Health,
        own_checks: Callable[[], Iterable[UpdateCheck]],
        threads: Executor,
    ):
        self._services = services
        self._reconciler = reconciler
        self._health = health
        self._own_checks = own_checks
        self._threads = threads

    async def observe(self) -> Findings:
        """Every probe's finding now."""
        own, reached = await asyncio.gather(
            checks.run(self._own_checks()),
            asyncio.get_running_loop().run_in_executor(self._threads, _network),
        )
        wanted = [s for s in self._services.all() if s.enabled and not s.stopped and not s.deleting]
        return {
            **{f"component:{name}": _component(c) for name, c in self._health.components().items()
               if name not in _NOT_ASKED},
            **{f"service:{s.name}": _service(self._reconciler.report(s.name)) for s in wanted},
            **reached,
            **own,
        }  # fmt: skip


def _component(component: Component) -> Finding:
    is_well = component.status is Level.HEALTHY
    return Finding(None if is_well else component.message or str(component.status))


def _service(report: Report) -> Finding:
    """A container that was replaced or started anew was away in between: its token is another one."""
    container = report.container
    token = f"{container.id} {container.started_at}" if container is not None else ""
    # What stands still for a backup, or for its data to be put back, is not ill.
    if report.status == "running" or report.reason in ("held", "backup"):
        return Finding(None, token)
    return Finding(f"is {report.status}" + (f" ({report.message})" if report.message else ""), token)


def _network() -> dict[str, Finding]:
    """A default route for each family that has one, and one interface at least that others can reach."""
    try:
        routes, interfaces = network.default_routes(), network.interfaces()
    except OSError as error:
        return {"network:link": Finding(f"the kernel does not tell: {error.strerror}")}
    families = {route.family for route in routes}
    up = any(
        interface.state == "up"
        and interface.kind != "loopback"
        and any(a.scope == "global" for a in interface.addresses)
        for interface in interfaces
        if interface.kind != "bridge"
    )
    return {
        "network:link": Finding(None if up else "no interface is up and has an address"),
        **{
            f"network:{family}": Finding(None if family in families else "there is no default route")
            for family in ("inet", "inet6")
        },
    }
