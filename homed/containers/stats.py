"""What containers use: a sample of each now and then, so that an answer needs one quick call and no wait.

CPU is a difference of two samples. The engine's own answer waits a second or two to have both; here the older
one is always at hand, and where a container is too young for one, its start is.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from homed.clock import now
from homed.containers.engine import Engine
from homed.containers.model import Container, State
from homed.containers.view import View
from homed.errors import ConflictError, EngineError, HomedError

log = logging.getLogger(__name__)
_FRESH = 1.0


class Sample(NamedTuple):
    """Counters at `at` (monotonic seconds): `cpu` in nanoseconds of all cores together, sizes in bytes."""

    at: float
    cpu: int
    memory: int
    memory_limit: int
    rx: int
    tx: int
    read: int
    written: int
    pids: int


class Usage(NamedTuple):
    """`cpu_percent` is of one core, over `seconds`."""

    cpu_percent: float
    seconds: float
    sample: Sample


def parse(data: Mapping[str, Any], at: float) -> Sample:
    """A sample from Docker's stats; what the engine does not tell (a stopped container) is 0. EngineError."""
    try:
        return _parse(data, at)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise EngineError(f"Docker Engine told of usage in an unknown form: {error!r}") from error


def _parse(data: Mapping[str, Any], at: float) -> Sample:
    memory = data.get("memory_stats") or {}
    details = memory.get("stats") or {}
    # As `docker stats`: the page cache that can be given back is not counted (cgroup v1 and v2 name it differently).
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    networks = (data.get("networks") or {}).values()
    return Sample(
        at=at,
        cpu=int(((data.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage", 0)),
        memory=max(0, int(memory.get("usage", 0)) - int(cache)),
        memory_limit=int(memory.get("limit", 0)),
        rx=sum(int(one.get("rx_bytes", 0)) for one in networks),
        tx=sum(int(one.get("tx_bytes", 0)) for one in networks),
        read=_blocks(data, "read"),
        written=_blocks(data, "write"),
        pids=int((data.get("pids_stats") or {}).get("current", 0) or 0),
    )


def usage(before: Sample, after: Sample) -> Usage:
    seconds = after.at - before.at
    used = max(0, after.cpu - before.cpu) / 1e9
    return Usage(round(100 * used / seconds, 2) if seconds > 0 else 0.0, round(seconds, 3), after)


def _blocks(data: Mapping[str, Any], operation: str) -> int:
    rows = (data.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    return sum(int(row["value"]) for row in rows if str(row.get("op", "")).lower() == operation)


class Stats:
    """Run it with `run()`; `interval` is in seconds."""

    def __init__(self, engine: Engine, view: View, interval: Callable[[], float]):
        self._engine = engine
        self._view = view
        self._interval = interval
        self._samples: dict[str, tuple[Sample, Sample]] = {}

    async def usage(self, container: Container) -> Usage:
        """ConflictError where it does not run; EngineError."""
        if container.state not in (State.RUNNING, State.PAUSED):
            raise ConflictError(
                f"Container '{container.name}' does not run", code="CONTAINER_NOT_RUNNING",
                details={"container_id": container.id, "status": str(container.state)},
            )  # fmt: skip
        known = self._samples.get(container.id)
        if known is None or time.monotonic() - known[1].at >= _FRESH:
            known = await self._sample(container)
        return usage(*known)

    async def run(self) -> None:
        """Sample what runs, for ever, one after the other: a slow engine is not pressed."""
        while True:
            await asyncio.sleep(self._interval())
            running = [c for c in self._view.all() if c.state is State.RUNNING] if self._view.connected else []
            alive = {container.id for container in running}
            self._samples = {key: value for key, value in self._samples.items() if key in alive}
            for container in running:
                try:
                    await self._sample(container)
                except HomedError as error:
                    log.debug("No sample of %s: %s", container.name, error.message)

    async def _sample(self, container: Container) -> tuple[Sample, Sample]:
        data = await self._engine.stats(container.id)
        new = parse(data, time.monotonic())
        known = self._samples.get(container.id)
        before = known[1] if known is not None and new.cpu >= known[1].cpu else _at_start(container, new)
        self._samples[container.id] = (before, new)
        return before, new


def _at_start(container: Container, sample: Sample) -> Sample:
    """The counters at the container's start: zero."""
    age = (now() - container.started_at).total_seconds() if container.started_at else 0.0
    return sample._replace(at=sample.at - max(age, 0.001), cpu=0)
