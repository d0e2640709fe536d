"""Waiting for what comes in its own time: a generous deadline, no timed assertions."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(what: str, look: Callable[[], T], deadline: float = 30.0, every: float = 0.05) -> T:
    """The first true value that `look` gives; AssertionError with its last one after `deadline` seconds."""
    end = time.monotonic() + deadline
    while True:
        value = look()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline:g} s in vain for {what}: last seen {value!r}")
        time.sleep(every)


def stays(what: str, look: Callable[[], bool], seconds: float, every: float = 0.05) -> None:
    """Watch that something is so, for a while; AssertionError as soon as it is not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert look(), f"{what} did not stay so"
        time.sleep(every)
