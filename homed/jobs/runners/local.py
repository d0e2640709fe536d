"""Which runner runs processes on this board: systemd where there is one, else homed's own spawner."""

from collections.abc import Callable
from pathlib import Path

from homed.bus.connection import Bus
from homed.bus.systemd1_jobs import TransientUnits
from homed.config.jobs import Jobs as Config
from homed.jobs.ports import Runner
from homed.jobs.runners import subprocess
from homed.jobs.runners.subprocess import Subprocesses
from homed.jobs.runners.units import UnitRunner


def choose(bus: Bus | None, state: Path, uploads: Path, boot: str, config: Callable[[], Config]) -> Runner:
    """`bus` where homed is a unit of the systemd that runs here; `boot` names this boot."""
    if bus is not None:
        return UnitRunner(TransientUnits(bus), uploads, boot, config)
    return Subprocesses(subprocess.places(state), uploads, config, boot)
