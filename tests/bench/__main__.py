"""`python -m tests.bench [NAME…]`: measure all, or the ones named, and print one table."""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Final

from tests.bench import idle, listing, logs, requests, starting
from tests.bench.bed import Bed
from tests.bench.figures import Figure, table
from tests.support.engine import why_no_engine

_BENCHMARKS: Final[dict[str, Callable[[Bed], Iterator[Figure]]]] = {
    "requests": requests.run,
    "listing": listing.run,
    "starting": starting.run,
    "logs": logs.run,
    "idle": idle.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(_BENCHMARKS))
    names: list[str] = parser.parse_args().names or list(_BENCHMARKS)
    if unknown := [name for name in names if name not in _BENCHMARKS]:
        parser.error(f"there is no {', '.join(unknown)}: one of {', '.join(_BENCHMARKS)}")
    reason = why_no_engine()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    figures: list[Figure] = []
    with Bed() as bed:
        for name in names:
            print(f"{name}:", flush=True)
            for figure in _BENCHMARKS[name](bed):
                figures.append(figure)
                print(f"  {'; '.join(part for part in (*figure.cells, figure.note) if part)}", flush=True)
        engine = bed.engine.client.version()["Version"]
    print(f"\n{table(figures)}\n")
    print(
        f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores, "
        f"kernel {platform.release()}, Docker Engine {engine}. Medians; the spread is of single rounds."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
