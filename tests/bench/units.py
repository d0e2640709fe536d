"""Jobs as systemd's units, on a booted board: `true` by homed's API, to the end of its stream, and by `systemd-run`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.bench.bed import Bed
from tests.bench.figures import Figure, at_least, at_most, medians, ratios
from tests.boards.homed import Homed, build_wheel
from tests.boards.rig.install import LOCKS, dependencies
from tests.boards.rig.needs import why_no_boards
from tests.boards.rig.network import Network
from tests.boards.rig.process import until
from tests.boards.rig.rack import Rack
from tests.boards.rig.root import board_root
from tests.boards.rig.workspace import Workspace

_CONFIG: Final = "[api.limits]\nenabled = false\n"
_CLIENT: Final = "/tmp/units_client.py"
_PATIENCE: Final = 300.0


def why_not() -> str | None:
    return why_no_boards()


def run(bed: Bed) -> Iterator[Figure]:
    root = board_root()
    layers = (dependencies(root, *LOCKS),)
    with Workspace() as workspace, Network() as network, Rack(root, workspace, network) as boards:
        homed = Homed(boards("units", layers=layers), build_wheel(bed.folder))
        homed.configure(_CONFIG)
        homed.restart()
        until("homed to answer", lambda: "alive" in homed.curl("http://127.0.0.1:8080/health/live", check=False), 30)
        homed.board.push(Path(__file__).with_name("units_client.py"), _CLIENT)
        alone = _measured(homed, "alone")
        note = medians([(1000 * ours, 1000 * theirs) for ours, theirs in alone], "ms")
        yield at_most("`true` as a unit, from POST to its end, of `systemd-run --wait`", 1.3, ratios(alone), note=note)
        crowd = _measured(homed, "crowd")
        note = medians(crowd, "jobs/s")
        yield at_least("32 of them at once: jobs/s, of 32 `systemd-run --wait`", 0.5, ratios(crowd), note=note)


def _measured(homed: Homed, what: str) -> list[tuple[float, float]]:
    said = homed.board.run("python3", _CLIENT, what, timeout=_PATIENCE).stdout
    return [(float(ours), float(theirs)) for ours, theirs in json.loads(said)]
