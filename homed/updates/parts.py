"""Builds the parts of updates, of what the daemon gives."""

from collections import Counter
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
from homed.local_time import LocalZone
from homed.updates import pending
from homed.updates.desk import Desk
from homed.updates.inspecting import Inspector
from homed.updates.installer import Watch
from homed.updates.ledger import Ledger
from homed.updates.records import GUARDED, State
from homed.updates.runner import Runner
from homed.updates.steps import Observe, Steps
from homed.updates.trial import Trials
from homed.updates.updater import Updater

Gauge = tuple[str, str, tuple[str, ...], list[tuple[tuple[str, ...], float]]]


class Parts(NamedTuple):
    desk: Desk
    watch: Watch
    runner: Runner
    updater: Updater
    trials: Trials

    async def stop(self) -> None:
        """To be said when homed ends: it may be for a reboot into what is installed."""
        update = self.desk.current
        if update is not None and update.state is State.INSTALLED:
            await self.trials.copy_again(update)

    def load(self, restored_for: str | None) -> None:
        """Read what is on the disk; `restored_for` is the update whose copy of homed's state was just put back."""
        ledger = self.desk.ledger
        ledger.load()
        for update in ledger.all():
            if update.id == restored_for:
                ledger.save(msgspec.structs.replace(update, state_restored=True))
        guarded = {update.id for update in ledger.all() if update.state in GUARDED}
        known = {update.id for update in ledger.all()}
        if pending.identity(ledger.folder) in known - guarded:
            # homed was ended just after the verdict, which the guard would take for one that never came.
            pending.remove(ledger.folder)


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
    trials = Trials(desk, watch, Power(bus), config, observe, boot_clock, copy)
    runner = Runner(desk, watch, steps, trials, config, boot_clock, LocalZone())
    # A mark that is not set for want of the bus costs a boot attempt, if the power goes meanwhile.
    bus.listen(runner.wake)
    updater = Updater(desk, watch, inspector, runner, trials, config, boot_clock)
    return Parts(desk, watch, runner, updater, trials)


def tell(parts: Parts) -> Component:
    """For /health: a board without RAUC lacks nothing; a system on trial is told of."""
    update = parts.desk.current
    if update is not None and update.state in (State.JUDGING, State.ROLLING_BACK):
        return Component(Level.HEALTHY, f"update {update.id} is {update.state}", needed=False)
    if parts.watch.as_of is not None and not parts.watch.available:
        return Component(Level.DEGRADED, parts.watch.trouble, needed=False)
    return Component(Level.HEALTHY, parts.watch.trouble or None, needed=False)


def gauges(parts: Parts) -> list[Gauge]:
    """For Prometheus."""
    facts, update = parts.watch.facts, parts.desk.current
    ended = Counter(str(one.state) for one in parts.desk.ledger.all() if one.ended)
    bootable = [slot for slot in facts.slots if slot.bootname]
    return [
        ("homed_rauc_up", "Whether RAUC answered when it was last asked.", (), [((), float(parts.watch.available))]),
        ("homed_slot_good", "Whether the bootloader holds a slot for good.", ("slot",),
         [((slot.name,), float(slot.boot_status == "good")) for slot in bootable]),
        ("homed_slot_booted", "Whether a slot is the one that runs.", ("slot",),
         [((slot.name,), float(slot.name == facts.booted)) for slot in bootable]),
        ("homed_update_under_way", "The update under way, by its state.", ("state",),
         [] if update is None else [((str(update.state),), 1.0)]),
        ("homed_updates", "Updates in the history, by how they ended.", ("state",),
         [((state,), float(count)) for state, count in sorted(ended.items())]),
    ]  # fmt: skip
