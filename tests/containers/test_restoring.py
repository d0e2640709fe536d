"""Services as a backup has them: what is wrong with them, and how they take their place."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from homed import clock
from homed.containers.engine import Engine
from homed.containers.records import Service
from homed.containers.spec import ServiceSpec
from homed.containers.streams import Streams
from homed.errors import ValidationError
from homed.store.base import RevisionError
from tests.support.fake_engine import FakeEngine
from tests.support.held_services import Board, board


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def one(tmp_path: Path, engine: FakeEngine) -> AsyncIterator[Board]:
    async with board(tmp_path, cast(Engine, engine), cast(Streams, engine)) as made:
        yield made


def service(name: str, image: str = "app:1", *, good: str | None = None, **given: Any) -> Service:
    fields = {key: given.pop(key) for key in list(given) if key in Service.__struct_fields__}
    moment = clock.parse("2026-01-01T00:00:00Z")
    spec = ServiceSpec(image=image, **given)
    confirmed = None if good is None else msgspec.structs.replace(spec, image=good)
    return Service(name=name, spec=spec, good=confirmed, created_at=moment, updated_at=moment, **fields)


def records(*services: Service) -> dict[str, bytes]:
    return {one.name: msgspec.json.encode(one) for one in services}


def fields(one: Board, given: dict[str, bytes], *, alone: bool = False) -> list[str]:
    return [error.field for error in one.capturing.problems(given, alone=alone)]


async def test_what_this_board_can_keep_has_no_problems(one: Board) -> None:
    await one.create("db")
    assert fields(one, records(service("web", depends_on=("db", "app")), service("app"))) == []


async def test_what_cannot_be_a_service_is_named_by_its_field(one: Board) -> None:
    broken = records(service("web"))["web"].replace(b'"ports":[]', b'"ports":["x"]')
    given = {
        "broken": b"{", "x": records(service("x"))["x"], "other": records(service("web"))["web"], "web": broken,
        **records(service("host", volumes=("/etc:/etc",)), service("needs", depends_on=("gone",))),
        **records(service("a1", depends_on=("b1",)), service("b1", depends_on=("a1",))),
    }  # fmt: skip
    found = fields(one, given)
    assert sorted(found) == [
        "services.a1.depends_on", "services.broken", "services.host.volumes[0]", "services.needs.depends_on[0]",
        "services.other", "services.web.ports[0]", "services.x",
    ]  # fmt: skip
    assert not any("depends_on" in field for field in fields(one, given, alone=True))


async def test_a_circle_with_the_services_of_the_board_is_seen(one: Board) -> None:
    await one.create("db")
    await one.create("web", depends_on=("db",))
    assert fields(one, records(service("db", depends_on=("web",)))) == ["services.db.depends_on"]


async def test_what_is_depended_on_comes_first(one: Board) -> None:
    given = records(service("a1", depends_on=("b1",)), service("b1", depends_on=("c1",)), service("c1"))
    assert one.capturing.order(given) == ["c1", "b1", "a1"]


async def test_the_paths_are_those_of_all_its_configurations(one: Board) -> None:
    spec, good = (
        ServiceSpec(image="app:1", volumes=("/srv/new:/d", "v:/v")),
        ServiceSpec(image="app:1", volumes=("/srv/old/:/d",)),
    )
    given = records(msgspec.structs.replace(service("web"), spec=spec, good=good))
    assert one.capturing.paths({**given, "broken": b"{"}) == {"/srv/new", "/srv/old"}


async def test_services_are_made_and_changed_as_the_backup_has_them(one: Board, engine: FakeEngine) -> None:
    await one.create("web")
    await one.reaches("web", "running")
    before = one.services.get("web").service
    given = records(service("web", "app:2", good="app:2"), service("new"), service("off", stopped=True))
    await one.capturing.hold(["web"], "it is restored")
    await one.capturing.put(given)
    await one.capturing.release(["web"])
    assert await one.capturing.settle(["web", "new", "off"], 20) == []
    assert engine.running() == ["new", "web"]
    web = one.services.get("web").service
    assert (web.spec.image, web.good, web.created_at) == ("app:2", web.spec, before.created_at)
    assert web.updated_at > before.updated_at


async def test_what_is_restored_is_not_tried_against_what_ran_before(one: Board, engine: FakeEngine) -> None:
    """It crashes at first; the configuration of before the restore must not come back for it."""
    await one.create("web")
    await one.reaches("web", "running")
    engine.crashes.add("app:2")
    await one.capturing.put(records(service("web", "app:2")))
    await one.until(lambda: one.reconciler.report("web").reason == "crashed")
    engine.crashes.clear()
    await one.reaches("web", "running")
    assert one.services.get("web").service.rejected is None
    assert engine.by_name("web")["Config"]["Image"] == "app:2"


async def test_done_twice_it_does_nothing_more(one: Board) -> None:
    given = records(service("web", good="app:1"), service("db", good="app:1"))
    await one.capturing.put(given)
    for name in given:
        await one.reaches(name, "running")
    revisions = [one.services.get(name).revision for name in given]
    await one.capturing.put(given)
    assert [one.services.get(name).revision for name in given] == revisions


async def test_where_one_cannot_be_written_all_are_as_before(one: Board) -> None:
    await one.create("app")
    await one.create("db")
    for name in ("app", "db"):
        await one.reaches(name, "running")
    await one.capturing.hold(["app", "db", "fresh"], "it is restored")
    before = one.capturing.records()
    await one.store.put("services", "fresh", b"of somebody else", 0)
    with pytest.raises(RevisionError):
        await one.capturing.put(records(service("app", "app:2"), service("db", "app:2"), service("fresh")))
    assert one.capturing.records() == before
    assert await one.store.delete("services", "fresh", None)
    assert {record.key: record.value for record in await one.store.list("services")} == before


async def test_what_is_no_service_is_not_put(one: Board) -> None:
    with pytest.raises(ValidationError):
        await one.capturing.put({**records(service("web")), "other": b"[]"})
    assert one.services.names() == []


async def test_a_service_that_was_being_deleted_is_there_again(one: Board, engine: FakeEngine) -> None:
    await one.create("web")
    await one.reaches("web", "running")
    given = dict(one.capturing.records())
    await one.capturing.hold(["web"], "it is restored")
    await one.services.delete("web")
    await one.capturing.put(given)
    await one.capturing.release(["web"])
    await one.reaches("web", "running")


async def test_what_does_not_run_is_told_with_why(one: Board, engine: FakeEngine) -> None:
    await one.create("web", image="missing:1")
    await one.create("db")
    (said,) = await one.capturing.settle(["web", "db"], 1.0)
    assert said.startswith("web is waiting (manifest for missing:1 not found")
