"""One line for each step, with its time, and what failed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic


class Report:
    """Of several machines at the same time; each line is written whole."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self._began = monotonic()
        self._lock = threading.Lock()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return monotonic() - self._began

    def say(self, who: str, text: str, seconds: float | None = None) -> None:
        """Write a line."""
        took = "" if seconds is None else f"{seconds:6.1f} s"
        minutes, rest = divmod(int(self.elapsed), 60)
        with self._lock:
            print(f"{minutes:3d}:{rest:02d}  {who:8} {took:>8}  {text}", flush=True)

    def fail(self, who: str, what: str, error: BaseException) -> None:
        """Note a failure; the others go on."""
        self.failures.append(f"{who}: {what}: {error}")
        self.say(who, f"FAILED: {what}: {error}")

    @contextmanager
    def step(self, who: str, what: str) -> Iterator[list[str]]:
        """Time a step; what is put into the list is said behind it."""
        began = monotonic()
        notes: list[str] = []
        try:
            yield notes
        except BaseException:
            self.say(who, f"NOT SO: {what}", monotonic() - began)
            raise
        self.say(who, "; ".join((what, *notes)), monotonic() - began)
