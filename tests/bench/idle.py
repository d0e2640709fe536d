"""homed with 20 services and nobody asking: its memory, its start, its processor time."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.bench.bed import SERVICES, Bed, Served
from tests.bench.figures import Figure, at_most

_STARTS: Final = 7
_WATCHED: Final = 60.0
_QUIET: Final = 5.0


def run(bed: Bed) -> Iterator[Figure]:
    with bed.homed(services=SERVICES) as homed:
        rest = f"with {SERVICES} containers"
        starts = []
        for _ in range(_STARTS):
            homed.stop()
            starts.append(_start(homed))
        yield at_most(f"start to READY=1 {rest}", 1, starts, "s")
        time.sleep(_QUIET)
        cpu, began = homed.cpu(), time.monotonic()
        sizes = []
        while (waited := time.monotonic() - began) < _WATCHED:
            time.sleep(min(10.0, _WATCHED - waited))
            sizes.append(homed.pss())
        used = 100 * (homed.cpu() - cpu) / (time.monotonic() - began)
        yield at_most(f"PSS {rest}", 60, sizes, "MB", note=f"{_threads(homed)} threads")
        yield at_most(f"processor {rest}, over {_WATCHED:g} s", 0.3, [used], "% of a core")


def _start(homed: Served) -> float:
    """Seconds from the process to its READY."""
    path = homed.folder / "notify"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(path))
        channel.settimeout(30)
        started = time.perf_counter()
        homed.launch(notify=str(path))
        while b"READY=1" not in channel.recv(4096):
            pass
        return time.perf_counter() - started


def _threads(homed: Served) -> int:
    found = re.search(r"^Threads:\s+(\d+)", Path(f"/proc/{homed.pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
