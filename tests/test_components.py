"""A component fails and recovers alone: it says so, its routes answer 503, and the others do not notice."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from homed import components
from homed.components import Component, Supervisor, Work
from homed.errors import StateUnavailableError, StoreError
from homed.health import Component as State
from homed.health import Level


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "_FIRST_RETRY", 0.01)
    monkeypatch.setattr(components, "_MAX_RETRY", 0.05)


class Part:
    """One whose `load` raises `error` as long as there is one; counts what is asked of it."""

    def __init__(self, error: Exception | None = None):
        self.error = error
        self.loads = 0
        self.runs = 0
        self.faults: list[Exception] = []
        self.running = asyncio.Event()

    async def load(self) -> None:
        self.loads += 1
        if self.error is not None:
            raise self.error

    async def work(self) -> None:
        self.runs += 1
        if self.faults:
            raise self.faults.pop()
        self.running.set()
        await asyncio.Event().wait()

    def works(self) -> list[Work]:
        work: Callable[[], Coroutine[Any, Any, None]] = self.work
        return [("work", work)]

    def component(self, name: str = "part", **more: Any) -> Component:
        return Component(name, load=self.load, works=self.works, **more)


@asynccontextmanager
async def supervised(*made: Component) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor()
    for one in made:
        supervisor.add(one)
    await supervisor.load()
    supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), StoreError("the disk fails"), AssertionError(), RecursionError("deep")]
)
async def test_one_that_cannot_load_keeps_no_other_from_starting_and_recovers(error: Exception) -> None:
    broken, well = Part(error), Part()
    one, other = broken.component("one"), well.component("other")
    async with supervised(one, other) as supervisor:
        async with asyncio.timeout(5):
            await well.running.wait()
        assert other.is_up and not one.is_up and broken.runs == 0
        health = one.health()
        assert (health.status, health.needed) == (Level.UNHEALTHY, False)
        assert health.message
        with pytest.raises(StateUnavailableError) as raised:
            one.require()
        assert (raised.value.status, raised.value.retry_after > 0) == (503, True)
        other.require()
        broken.error = None
        async with asyncio.timeout(5):
            await broken.running.wait()
        one.require()
        assert one.health().status is Level.HEALTHY
        gauges = {name: dict(samples) for name, _, _, samples in supervisor.gauges()}
        assert gauges["homed_component_up"] == {("one",): 1.0, ("other",): 1.0}
        assert gauges["homed_component_restarts"][("one",)] >= 1


async def test_it_is_tried_again_ever_more_rarely() -> None:
    part = Part(OSError("away"))
    async with supervised(part.component()):
        await asyncio.sleep(0.5)
    assert 3 <= part.loads <= 25


async def test_what_waits_is_tried_as_soon_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "_FIRST_RETRY", 60.0)
    part, missing = Part(), ["the state is read-only"]
    component = part.component(waits_for=lambda: missing[0] if missing else "")
    async with supervised(component) as supervisor:
        assert component.health().message == "the state is read-only"
        assert part.loads == 0
        missing.clear()
        await asyncio.sleep(0)
        supervisor.wake()
        async with asyncio.timeout(5):
            await part.running.wait()
        assert component.is_up


async def test_a_work_that_fails_is_begun_again_and_told_of_for_a_while() -> None:
    part = Part()
    part.faults = [KeyError("a bug"), ValueError("another")]
    component = part.component(health=lambda: State(Level.HEALTHY, "all else", needed=False))
    async with supervised(component):
        async with asyncio.timeout(5):
            await part.running.wait()
        assert part.runs == 3
        health = component.health()
        assert health.status is Level.DEGRADED and not health.needed
        assert health.message is not None and "a bug" in health.message and "all else" in health.message
        async with asyncio.timeout(5):
            while component.health().status is not Level.HEALTHY:
                await asyncio.sleep(0.01)
    assert component.restarts == 2


async def test_a_stop_ends_what_runs_and_what_is_tried() -> None:
    well, broken = Part(), Part(OSError("away"))
    async with supervised(well.component("well"), broken.component("broken")):
        await asyncio.sleep(0.05)
    loads = broken.loads
    await asyncio.sleep(0.15)
    assert broken.loads == loads and well.runs == 1
