"""Components that start, fail and recover independently: the control of containers needs none of them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from homed.errors import HomedError, StateUnavailableError
from homed.health import Component as State
from homed.health import Level

log = logging.getLogger(__name__)
Gauge = tuple[str, str, tuple[str, ...], list[tuple[tuple[str, ...], float]]]
Work = tuple[str, Callable[[], Coroutine[Any, Any, None]]]
_FIRST_RETRY: Final = 1.0
_MAX_RETRY: Final = 60.0
_RETRY_FACTOR: Final = 2.0


def _nothing_missing() -> str:
    return ""


async def _load_nothing() -> None:
    pass


class Component:
    """One capability. `load` reads its data, and is retried until it succeeds; `works` are its background tasks after
    that; `health` is its own report. `waits_for` returns the missing prerequisite, or an empty string.
    """

    def __init__(
        self,
        name: str,
        *,
        load: Callable[[], Awaitable[None]] = _load_nothing,
        works: Callable[[], Sequence[Work]] = tuple,
        health: Callable[[], State] | None = None,
        waits_for: Callable[[], str] = _nothing_missing,
    ):
        self.name = name
        self.is_up = False
        self.restarts = 0
        self._load = load
        self._works = works
        self._health = health
        self._waits_for = waits_for
        self._trouble = "not started yet"
        self._failing: dict[str, str] = {}

    async def load(self) -> bool:
        """Try to load it; return False on failure, explained by `health`."""
        try:
            missing = self._waits_for()
            if missing:
                self._set_trouble(missing, None)
                return False
            await self._load()
        except Exception as error:  # noqa: BLE001  no error may prevent the others from starting
            self._set_trouble(_said(error), error)
            return False
        if self._trouble and self.restarts:
            log.info("%s works again", self.name)
        self.is_up, self._trouble = True, ""
        return True

    def _set_trouble(self, trouble: str, error: Exception | None) -> None:
        if trouble != self._trouble:
            known = error is None or isinstance(error, HomedError | OSError)
            trace = None if known else error
            log.error("Cannot start %s, which is tried again: %s", self.name, trouble, exc_info=trace)
        self._trouble = trouble
        self.restarts += 1

    def works(self) -> Sequence[Work]:
        return self._works()

    async def keep(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a background task, and restart it with a delay if it fails."""
        delay = _FIRST_RETRY
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await work()
            except Exception as error:
                log.exception("%s failed, and is begun again", name)
                self._failing[name] = _said(error)
                self.restarts += 1
            else:
                self._failing.pop(name, None)
                return
            if asyncio.get_running_loop().time() - started > _MAX_RETRY:
                delay = _FIRST_RETRY
            await asyncio.sleep(delay)
            delay = min(delay * _RETRY_FACTOR, _MAX_RETRY)
            asyncio.get_running_loop().call_later(_MAX_RETRY, self._seems_well, name, self.restarts)

    def _seems_well(self, name: str, restarts: int) -> None:
        """Forget the failure of a task that has run long enough since."""
        if self.restarts == restarts:
            self._failing.pop(name, None)

    def health(self) -> State:
        if not self.is_up:
            return State(Level.UNHEALTHY, self._trouble, needed=False)
        own = State(Level.HEALTHY, needed=False) if self._health is None else self._health()
        if not self._failing:
            return own
        said = "; ".join(f"{name} failed and was begun again: {why}" for name, why in self._failing.items())
        return State(max(own.status, Level.DEGRADED, key=_weight), _joined(own.message, said), own.needed)

    def require(self) -> None:
        """Check that it is loaded. Raises: StateUnavailableError."""
        if not self.is_up:
            raise StateUnavailableError(
                f"{self.name} cannot be used now, and homed tries to start it again: {self._trouble}",
                details={"component": self.name},
            )


class Supervisor:
    """Starts components one after the other, and retries those that failed."""

    def __init__(self) -> None:
        self._components: list[Component] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()

    def add(self, component: Component) -> Component:
        self._components.append(component)
        return component

    def __getitem__(self, name: str) -> Component:
        return next(one for one in self._components if one.name == name)

    async def load(self) -> None:
        """Try each once, in order. No failure affects the others or the caller."""
        for component in self._components:
            await component.load()

    def start(self) -> None:
        """Run the loaded components, and retry the others until they are loaded."""
        for component in self._components:
            if component.is_up:
                self._run(component)
            else:
                self._spawn(f"start {component.name}", self._retry(component))

    def wake(self) -> None:
        """Retry components that are not loaded immediately, because a prerequisite may be available now."""
        self._woken.set()
        self._woken = asyncio.Event()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def gauges(self) -> list[Gauge]:
        return [
            ("homed_component_up", "Whether a component has started.", ("component",), [
                ((one.name,), float(one.is_up)) for one in self._components
            ]),
            ("homed_component_restarts", "How often a component, or a part of it, failed and was begun again.",
             ("component",), [((one.name,), float(one.restarts)) for one in self._components]),
        ]  # fmt: skip

    async def _retry(self, component: Component) -> None:
        delay = _FIRST_RETRY
        while True:
            try:
                async with asyncio.timeout(delay):
                    await self._woken.wait()
            except TimeoutError:
                delay = min(delay * _RETRY_FACTOR, _MAX_RETRY)
            if await component.load():
                self._run(component)
                return

    def _run(self, component: Component) -> None:
        for name, work in component.works():
            self._spawn(name, component.keep(name, work))

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _said(error: Exception) -> str:
    if isinstance(error, HomedError):
        return error.message
    return f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error)


def _joined(*parts: str | None) -> str:
    return "; ".join(part for part in parts if part)


def _weight(level: Level) -> int:
    return list(Level).index(level)
