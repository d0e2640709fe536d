"""Requests per second of two answers, with all that homed does to one, beside a handler that does nothing."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.bench.bed import SERVICES, Bed, Served, rate
from tests.bench.figures import Figure, at_least, in_turn, medians, ratios

_ROUNDS: Final = 5
_SECONDS: Final = 4.0
_CONNECTIONS: Final = 16
_PATHS: Final = ("/health", "/api/v1/services")


def run(bed: Bed) -> Iterator[Figure]:
    with bed.homed(services=SERVICES) as homed:
        key = homed.key("admin")
        header = f"X-API-Key: {key}"
        api = homed.api.with_key(key)
        with bed.bare({path: api.get(path).body for path in _PATHS}) as bare:
            for path in _PATHS:
                yield _measure(homed, bare, path, header)
        print(f"  {_lost(homed)}")


def _measure(homed: Served, bare: str, path: str, header: str) -> Figure:
    busy: list[float] = []

    def ours() -> float:
        before, began = homed.cpu(), time.monotonic()
        found = rate(f"127.0.0.1:{homed.port}", path, _SECONDS, _CONNECTIONS, header)
        busy.append((homed.cpu() - before) / (time.monotonic() - began))
        return found

    pairs = in_turn(_ROUNDS, ours, lambda: rate(bare, path, _SECONDS, _CONNECTIONS, header))
    note = f"{medians(pairs, 'requests/s')}; homed used {100 * min(busy):.0f} % of a core or more"
    return at_least(f"GET {path}, of a bare handler's requests", 0.7, ratios(pairs), note=note)


def _lost(homed: Served) -> str:
    metrics = homed.api.get("/metrics").body.decode()
    lost = next(line.split()[1] for line in metrics.splitlines() if line.startswith("homed_log_records_lost "))
    size = Path(homed.folder / "homed.log").stat().st_size / 1e6
    return f"log records lost: {float(lost):.0f}; the log has {size:.0f} MB"
