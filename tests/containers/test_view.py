"""The engine's state in memory: kept by events, and by a resync where an event was lost."""

import asyncio
from typing import Any, cast

import pytest

from homed.containers import view as view_module
from homed.containers.engine import Engine
from homed.containers.streams import Streams
from homed.containers.view import View
from homed.events import Events
from tests.support.fake_engine import FakeEngine

CONFIGURATION: dict[str, Any] = {"Image": "app:1", "Labels": {}, "HostConfig": {}, "Env": []}


async def started(engine: FakeEngine) -> tuple[View, str]:
    engine.images.add("app:1")
    identity = await engine.create("web", CONFIGURATION)
    await engine.start(identity, lambda taken: None)
    view = View(cast(Engine, engine), cast(Streams, engine), Events(), lambda: 30.0)
    await view.resync()
    return view, identity


async def test_a_resync_notices_what_no_event_told_of() -> None:
    engine = FakeEngine()
    view, identity = await started(engine)
    inspected = engine.containers[identity]
    inspected["State"]["Health"] = {"Status": "unhealthy"}
    await view.resync()
    assert view.find("web").health == "unhealthy"
    inspected["Name"] = "/other"
    await view.resync()
    assert view.find(identity).name == "other"


async def test_a_resync_asks_about_nothing_that_is_as_it_was() -> None:
    engine = FakeEngine()
    view, _ = await started(engine)
    asked = engine.count("inspect")
    await view.resync()
    assert engine.count("inspect") == asked


async def test_the_answer_to_an_older_question_does_not_win() -> None:
    engine = FakeEngine()
    view, identity = await started(engine)
    answers = [dict(engine.containers[identity], Name="/old"), dict(engine.containers[identity], Name="/new")]
    turn = iter([1, 0])

    async def inspect(container: str) -> dict[str, Any]:
        mine = answers.pop(0)
        for _ in range(next(turn) * 5):
            await asyncio.sleep(0)
        return mine

    engine.inspect = inspect  # type: ignore[method-assign]
    await asyncio.gather(view.refresh(identity), view.refresh(identity))
    assert view.find(identity).name == "new"


async def test_it_is_starting_until_the_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    view = View(cast(Engine, engine), cast(Streams, engine), Events(), lambda: 30.0)
    assert view.starting and not view.connected
    following = asyncio.create_task(view.run())
    await view.first_look()
    assert view.connected and not view.starting
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_an_engine_that_does_not_answer_ends_the_start_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_module, "_FIRST_LOOK_TIMEOUT", 0.05)
    engine = FakeEngine()
    never = asyncio.Event()
    engine.version = never.wait  # type: ignore[method-assign, assignment]
    view = View(cast(Engine, engine), cast(Streams, engine), Events(), lambda: 30.0)
    told: list[object] = []
    view.listen(told.append)
    following = asyncio.create_task(view.run())
    async with asyncio.timeout(5):
        await view.first_look()
        while view.starting:
            await asyncio.sleep(0.01)
    assert not view.connected and "has not answered" in view.trouble
    assert told == [None], "who waited for it is told"
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
