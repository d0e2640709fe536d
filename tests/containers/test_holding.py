"""Services that are held down for a while: who stops first, what waits, and that all comes back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from homed.api.homei.services import Acted, PullQuery, _Resource
from homed.containers.capturing import Capturing
from homed.containers.engine import Engine
from homed.containers.streams import Streams
from homed.errors import BackupError, EngineError
from homed.observation import struggling
from tests.support.fake_engine import FakeEngine
from tests.support.held_services import Board, board

WHY = "its data is being restored"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def one(tmp_path: Path, engine: FakeEngine) -> AsyncIterator[Board]:
    async with board(tmp_path, cast(Engine, engine), cast(Streams, engine)) as made:
        yield made


async def chain(one: Board) -> None:
    """`web` needs `app`, which needs `db`; `other` needs nothing."""
    await one.create("db")
    await one.create("app", depends_on=("db",))
    await one.create("web", depends_on=("app",))
    await one.create("other")
    for name in ("db", "app", "web", "other"):
        await one.reaches(name, "running")


def stopped(engine: FakeEngine) -> list[str]:
    names = {identity: made["Name"][1:] for identity, made in engine.containers.items()}
    return [names[about] for call, about in engine.calls if call == "stop"]


def started(engine: FakeEngine) -> list[str]:
    names = {identity: made["Name"][1:] for identity, made in engine.containers.items()}
    return [names[about] for call, about in engine.calls if call == "start"]


async def test_what_depends_on_others_stops_first_and_starts_last(one: Board, engine: FakeEngine) -> None:
    await chain(one)
    engine.calls.clear()
    await one.capturing.hold(["db", "app", "web"], WHY)
    assert stopped(engine) == ["web", "app", "db"]
    assert engine.running() == ["other"]
    report = one.reconciler.report("app")
    assert (report.status, report.reason, report.message, report.wanted) == ("held", "held", WHY, "running")
    await one.capturing.release(["db", "app", "web"])
    for name in ("db", "app", "web"):
        await one.reaches(name, "running")
    assert started(engine) == ["db", "app", "web"]


async def test_a_held_service_stays_down_whatever_happens(one: Board, engine: FakeEngine) -> None:
    await one.create("web")
    await one.reaches("web", "running")
    await one.capturing.hold(["web"], WHY)
    await one.change("web", restart=True)
    await one.services.change(
        "web", lambda s: msgspec.structs.replace(s, spec=msgspec.structs.replace(s.spec, image="app:2"))
    )
    engine.remove_by_hand(str(engine.by_name("web")["Id"]))
    revision = one.services.get("web").revision
    await one.until(lambda: one.reconciler.report("web").revision >= revision)
    assert (await one.reaches("web", "held", "held")).container is None
    assert engine.running() == []
    await one.capturing.release(["web"])
    await one.reaches("web", "running")
    assert engine.by_name("web")["Config"]["Image"] == "app:2"


@pytest.mark.parametrize("policy", ["no", "on-failure", "unless-stopped"])
async def test_it_is_started_again_whatever_its_policy_says_of_an_end(
    one: Board, engine: FakeEngine, policy: str
) -> None:
    await one.create("web", restart_policy=policy)
    await one.reaches("web", "running")
    await one.capturing.hold(["web"], WHY)
    await one.capturing.release(["web"])
    await one.reaches("web", "running")
    assert not one.services.get("web").service.again


async def test_it_is_started_again_also_by_a_homed_that_starts_anew(tmp_path: Path, engine: FakeEngine) -> None:
    fake = (cast(Engine, engine), cast(Streams, engine))
    async with board(tmp_path, *fake) as one:
        await one.create("web", restart_policy="no")
        await one.reaches("web", "running")
        await one.capturing.hold(["web"], WHY)
    assert engine.running() == []
    async with board(tmp_path, *fake) as one:
        await one.reaches("web", "running")


async def test_a_homed_that_is_told_to_holds_from_its_start(tmp_path: Path, engine: FakeEngine) -> None:
    fake = (cast(Engine, engine), cast(Streams, engine))
    async with board(tmp_path, *fake) as one:
        await one.create("web")
        await one.reaches("web", "running")
        await one.capturing.hold(["web"], WHY)
    engine.calls.clear()

    async def keep(capturing: Capturing) -> None:
        capturing.keep_held(["web"], WHY)

    async with board(tmp_path, *fake, before=keep) as one:
        await one.reaches("web", "held", "held")
        assert engine.count("start") == 0
        await one.capturing.release(["web"])
        await one.reaches("web", "running")


async def test_what_its_owner_stopped_is_held_too_and_stays_stopped(one: Board, engine: FakeEngine) -> None:
    await one.create("web")
    await one.reaches("web", "running")
    await one.change("web", stopped=True)
    await one.reaches("web", "stopped", "stopped")
    await one.capturing.hold(["web"], WHY)
    await one.capturing.release(["web"])
    await one.reaches("web", "stopped", "stopped")
    assert engine.running() == []


async def test_a_deletion_waits_until_it_is_released(one: Board, engine: FakeEngine) -> None:
    await one.create("web")
    await one.reaches("web", "running")
    await one.capturing.hold(["web"], WHY)
    revision = (await one.services.delete("web")).revision
    await one.until(lambda: one.reconciler.report("web").revision >= revision)
    assert list(engine.containers)
    await one.capturing.release(["web"])
    await one.until(lambda: not engine.containers and one.services.find("web") is None)


async def test_a_service_made_while_its_name_is_held_is_not_started(one: Board, engine: FakeEngine) -> None:
    await one.capturing.hold(["web"], WHY)
    await one.create("web")
    await one.reaches("web", "held", "held")
    assert not engine.containers
    await one.capturing.release(["web"])
    await one.reaches("web", "running")


async def test_a_pull_is_given_up_for_a_hold(one: Board, engine: FakeEngine) -> None:
    await one.create("web")
    await one.reaches("web", "running")
    engine.trouble.gates["pull"] = asyncio.Event()
    await one.services.change(
        "web", lambda s: msgspec.structs.replace(s, spec=msgspec.structs.replace(s.spec, image="app:2"))
    )
    await one.until(lambda: engine.count("pull") == 2)
    await one.capturing.hold(["web"], WHY)
    assert engine.running() == []
    engine.trouble.gates["pull"].set()
    await one.capturing.release(["web"])
    await one.reaches("web", "running")


async def test_where_one_does_not_stop_all_are_let_go_and_it_is_named(tmp_path: Path, engine: FakeEngine) -> None:
    async with board(tmp_path, cast(Engine, engine), cast(Streams, engine), margin=0.3) as one:
        await one.create("db", stop_timeout=0)
        await one.create("web", depends_on=("db",), stop_timeout=0)
        for name in ("db", "web"):
            await one.reaches(name, "running")
        names = {engine.by_name("db")["Id"]}
        original = engine.stop

        async def stop(container: str, timeout: int) -> None:
            if container in names:
                raise EngineError("it cannot be killed")
            await original(container, timeout)

        engine.stop = stop  # type: ignore[method-assign]
        with pytest.raises(BackupError, match="db did not stop: it cannot be killed"):
            await one.capturing.hold(["db", "web"], WHY)
        await one.reaches("db", "running")
        await one.reaches("web", "running")


async def test_a_hold_that_is_given_up_lets_all_go(one: Board, engine: FakeEngine) -> None:
    await one.create("web")
    await one.reaches("web", "running")
    engine.trouble.gates["stop"] = asyncio.Event()
    task = asyncio.create_task(one.capturing.hold(["web"], WHY))
    await one.until(lambda: engine.count("stop"))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    engine.trouble.gates["stop"].set()
    await one.reaches("web", "running")


async def test_held_anew_at_once_it_is_seen_to_be_down_anew(one: Board, engine: FakeEngine) -> None:
    """What was told of the hold before must not be taken for this one."""
    await one.create("web")
    await one.reaches("web", "running")
    for _ in range(10):
        await one.capturing.hold(["web"], WHY)
        assert engine.running() == []
        await one.capturing.release(["web"])
        await asyncio.sleep(0.001)


async def test_health_is_not_lowered_by_a_service_that_is_held(one: Board) -> None:
    await one.create("web")
    await one.reaches("web", "running")
    await one.capturing.hold(["web"], WHY)
    assert struggling([("web", one.reconciler.report("web"))]) == []


async def test_nobody_waits_for_a_homed_that_ends(one: Board) -> None:
    await one.create("web", image="missing:1")
    waiting = asyncio.create_task(one.capturing.settle(["web"], 3600))
    await one.until(lambda: one.reconciler.report("web").reason == "pull_failed")
    await one.reconciler.stop()
    async with asyncio.timeout(20):
        assert (await waiting)[0].startswith("web is ")


@pytest.mark.parametrize("verb", ["start", "restart", "enable"])
async def test_what_is_asked_of_a_held_service_is_taken_and_said_to_come_later(one: Board, verb: str) -> None:
    await one.create("web")
    await one.reaches("web", "running")
    await one.capturing.hold(["web"], WHY)
    status, said = await ask(one, verb)
    assert (status, said.status, said.message.partition(": ")[2]) == (202, "held", WHY)
    await one.capturing.release(["web"])
    await one.reaches("web", "running")


async def test_a_restart_of_a_frozen_service_is_said_to_come_later(one: Board, engine: FakeEngine) -> None:
    await one.create("web")
    await one.reaches("web", "running")
    await one.capturing.pause(["web"])
    status, said = await ask(one, "restart")
    assert (status, said.status) == (202, "paused") and engine.count("stop") == 0
    await one.capturing.resume(["web"])
    await one.until(lambda: engine.count("stop") == 1)
    await one.reaches("web", "running")


async def ask(one: Board, verb: str) -> tuple[int, Acted]:
    call = SimpleNamespace(path={"service_name": "web"}, query=PullQuery())
    answer = await getattr(_Resource(one.services, one.reconciler), verb)(call)
    return cast("tuple[int, Acted]", answer)
