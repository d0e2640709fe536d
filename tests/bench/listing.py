"""A list of containers, beside Docker Engine's own over its Unix socket: homed answers from its view."""

from collections.abc import Iterator
from typing import Final

from tests.bench.bed import SERVICES, Bed, rate
from tests.bench.figures import Figure, at_least, in_turn, medians, ratios

_ROUNDS: Final = 5
_SECONDS: Final = 3.0
_CONNECTIONS: Final = 16


def run(bed: Bed) -> Iterator[Figure]:
    with bed.homed(services=SERVICES) as homed:
        key = homed.key("read")
        engine = str(bed.engine.socket)

        def ours() -> float:
            address = f"127.0.0.1:{homed.port}"
            return rate(address, "/api/v1/containers", _SECONDS, _CONNECTIONS, f"X-API-Key: {key}")

        pairs = in_turn(_ROUNDS, ours, lambda: rate(engine, "/containers/json?all=1", _SECONDS, _CONNECTIONS))
        note = medians(pairs, "requests/s")
        yield at_least(f"GET /api/v1/containers of {SERVICES}, of Docker's requests", 8, ratios(pairs), note=note)
