"""`make test-vm`: updates on a machine that really boots, and loses its power in the middle of them."""

import argparse
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.boards.rig.needs import why_no_boards
from tests.boards.rig.process import RigError
from tests.boards.rig.workspace import Workspace

from . import bed, cuts, story
from .evidence import keep
from .guest import Guest
from .qemu import Machine
from .report import Report


def main() -> int:
    """Build, run, say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("part", nargs="*", choices=["story", "cuts", []], help="what to run (default: all)")
    parser.add_argument("--machines", type=int, default=2, metavar="N", help="how many at a time (default: 2)")
    options = parser.parse_args()
    reason = why_no_boards()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    return run(set(options.part) or {"story", "cuts"}, options.machines)


def run(parts: set[str], machines: int) -> int:
    """The story on one machine, power cuts on the others; who has told the story takes its share of the cuts."""
    report = Report()
    points: SimpleQueue[cuts.Point] = SimpleQueue()
    if "cuts" in parts:
        for point in cuts.POINTS:
            points.put(point)
    with Workspace() as workspace, ThreadPoolExecutor(max_workers=machines) as workers:
        try:
            rack = Rack(bed.build(workspace.path, report), workspace.path, report)
            told = [workers.submit(rack.tell)] if "story" in parts else []
            cutting = [workers.submit(rack.suffer, points, number) for number in range(1, machines + 1)]
            for done in (*told, *cutting):
                done.result()
            if not points.empty():
                report.fail("cuts", f"{points.qsize()} power cuts were not made", RigError("too many machines failed"))
        except KeyboardInterrupt:
            # No wait for the other threads: machines die with this process, and the next run removes what they leave.
            os._exit(130)
    return summary(report)


class Rack:
    """Machines with the same disk. What fails on one is noted, and the evidence kept."""

    def __init__(self, made: bed.Bed, folder: Path, report: Report) -> None:
        self._made = made
        self._folder = folder
        self._report = report

    def tell(self) -> None:
        """The story."""
        self._on_a_machine("story", lambda guest: story.tell(guest, self._report))

    def suffer(self, points: "SimpleQueue[cuts.Point]", number: int) -> None:
        """Cuts, until there is none left. A machine on which one failed is given up: the next ones get a new one."""
        for letter in "abc":
            if points.empty():
                return
            self._on_a_machine(f"cuts-{number}{letter}", lambda guest: cuts.suffer(guest, points, self._report))

    def _on_a_machine(self, name: str, act: Callable[[Guest], None]) -> None:
        with Machine(name, self._folder, self._made.disk, self._made.media) as machine:
            guest = Guest(machine, self._made.key)
            try:
                act(guest)
            except Exception as error:
                self._report.fail(name, f"see {keep(guest)}", error)
        machine.disk.unlink()


def summary(report: Report) -> int:
    """The exit code."""
    print()
    for failure in report.failures:
        print(f"FAILED {failure}")
    print(f"{'FAILED' if report.failures else 'passed'} in {report.elapsed:.0f} s")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
