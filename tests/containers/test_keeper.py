"""A keeper for each service, on an engine in memory: what happens is seen, acted on, and said."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from homed.api.homei.services import _enabled
from homed.config import Containers
from homed.containers import view as view_module
from homed.containers.engine import Engine
from homed.containers.executor import Executor
from homed.containers.keeper import Report
from homed.containers.protected import Protected
from homed.containers.reconciler import Reconciler
from homed.containers.records import Service
from homed.containers.sealing import Sealing
from homed.containers.services import Services
from homed.containers.spec import HealthCheck, ServiceSpec
from homed.containers.streams import Streams
from homed.containers.view import View
from homed.errors import ConflictError, EngineError, EngineUnavailableError
from homed.events import Event, Events
from homed.observation import struggling
from homed.store.sqlite import SqliteStore
from homed.vault import Vault
from tests.support.fake_engine import FakeEngine

_DEADLINE = 20.0


@dataclass
class Rig:
    engine: FakeEngine
    services: Services
    reconciler: Reconciler
    view: View
    told: list[Event]
    reports: list[Report]
    config: list[Containers]

    async def create(self, name: str, image: str = "app:1", **spec: Any) -> None:
        await self.services.create(name, ServiceSpec(image=image, **spec), enabled=True)

    async def change(self, name: str, **fields: Any) -> int:
        return (await self.services.change(name, lambda s: msgspec.structs.replace(s, **fields))).revision

    async def update(self, name: str, **spec: Any) -> None:
        def change(service: Service) -> Service:
            return msgspec.structs.replace(service, spec=msgspec.structs.replace(service.spec, **spec), rejected=None)

        await self.services.change(name, change)

    async def until(self, what: Callable[[], object]) -> None:
        async with asyncio.timeout(_DEADLINE):
            while not what():
                await asyncio.sleep(0.005)

    async def reaches(self, name: str, status: str, reason: str | None = None) -> Report:
        """The report once it is so and nothing more is being done."""
        report = Report()

        def look() -> bool:
            nonlocal report
            report = self.reconciler.report(name)
            return not report.busy and report.status == status and report.reason == reason

        try:
            await self.until(look)
        except TimeoutError:
            pytest.fail(f"{name} never became {status} ({reason}): {report}")
        return report

    def id(self, name: str) -> str:
        return str(self.engine.by_name(name)["Id"])


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(view_module, "_SHORTEST_RETRY", 0.01)
    monkeypatch.setattr(view_module, "_LONGEST_RETRY", 0.05)
    engine, events, told = FakeEngine(), Events(), list[Event]()
    events.listen(told.append)
    config = [Containers(settle_time=0.05, start_timeout=5, backoff_first=0.02, backoff_limit=0.1)]
    store = SqliteStore(tmp_path / "homed.db")
    await store.open()
    services = Services(store, lambda spec: [], Sealing(Vault(bytes(32))))
    view = View(cast(Engine, engine), cast(Streams, engine), events, lambda: 30.0)
    executor = Executor(
        cast(Engine, engine), view, services, events, lambda: config[0], Protected, lambda step, worked: None
    )
    reconciler = Reconciler(services, view, executor, events, lambda: config[0])
    reconciler.start()
    task = asyncio.create_task(view.run())
    yield Rig(engine, services, reconciler, view, told, [], config)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await reconciler.stop()
    await store.close()


async def test_a_service_is_pulled_made_and_started(rig: Rig) -> None:
    await rig.create("web")
    report = await rig.reaches("web", "running")
    assert rig.engine.running() == ["web"]
    assert (report.wanted, report.actual) == ("running", "running")
    entry = rig.services.get("web")
    assert entry.service.good == entry.service.spec


async def test_a_container_removed_by_hand_comes_back(rig: Rig) -> None:
    await rig.create("web")
    await rig.reaches("web", "running")
    before = rig.id("web")
    rig.engine.remove_by_hand(before)
    await rig.until(lambda: rig.engine.running() == ["web"] and rig.id("web") != before)


async def test_a_container_that_ends_is_started_again(rig: Rig) -> None:
    await rig.create("web")
    await rig.reaches("web", "running")
    rig.engine.end(rig.id("web"))
    await rig.until(lambda: rig.engine.count("start") == 2)
    await rig.reaches("web", "running")


async def test_a_crash_loop_waits_between_its_tries_and_says_so(rig: Rig) -> None:
    rig.engine.crashes.add("app:1")
    await rig.create("web")
    await rig.until(lambda: rig.engine.count("start") >= 5)
    report = await rig.reaches("web", "waiting", "crashed")
    assert report.attempts >= 4 and report.next_try is not None
    assert report.message and "exit code 1" in report.message
    rig.engine.crashes.clear()
    await rig.reaches("web", "running")


async def test_an_asked_for_retry_does_not_wait(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.engine.refuses.add("app:1")
    await rig.create("web")
    await rig.until(lambda: rig.engine.count("start") >= 3)
    rig.engine.refuses.clear()
    rig.reconciler.retry("web")
    await rig.reaches("web", "running")


async def test_waiting_for_an_act_is_not_over_between_a_pull_and_a_start(rig: Rig) -> None:
    """In between nothing runs and nothing is being done for a moment: that is not where it stands."""
    await rig.create("web")
    entry = rig.services.get("web")
    report = await rig.reconciler.settle("web", entry.revision, _DEADLINE)
    assert report is not None and report.container is not None and report.container.is_up
    assert rig.engine.running() == ["web"]


async def test_a_stop_is_done_and_waited_for(rig: Rig) -> None:
    await rig.create("web")
    await rig.reaches("web", "running")
    revision = await rig.change("web", stopped=True)
    report = await rig.reconciler.settle("web", revision, _DEADLINE)
    assert report is not None and (report.status, report.reason) == ("stopped", "stopped")
    assert rig.engine.running() == []


async def test_a_deleted_service_is_gone_with_its_container(rig: Rig) -> None:
    await rig.create("web")
    await rig.reaches("web", "running")
    entry = await rig.services.delete("web")
    assert await rig.reconciler.settle("web", entry.revision, _DEADLINE) is None
    assert rig.engine.containers == {} and rig.services.names() == []
    await rig.create("web")
    await rig.reaches("web", "running")


async def test_a_stuck_stop_does_not_hold_up_another_service(rig: Rig) -> None:
    await rig.create("slow")
    await rig.reaches("slow", "running")
    gate = rig.engine.trouble.gates["stop"] = asyncio.Event()
    await rig.change("slow", stopped=True)
    await rig.until(lambda: rig.engine.count("stop") == 1)
    await rig.create("web", "app:2")
    await rig.reaches("web", "running")
    report = rig.reconciler.report("slow")
    assert report.busy and report.step == "stop"
    gate.set()
    await rig.reaches("slow", "stopped", "stopped")


async def test_a_pull_is_given_up_where_the_service_changes(rig: Rig) -> None:
    rig.engine.trouble.gates["pull"] = asyncio.Event()
    await rig.create("web", "huge:1")
    await rig.until(lambda: rig.engine.count("pull") == 1)
    report = rig.reconciler.report("web")
    assert report.step == "pull" and report.progress is not None
    rig.engine.trouble.gates.clear()
    await rig.update("web", image="app:2")
    await rig.reaches("web", "running")
    assert rig.engine.by_name("web")["Config"]["Image"] == "app:2"


async def test_a_pull_is_given_up_where_the_service_is_deleted(rig: Rig) -> None:
    rig.engine.trouble.gates["pull"] = asyncio.Event()
    await rig.create("web", "huge:1")
    await rig.until(lambda: rig.engine.count("pull") == 1)
    await rig.services.delete("web")
    await rig.until(lambda: rig.services.names() == [])


async def test_a_pull_that_fails_says_why_and_when_it_is_tried_again(rig: Rig) -> None:
    await rig.create("web", "none:1")
    report = await rig.reaches("web", "waiting", "pull_failed")
    assert report.message and "none:1" in report.message
    assert report.next_try is not None and report.attempts == 1
    rig.engine.pullable.add("none:1")
    rig.reconciler.retry("web")
    await rig.reaches("web", "running")


async def test_a_service_starts_when_what_it_depends_on_is_healthy(rig: Rig) -> None:
    await rig.create("db", health_check=HealthCheck("true"))
    await rig.create("web", depends_on=("db",))
    report = await rig.reaches("web", "waiting", "dependency")
    assert report.message and "db" in report.message
    await rig.until(lambda: rig.engine.running() == ["db"])
    rig.engine.set_health(rig.id("db"), "healthy")
    await rig.reaches("web", "running")


async def test_a_bad_update_is_taken_back_and_the_good_one_runs(rig: Rig) -> None:
    await rig.create("web")
    await rig.reaches("web", "running")
    rig.engine.crashes.add("app:2")
    await rig.update("web", image="app:2")
    await rig.until(lambda: rig.services.get("web").service.fallback)
    await rig.reaches("web", "running")
    assert rig.engine.by_name("web")["Config"]["Image"] == "app:1"
    assert len(rig.engine.containers) == 1
    assert any(event.type == "service.rolled_back" for event in rig.told)


async def test_an_engine_that_goes_away_in_the_middle_is_not_the_configurations_fault(rig: Rig) -> None:
    await rig.create("web")
    await rig.reaches("web", "running")
    rig.engine.trouble.errors["start"] = EngineUnavailableError("it went away")
    await rig.update("web", image="app:2")
    await rig.until(lambda: rig.engine.count("start") >= 3)
    rig.engine.trouble.errors.clear()
    await rig.reaches("web", "running")
    entry = rig.services.get("web")
    assert entry.service.rejected is None
    assert rig.engine.by_name("web")["Config"]["Image"] == "app:2"


async def test_an_engine_that_is_away_is_said_and_taken_up_again(rig: Rig) -> None:
    await rig.create("web")
    await rig.reaches("web", "running")
    rig.engine.go_away()
    report = await rig.reaches("web", "unknown", "engine_unavailable")
    assert report.message
    rig.engine.remove_by_hand(rig.id("web"))
    rig.engine.away = False
    await rig.reaches("web", "running")
    assert rig.engine.running() == ["web"]


async def test_an_image_that_cannot_be_looked_at_is_said(rig: Rig) -> None:
    rig.engine.trouble.errors["inspect_image"] = EngineError("disk I/O error")
    await rig.create("web")
    report = await rig.reaches("web", "unknown", "engine_failed")
    assert report.message == "disk I/O error"
    rig.engine.trouble.errors.clear()
    rig.reconciler.retry("web")
    await rig.reaches("web", "running")


async def test_a_stop_that_fails_says_why(rig: Rig) -> None:
    await rig.create("web")
    await rig.reaches("web", "running")
    rig.engine.trouble.errors["stop"] = EngineError("cannot kill it")
    await rig.change("web", stopped=True)
    report = await rig.reaches("web", "stopping", "stop_failed")
    assert report.message == "cannot kill it" and report.next_try is not None
    rig.engine.trouble.errors.clear()
    rig.reconciler.retry("web")
    await rig.reaches("web", "stopped", "stopped")


async def test_what_is_unhealthy_is_restarted_and_its_failures_count(rig: Rig) -> None:
    await rig.create("web", health_check=HealthCheck("true"))
    await rig.until(lambda: rig.engine.running() == ["web"])
    rig.engine.set_health(rig.id("web"), "healthy")
    await rig.reaches("web", "running")
    for times in (1, 2):
        rig.engine.set_health(rig.id("web"), "unhealthy")
        await rig.until(lambda t=times: rig.engine.count("start") == 1 + t)  # type: ignore[misc]
        await rig.reaches("web", "starting", "settling")
    assert rig.reconciler.report("web").attempts == 2
    rig.engine.set_health(rig.id("web"), "healthy")
    await asyncio.sleep(0.4)  # longer than six times the settle time
    rig.engine.set_health(rig.id("web"), "unhealthy")
    await rig.until(lambda: rig.engine.count("start") == 4)
    await rig.until(lambda: rig.reconciler.report("web").attempts == 1)


async def test_a_confirmation_is_of_what_ran_and_not_of_what_is_wanted_by_then(rig: Rig) -> None:
    await rig.create("web")
    await rig.reaches("web", "running")
    good = rig.services.get("web").service.spec
    await rig.update("web", image="app:2")
    await rig.services.confirm("web", good)
    assert rig.services.get("web").service.good == good


async def test_an_error_of_ours_is_logged_and_the_service_tried_again(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(min(seconds, 0.01))

    monkeypatch.setattr("homed.containers.reconciler.asyncio.sleep", sleep)
    rig.engine.trouble.errors["create"] = RuntimeError("a bug")
    await rig.create("web")
    await rig.until(lambda: "Keeping web failed" in caplog.text)
    rig.engine.trouble.errors.clear()
    await rig.reaches("web", "running")
    assert 5 in slept


async def test_the_end_of_homed_leaves_containers_as_they_are(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await rig.create("web")
    await rig.reaches("web", "running")
    await rig.reconciler.stop()
    assert rig.engine.running() == ["web"]


async def test_a_foreign_container_of_the_same_name_is_never_touched(rig: Rig) -> None:
    identity = await rig.engine.create("web", {"Image": "theirs:1", "Labels": {}})
    await rig.engine.start(identity)
    await rig.view.refresh(identity)
    rig.engine.calls.clear()
    await rig.create("web")
    await rig.reaches("web", "failed", "name_taken")
    assert not {name for name, about in rig.engine.calls if about == identity} & {"stop", "remove", "rename", "start"}
    rig.engine.remove_by_hand(identity)
    await rig.reaches("web", "running")


@pytest.mark.parametrize("policy", ["no", "on-failure", "unless-stopped"])
async def test_a_service_enabled_anew_is_started_whatever_its_policy(rig: Rig, policy: str) -> None:
    """It was homed that had stopped it, and it ended with 0."""
    await rig.create("web", restart_policy=policy)
    await rig.reaches("web", "running")
    await rig.services.change("web", lambda service: _enabled(service, False))
    await rig.reaches("web", "stopped", "disabled")
    await rig.services.change("web", lambda service: _enabled(service, True))
    await rig.reaches("web", "running")
    assert not rig.services.get("web").service.restart


async def test_what_runs_and_is_allowed_no_more_runs_on_and_says_so(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    await rig.create("web", volumes=("/srv/web:/data",))
    await rig.reaches("web", "running")
    before = rig.id("web")
    rig.config[0] = msgspec.structs.replace(rig.config[0], data_roots=("/data",))
    rig.reconciler.wake_all()
    report = await rig.reaches("web", "running", "not_allowed")
    assert "could not be started again: volumes[0]: /srv/web lies in none of containers.data_roots" in str(
        report.message
    )
    assert rig.id("web") == before and rig.engine.running() == ["web"]
    assert struggling([("web", report)])
    assert (
        len([one for one in caplog.messages if one.startswith("web: runs, and could not be started again: vol")]) == 1
    )
    with pytest.raises(ConflictError, match="left running, since it could not be started again: volumes") as refused:
        await rig.reconciler.check_restart(rig.services.get("web").service)
    assert refused.value.code == "NOT_ALLOWED"
    rig.engine.end(before)
    await rig.until(lambda: rig.reconciler.report("web").reason == "start_failed")
    assert "containers.data_roots" in str(rig.reconciler.report("web").message)
    rig.config[0] = msgspec.structs.replace(rig.config[0], data_roots=("/srv",))
    await rig.reconciler.check_restart(rig.services.get("web").service)
    rig.reconciler.retry("web")
    await rig.reaches("web", "running")
    await rig.reconciler.check_restart(rig.services.get("web").service)


async def test_a_container_renamed_by_hand_gets_its_name_back(rig: Rig) -> None:
    await rig.create("web")
    await rig.reaches("web", "running")
    identity = rig.id("web")
    rig.engine.rename_by_hand(identity, "webx")
    await rig.until(lambda: rig.engine.running() == ["web"])
    await rig.reaches("web", "running")
    assert rig.id("web") == identity


async def test_a_container_renamed_by_hand_is_still_its_services(rig: Rig) -> None:
    await rig.create("web")
    await rig.reaches("web", "running")
    identity = rig.id("web")
    await rig.services.change("web", lambda s: msgspec.structs.replace(s, stopped=True))
    await rig.reaches("web", "stopped", "stopped")
    rig.engine.rename_by_hand(identity, "webx")
    await rig.until(lambda: rig.view.find(identity).name == "webx")
    await rig.services.delete("web")
    await rig.until(lambda: rig.services.find("web") is None)
    assert rig.engine.containers == {}


def holds(rig: Rig, name: str) -> str:
    """The id of the container that has a name; empty for none."""
    found = [one["Id"] for one in rig.engine.containers.values() if one["Name"] == f"/{name}"]
    return str(found[0]) if found else ""


async def test_a_name_that_somebody_took_is_told_of_and_the_container_runs_on(rig: Rig) -> None:
    await rig.create("web")
    await rig.reaches("web", "running")
    mine = rig.id("web")
    rig.engine.rename_by_hand(mine, "webx")
    stranger = await rig.engine.create("web2", {"Image": "app:1", "Labels": {}, "HostConfig": {}, "Env": []})
    await rig.until(lambda: holds(rig, "web") == mine)
    rig.engine.rename_by_hand(mine, "webx")
    rig.engine.rename_by_hand(stranger, "web")
    await rig.reaches("web", "running", "name_taken")
    assert str(rig.view.find(mine).name).startswith("web.")
    rig.engine.remove_by_hand(stranger)
    await rig.until(lambda: holds(rig, "web") == mine)


async def test_two_services_whose_containers_swapped_names_swap_them_back(rig: Rig) -> None:
    for name in ("db", "web"):
        await rig.create(name)
        await rig.reaches(name, "running")
    db, web = rig.id("db"), rig.id("web")
    rig.engine.containers[db]["Name"], rig.engine.containers[web]["Name"] = "/web", "/db"
    await rig.view.resync()
    await rig.until(lambda: (holds(rig, "db"), holds(rig, "web")) == (db, web))
    for name in ("db", "web"):
        await rig.reaches(name, "running")


async def test_a_tag_that_is_another_image_by_now_gets_a_new_container(rig: Rig) -> None:
    await rig.create("web")
    await rig.reaches("web", "running")
    before, pulls = rig.id("web"), rig.engine.count("pull")
    await rig.change("web", pull=True)
    await rig.until(lambda: not rig.services.get("web").service.pull)
    await rig.reaches("web", "running")
    assert (rig.engine.count("pull"), rig.id("web")) == (pulls + 1, before), "the same image: nothing to do"
    rig.engine.image_ids["app:1"] = "sha256:other"
    await rig.change("web", pull=True)
    await rig.until(lambda: holds(rig, "web") not in ("", before))
    await rig.reaches("web", "running")
    await rig.until(lambda: len(rig.engine.containers) == 1)
    service = rig.services.get("web").service
    assert (service.build, service.good_build) == ("sha256:other", "sha256:other")
    again = rig.id("web")
    await rig.change("web", pull=True)
    await rig.until(lambda: not rig.services.get("web").service.pull)
    await rig.reaches("web", "running")
    assert rig.id("web") == again


async def test_a_new_build_that_crashes_is_taken_back(rig: Rig) -> None:
    await rig.create("web")
    await rig.reaches("web", "running")
    before = rig.id("web")
    rig.engine.image_ids["app:1"] = "sha256:bad"
    rig.engine.crashes.add("app:1")
    await rig.change("web", pull=True)
    await rig.until(lambda: rig.services.get("web").service.rejected is not None)
    rig.engine.crashes.clear()
    await rig.until(lambda: holds(rig, "web") == before and rig.engine.running() == ["web"])
    await rig.reaches("web", "running")


async def test_a_pull_anew_that_fails_is_told_and_what_runs_runs_on(rig: Rig) -> None:
    await rig.create("web")
    await rig.reaches("web", "running")
    before = rig.id("web")
    rig.engine.pullable.clear()
    await rig.change("web", pull=True)
    report = await rig.reaches("web", "running", "pull_failed")
    assert "not found" in str(report.message) and rig.id("web") == before
    rig.engine.pullable.add("app:1")
    rig.reconciler.retry("web")
    await rig.until(lambda: not rig.services.get("web").service.pull)
    await rig.reaches("web", "running")
