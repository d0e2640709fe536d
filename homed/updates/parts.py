"""Builds the parts of updates, of what the daemon gives."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from homed.bus.connection import Bus
from homed.bus.login1 import Power
from homed.bus.rauc import Installer
from homed.config import Updates
from homed.events import Events
from homed.health import Component, Level
from homed.updates.desk import Desk
from homed.updates.inspecting import Inspector
from homed.updates.installer import Watch
from homed.updates.ledger import Ledger
from homed.updates.records import State
from homed.updates.runner import Runner
from homed.updates.steps import Observe, Steps
from homed.updates.trial import Trials
from homed.updates.updater import Updater


class Parts(NamedTuple):
    desk: Desk
    watch: Watch
    runner: Runner
    updater: Updater

    def load(self, restored_for: str | None) -> None:
        """Read what is on the disk; `restored_for` is the update whose copy of homed's state was just put back."""
        ledger = self.desk.ledger
        ledger.load()
        for update in ledger.all():
            if update.id == restored_for:
                ledger.save(msgspec.structs.replace(update, state_restored=True))


def build(
    folder: Path,
    bus: Bus,
    events: Events,
    config: Callable[[], Updates],
    observe: Observe,
    copy: Callable[[Path], None],
    boot_id: str,
    boot_clock: Callable[[], float],
) -> Parts:
    """`folder` holds the updates; `copy` copies homed's state into an update's folder and blocks."""
    desk = Desk(Ledger(folder), events, lambda: config().deadline)
    watch = Watch(Installer(bus), boot_id, partial(desk.progressed, State.INSTALLING))
    inspector = Inspector(watch)
    steps = Steps(desk, watch, inspector, config, observe, copy)
    trials = Trials(desk, watch, Power(bus), config, observe, boot_clock)
    runner = Runner(desk, watch, steps, trials, config, boot_clock)
    return Parts(desk, watch, runner, Updater(desk, watch, inspector, runner, trials, config, boot_clock))


def tell(parts: Parts) -> Component:
    """For /health: a board without RAUC lacks nothing; a system on trial is told of."""
    update = parts.desk.current
    if update is not None and update.state in (State.JUDGING, State.ROLLING_BACK):
        return Component(Level.HEALTHY, f"update {update.id} is {update.state}", needed=False)
    if parts.watch.as_of is not None and not parts.watch.available:
        return Component(Level.DEGRADED, parts.watch.trouble, needed=False)
    return Component(Level.HEALTHY, parts.watch.trouble or None, needed=False)
