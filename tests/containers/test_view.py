"""The engine's state in memory: kept by events, and by a resync where an event was lost."""

import asyncio
from typing import Any, cast

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
