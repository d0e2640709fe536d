"""How busy the processor was since it was last asked: two samples and the time between them."""

import threading
import time
from collections.abc import Callable, Sequence

import msgspec
import psutil

Times = tuple[float, float]  # seconds busy, seconds in all


class CpuUse(msgspec.Struct, frozen=True):
    """Percent of all cores together and of each, over the `over_seconds` before the answer."""

    percent: float
    per_core: tuple[float, ...]
    over_seconds: float


class CpuMeter:
    """Measures from one read to the next.

    psutil's own `cpu_percent` keeps its sample per thread: on a pool each answer would begin elsewhere.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sample: Callable[[], Sequence[Times]] | None = None,
        shortest: float = 1.0,
    ):
        """`shortest`: seconds below which no new interval is begun (the kernel counts in hundredths)."""
        self._clock = clock
        self._sample = sample or _sample
        self._shortest = shortest
        self._lock = threading.Lock()
        self._began = clock()
        self._before = self._sample()
        self._last: CpuUse | None = None

    def read(self) -> CpuUse:
        """The use since the read before (at first: since the meter was made). Never waits; any thread may."""
        with self._lock:
            elapsed = self._clock() - self._began
            if self._last is not None and elapsed < self._shortest:
                return self._last
            now = self._sample()
            self._last = _compare(self._before, now, elapsed)
            self._began, self._before = self._began + elapsed, now
            return self._last


def _compare(before: Sequence[Times], now: Sequence[Times], elapsed: float) -> CpuUse:
    if len(before) != len(now):
        # A core was switched on or off between: there is nothing to compare core by core.
        before = now
    pairs = zip(before, now, strict=True)
    spans = [(busy - was_busy, total - was) for (was_busy, was), (busy, total) in pairs]
    return CpuUse(
        percent=_percent(sum(busy for busy, _ in spans), sum(total for _, total in spans)),
        per_core=tuple(_percent(busy, total) for busy, total in spans),
        over_seconds=round(elapsed, 3),
    )


def _percent(busy: float, total: float) -> float:
    # A counter may step back by a tick (iowait does): never below 0 or above 100.
    return round(min(100.0, max(0.0, 100 * busy / total)), 1) if total > 0 else 0.0


def _sample() -> list[Times]:
    samples = []
    for core in psutil.cpu_times(percpu=True):
        # Guests' time is already inside user and nice.
        total = sum(core) - getattr(core, "guest", 0.0) - getattr(core, "guest_nice", 0.0)
        samples.append((total - core.idle - getattr(core, "iowait", 0.0), total))
    return samples
