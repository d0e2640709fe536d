"""The components that may fail without affecting the control of containers."""

import asyncio
from collections.abc import Callable

from homed.backups import parts as backup_parts
from homed.bus.connection import Bus
from homed.components import Component, Supervisor
from homed.containers.stats import Stats
from homed.health import Health
from homed.jobs import parts as job_parts
from homed.updates import parts as update_parts


def supervise(
    health: Health,
    bus: Bus,
    stats: Stats,
    updates: update_parts.Parts,
    restored_for: Callable[[], str | None],
    backups: backup_parts.Parts,
    jobs: job_parts.Parts,
    waits_for: Callable[[], str],
) -> Supervisor:
    """Each in the order of the start. `waits_for` says why jobs, which must not run twice, wait for the state."""

    async def load_updates() -> None:
        await asyncio.to_thread(updates.load, restored_for())

    supervisor = Supervisor()
    for component in (
        Component("bus", works=lambda: [("bus", bus.run)]),
        Component("stats", works=lambda: [("stats", stats.run)]),
        Component(
            "updates", load=load_updates, works=lambda: [("updates", updates.runner.run)],
            health=lambda: update_parts.tell(updates),
        ),
        Component(
            "backups", load=backups.load, health=backups.tell,
            # A timer that was missed fires at once, and asks what serves by now.
            works=lambda: [("backups", backups.run), ("timers", backups.timers.run)],
        ),
        Component("jobs", load=jobs.load, works=jobs.works, health=jobs.tell, waits_for=waits_for),
    ):  # fmt: skip
        health.add(supervisor.add(component).name, component.health)
    return supervisor
