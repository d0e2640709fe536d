import time

from homed.host.cpu import CpuMeter, CpuUse, Times


class Board:
    """Two cores whose counters a test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.cores: list[Times] = [(10.0, 100.0), (20.0, 100.0)]

    def meter(self) -> CpuMeter:
        return CpuMeter(clock=lambda: self.now, sample=lambda: list(self.cores))

    def passes(self, seconds: float, *busy: float) -> None:
        self.now += seconds
        self.cores = [(b + more, t + seconds) for (b, t), more in zip(self.cores, busy, strict=True)]


def test_use_is_measured_from_the_read_before() -> None:
    board = Board()
    meter = board.meter()
    board.passes(10, 5, 10)
    assert meter.read() == CpuUse(75.0, (50.0, 100.0), 10.0)
    board.passes(4, 0, 1)
    assert meter.read() == CpuUse(12.5, (0.0, 25.0), 4.0)


def test_two_who_ask_at_once_get_one_answer() -> None:
    board = Board()
    meter = board.meter()
    board.passes(10, 5, 10)
    first = meter.read()
    board.passes(0.01, 0.01, 0.01)
    assert meter.read() is first


def test_a_core_that_was_switched_off_is_not_compared() -> None:
    board = Board()
    meter = board.meter()
    board.now += 5
    board.cores = board.cores[:1]
    assert meter.read() == CpuUse(0.0, (0.0,), 5.0)


def test_a_counter_that_steps_back_is_not_below_zero() -> None:
    board = Board()
    meter = board.meter()
    board.passes(2, -1, 0)
    assert meter.read().per_core == (0.0, 0.0)


def test_a_busy_core_is_seen() -> None:
    meter = CpuMeter(shortest=0)
    until = time.monotonic() + 0.4
    while time.monotonic() < until:
        pass
    assert max(meter.read().per_core) > 50
