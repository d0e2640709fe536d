"""An event loop whose clock jumps ahead whenever there is nothing to do: hours pass in moments, and always the same."""

import asyncio
import itertools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
# Two that are begun one after the other may end the other way round.
_IN_A_THREAD = (0.001, 0.005, 0.002)


class StuckError(AssertionError):
    """All wait for something that nobody will do."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """What would run in a thread runs a moment later, in its place; there must be no real input or output."""

    def __init__(self, now: float = 0.0) -> None:
        self._jumps = _JumpingSelector(now)
        super().__init__(self._jumps)
        self._lasting = itertools.cycle(_IN_A_THREAD)

    def time(self) -> float:
        return self._jumps.now

    def run_in_executor(  # type: ignore[override]  # its type cannot be written down for each Python
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> "asyncio.Future[T]":
        future: asyncio.Future[T] = self.create_future()
        self.call_later(next(self._lasting), _work, future, func, args)
        return future


def _work(future: "asyncio.Future[T]", func: Callable[..., T], args: tuple[Any, ...]) -> None:
    """As a thread does, it goes on where nobody waits for it any more."""
    try:
        result = func(*args)
    except asyncio.CancelledError:
        future.cancel()
    except Exception as error:
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(result)


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, now: float) -> None:
        super().__init__()
        self.now = now

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise StuckError("nobody does anything any more")
            self.now += max(timeout, 0)
        return ready


def run(main: Coroutine[Any, Any, T], now: float = 0.0) -> T:
    """To its end, in a loop of its own whose clock shows `now`; what it left running is cancelled."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(now)) as runner:
        return runner.run(main)
