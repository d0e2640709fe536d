"""`python -m tests.bench [NAME…]`: measure all, or the ones named, and print one table."""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from tests.bench import (
    archives,
    backups,
    followers,
    idle,
    incremental,
    listing,
    listing_jobs,
    logs,
    pause,
    requests,
    ssh,
    starting,
    submitting,
    units,
    updates,
)
from tests.bench.bed import Bed
from tests.bench.figures import Figure, table
from tests.boards.rig.process import command
from tests.support.engine import why_no_engine
from tests.support.rauc import why_no_rauc


def _engine(bed: Bed) -> str:
    return f"Docker Engine {bed.engine.client.version()['Version']}"


def _rauc(_: Bed) -> str:
    return f"RAUC {command('rauc', '--version').split()[-1]}"


def _nothing(_: Bed) -> str:
    return ""


class _Benchmark(NamedTuple):
    """`why_not` is the reason for which it cannot be run here, if there is one; `beside` names what was there too."""

    run: Callable[[Bed], Iterator[Figure]]
    why_not: Callable[[], str | None] = why_no_engine
    beside: Callable[[Bed], str] = _engine


_BENCHMARKS: Final = {
    "requests": _Benchmark(requests.run),
    "listing": _Benchmark(listing.run),
    "starting": _Benchmark(starting.run),
    "logs": _Benchmark(logs.run),
    "idle": _Benchmark(idle.run),
    "updates": _Benchmark(updates.run, why_no_rauc, _rauc),
    "archives": _Benchmark(archives.run, archives.why_not, _nothing),
    "incremental": _Benchmark(incremental.run, incremental.why_not),
    "backups": _Benchmark(backups.run),
    "pause": _Benchmark(pause.run, pause.why_not),
    "submitting": _Benchmark(submitting.run, submitting.why_not, _nothing),
    "listing_jobs": _Benchmark(listing_jobs.run, listing_jobs.why_not, _nothing),
    "followers": _Benchmark(followers.run, followers.why_not, _nothing),
    "ssh": _Benchmark(ssh.run, ssh.why_not, _nothing),
    "units": _Benchmark(units.run, units.why_not, _nothing),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(_BENCHMARKS))
    parser.add_argument("--scale", type=float, default=1.0, help="of what is backed up: 0.05 is quick")
    options = parser.parse_args()
    names: list[str] = options.names or list(_BENCHMARKS)
    if unknown := [name for name in names if name not in _BENCHMARKS]:
        parser.error(f"there is no {', '.join(unknown)}: one of {', '.join(_BENCHMARKS)}")
    figures: list[Figure] = []
    beside: set[str] = set()
    with Bed(options.scale) as bed:
        for name in names:
            print(f"{name}:", flush=True)
            benchmark = _BENCHMARKS[name]
            reason = benchmark.why_not()
            if reason is not None:
                print(f"  left out: {reason}", flush=True)
                continue
            for figure in benchmark.run(bed):
                figures.append(figure)
                print(f"  {'; '.join(part for part in (*figure.cells, figure.note) if part)}", flush=True)
            beside.add(benchmark.beside(bed))
    if not figures:
        return 1
    print(f"\n{table(figures)}\n")
    print(
        f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores, "
        f"kernel {platform.release()}{''.join(f', {name}' for name in sorted(beside - {''}))}. "
        "Medians; the spread is of single rounds."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
