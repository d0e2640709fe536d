"""Containers frozen for a capture: only those that ran, never for longer than they must, whatever ends homed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import msgspec
import pytest

from homed.containers import freezing
from homed.containers.capturing import Capturing
from homed.containers.engine import Engine
from homed.containers.spec import HealthCheck
from homed.containers.streams import Streams
from homed.errors import BackupError, EngineError, EngineUnavailableError, StoreError
from homed.observation import struggling
from tests.support.fake_engine import FakeEngine
from tests.support.held_services import Board, board


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def one(tmp_path: Path, engine: FakeEngine) -> AsyncIterator[Board]:
    async with board(tmp_path, cast(Engine, engine), cast(Streams, engine)) as made:
        await made.create("web")
        await made.reaches("web", "running")
        yield made


def state(engine: FakeEngine, name: str) -> str:
    return str(engine.by_name(name)["State"]["Status"])


async def recover(capturing: Capturing) -> None:
    await capturing.recover()


async def noted(one: Board) -> list[str]:
    return [record.key for record in await one.store.list(freezing.BUCKET)]


async def test_a_service_is_frozen_and_goes_on(one: Board, engine: FakeEngine) -> None:
    await one.capturing.pause(["web"])
    assert state(engine, "web") == "paused"
    report = await one.reaches("web", "paused", "backup")
    assert report.message == "it is frozen while its data is captured"
    assert struggling([("web", report)]) == []
    await one.capturing.resume(["web"])
    assert state(engine, "web") == "running"
    await one.reaches("web", "running")
    assert await noted(one) == []


async def test_what_is_to_be_frozen_is_written_down_before(one: Board, engine: FakeEngine) -> None:
    engine.trouble.gates["pause"] = asyncio.Event()
    task = asyncio.create_task(one.capturing.pause(["web"]))
    await one.until(lambda: engine.count("pause"))
    assert await noted(one) == [engine.by_name("web")["Id"]]
    engine.trouble.gates["pause"].set()
    await task


async def test_nothing_is_frozen_where_it_cannot_be_written_down(
    one: Board, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*given: object) -> int:
        raise StoreError("the disk is full")

    monkeypatch.setattr(one.store, "put", full)
    with pytest.raises(StoreError):
        await one.capturing.pause(["web"])
    assert engine.count("pause") == 0
    await one.reaches("web", "running")


async def test_what_its_owner_paused_is_neither_frozen_nor_let_go(one: Board, engine: FakeEngine) -> None:
    engine.pause_by_hand(str(engine.by_name("web")["Id"]))
    await one.reaches("web", "paused", "paused")
    await one.capturing.pause(["web"])
    await one.capturing.resume(["web"])
    assert (state(engine, "web"), engine.count("pause"), engine.count("unpause")) == ("paused", 0, 0)
    await one.reaches("web", "paused", "paused")


async def test_what_its_owner_pauses_in_the_same_moment_is_his(one: Board, engine: FakeEngine) -> None:
    engine.trouble.gates["pause"] = asyncio.Event()
    task = asyncio.create_task(one.capturing.pause(["web"]))
    await one.until(lambda: engine.count("pause"))
    engine.pause_by_hand(str(engine.by_name("web")["Id"]))
    engine.trouble.gates["pause"].set()
    await task
    await one.capturing.resume(["web"])
    assert (state(engine, "web"), engine.count("unpause"), await noted(one)) == ("paused", 0, [])


async def test_where_one_cannot_be_frozen_none_stays_so(one: Board, engine: FakeEngine) -> None:
    await one.create("db")
    await one.reaches("db", "running")
    original, refused = engine.pause, engine.by_name("db")["Id"]

    async def pause(container: str) -> None:
        if container == refused:
            raise EngineError("the freezer is broken")
        await original(container)

    engine.pause = pause  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="the freezer is broken"):
        await one.capturing.pause(["web", "db"])
    await one.reaches("web", "running")
    await one.reaches("db", "running")


async def test_a_freeze_that_is_given_up_is_undone(one: Board, engine: FakeEngine) -> None:
    engine.trouble.gates["pause"] = asyncio.Event()
    task = asyncio.create_task(one.capturing.pause(["web"]))
    await one.until(lambda: engine.count("pause"))
    task.cancel()
    await asyncio.sleep(0)
    engine.trouble.gates["pause"].set()
    await asyncio.gather(task, return_exceptions=True)
    await one.reaches("web", "running")
    assert (state(engine, "web"), await noted(one)) == ("running", [])


async def test_a_pause_that_comes_late_is_undone_too(one: Board, engine: FakeEngine) -> None:
    """The engine did not answer in time, and freezes it when it was already asked to let it go."""
    identity = str(engine.by_name("web")["Id"])

    async def pause(container: str) -> None:
        raise EngineUnavailableError("Docker Engine did not answer within 60 s")

    engine.pause = pause  # type: ignore[method-assign]
    with pytest.raises(EngineUnavailableError):
        await one.capturing.pause(["web"])
    await one.until(lambda: engine.count("unpause"))
    engine.pause_by_hand(identity)
    await one.reaches("web", "running")
    assert state(engine, "web") == "running"


async def test_letting_go_is_tried_until_it_works(
    one: Board, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(freezing, "_PATIENCE", 0.3)
    await one.capturing.pause(["web"])
    engine.trouble.errors["unpause"] = EngineError("the freezer is broken")
    with pytest.raises(BackupError, match="web cannot be let go on yet"):
        await one.capturing.resume(["web"])
    assert "web is still frozen: the freezer is broken" in caplog.text
    del engine.trouble.errors["unpause"]
    await one.reaches("web", "running")
    assert await noted(one) == []


async def test_a_frozen_container_that_goes_away_needs_nothing(one: Board, engine: FakeEngine) -> None:
    await one.capturing.pause(["web"])
    engine.remove_by_hand(str(engine.by_name("web")["Id"]))
    await one.capturing.resume(["web"])
    await one.reaches("web", "running")
    assert await noted(one) == []


async def test_what_its_owner_wants_meanwhile_is_done_afterwards(one: Board, engine: FakeEngine) -> None:
    await one.capturing.pause(["web"])
    entry = await one.services.change("web", lambda service: msgspec.structs.replace(service, stopped=True))
    await one.until(lambda: one.reconciler.report("web").revision >= entry.revision)
    assert state(engine, "web") == "paused"
    await one.capturing.resume(["web"])
    await one.reaches("web", "stopped", "stopped")


async def test_what_is_unhealthy_after_a_freeze_gets_another_look(one: Board, engine: FakeEngine) -> None:
    await one.create("db", health_check=HealthCheck(command="true", interval=50, timeout=5))
    await one.reaches("db", "starting", "settling")
    identity = str(engine.by_name("db")["Id"])
    engine.containers[identity]["Config"]["Healthcheck"] = {"Interval": 50 * 10**9, "Timeout": 5 * 10**9}
    engine.set_health(identity, "healthy")
    await one.reaches("db", "running")
    await one.capturing.pause(["db"])
    engine.set_health(identity, "unhealthy")
    await one.capturing.resume(["db"])
    report = await one.reaches("db", "unhealthy", "unhealthy")
    assert report.next_try is not None and engine.count("stop") == 0
    engine.set_health(identity, "healthy")
    await one.reaches("db", "running")


async def test_a_homed_that_starts_anew_lets_go_what_it_froze_and_only_that(tmp_path: Path, engine: FakeEngine) -> None:
    fake = (cast(Engine, engine), cast(Streams, engine))
    async with board(tmp_path, *fake) as one:
        for name in ("web", "by-hand"):
            await one.create(name)
            await one.reaches(name, "running")
        engine.pause_by_hand(str(engine.by_name("by-hand")["Id"]))
        await one.capturing.pause(["web"])
        engine.trouble.errors["unpause"] = EngineUnavailableError("it is away")
        one.capturing._freezer._let_go = lambda names: []  # type: ignore[method-assign]  # it has no time to
    assert state(engine, "web") == "paused"
    async with board(tmp_path, *fake, before=recover) as one:
        await one.reaches("web", "paused", "backup")
        del engine.trouble.errors["unpause"]
        await one.reaches("web", "running")
        await one.reaches("by-hand", "paused", "paused")
        assert await noted(one) == []


async def test_a_homed_that_is_stopped_leaves_nothing_frozen(tmp_path: Path, engine: FakeEngine) -> None:
    async with board(tmp_path, cast(Engine, engine), cast(Streams, engine)) as one:
        await one.create("web")
        await one.reaches("web", "running")
        await one.capturing.pause(["web"])
    assert state(engine, "web") == "running"
