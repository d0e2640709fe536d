"""Images that come from a registry: public, private, slow, and not there."""

import secrets

import pytest

from tests.engine.conftest import Start
from tests.support.api import Api
from tests.support.engine import IMAGE, DockerEngine
from tests.support.homed import Homed
from tests.support.registry import Registry, SlowWay
from tests.support.services import IDLE, confirmed, container_id
from tests.support.sockets import Follower
from tests.support.wait import stays, until

_ACCOUNT = ("reader", "swordfish-1234567")


def test_an_image_is_pulled_and_its_progress_told(api: Api, engine: DockerEngine, registry: Registry) -> None:
    image = registry.push(engine, "padded:1", padding=12_000_000)
    with SlowWay(registry.address, 6_000_000) as way, Follower(api, "/ws/events?type=image.*") as follower:
        slow = image.replace(registry.address, way.address)
        api.create("app", image=slow, command=IDLE)
        progress = until("progress", lambda: api.conditions("app")["progress"], every=0.02)
        assert progress["image"] == slow
        assert api.service("app")["status"] == "pulling"
        follower.await_event("image.pulled", service="app", image=slow)
        api.await_status("app", "running")
        told = [e["data"] for e in follower.of("image.pull")]
        assert any(e["total"] and 0 < e["current"] < e["total"] and 0 < e["percent"] < 100 for e in told)
        assert api.conditions("app")["progress"] is None


def test_a_service_that_is_deleted_or_changed_during_its_pull_does_not_wait_for_it(
    api: Api, engine: DockerEngine, registry: Registry
) -> None:
    image = registry.push(engine, "crawling:1", padding=20_000_000)
    with SlowWay(registry.address, 200_000) as way:
        slow = image.replace(registry.address, way.address)
        for name in ("gone", "changed"):
            api.create(name, image=slow, command=IDLE)
            until("the pull", lambda n=name: api.service(n)["status"] == "pulling")  # type: ignore[misc]
        assert api.delete("/api/v1/services/gone").json["status"] == "deleted"
        api.change("changed", image=IMAGE)
        api.await_status("changed", "running")
        assert engine.names() == {"changed"}


def test_a_change_of_image_keeps_the_old_container_while_it_is_pulled(
    api: Api, engine: DockerEngine, registry: Registry
) -> None:
    image = registry.push(engine, "new:1", padding=4_000_000)
    api.create("app", image=IMAGE, command=IDLE)
    confirmed(api, "app")
    old = container_id(engine, "app")
    with SlowWay(registry.address, 4_000_000) as way:
        api.change("app", image=image.replace(registry.address, way.address))
        until("the pull", lambda: api.conditions("app")["step"] == "pull", every=0.02)
        assert engine.is_running(old)
        assert api.service("app")["status"] == "running"
        until("the new container alone", lambda: container_id(engine, "app") != old and engine.names() == {"app"})


def test_a_pull_that_fails_keeps_the_service_wanted_until_it_works(
    api: Api, engine: DockerEngine, registry: Registry
) -> None:
    image = f"{registry.address}/later:1"
    with Follower(api, "/ws/events?type=image.pull_failed&type=service.*") as follower:
        api.create("app", image=image, command=IDLE)
        conditions = api.await_reason("app", "pull_failed")
        assert conditions["wanted"] == "running"
        assert conditions["next_try"] is not None
        assert "later" in conditions["message"] or "manifest unknown" in conditions["message"]
        assert api.service("app")["status"] == "waiting"
        until("another try", lambda: api.conditions("app")["attempts"] >= 2)
        registry.push(engine, "later:1")
        api.await_status("app", "running")
        assert follower.await_event("image.pull_failed", service="app", image=image)["data"]["message"]
        assert follower.await_event("service.status", name="app", status="running")


def test_a_private_image_needs_the_right_account(
    engine: DockerEngine, start: Start, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Registry(tmp_path_factory.mktemp("private"), engine.machine, _ACCOUNT) as registry:
        image = registry.push(engine, "app:1")
        homed = start()
        api = homed.api
        wrong = secrets.token_hex(16)
        with Follower(api, "/ws/events") as follower:
            api.create("nobody", image=image, command=IDLE)
            api.create("stranger", image=image, command=IDLE, registry={"username": "reader", "password": wrong})
            for name in ("nobody", "stranger"):
                assert api.await_reason(name, "pull_failed")["message"]
            api.create("friend", image=image, command=IDLE, registry={"username": _ACCOUNT[0], "password": _ACCOUNT[1]})
            api.await_status("friend", "running")
            confirmed(api, "friend")
            shown = api.service("friend")
            assert shown["has_registry_credentials"] is True
            assert "registry" not in shown
            for secret in (wrong, _ACCOUNT[1]):
                assert secret not in homed.log
                assert not any(secret in message for message in follower.messages)
                for path in ("/api/v1/services", "/api/v1/services/friend", "/api/v1/services/stranger",
                             "/api/v1/containers/friend", "/api/v1/audit"):  # fmt: skip
                    assert secret not in api.get(path).body.decode()
        # A new password is not a new container.
        identity = container_id(engine, "friend")
        api.change("friend", registry={"username": _ACCOUNT[0], "password": "other"})
        stays("the container", lambda: container_id(engine, "friend") == identity, 1.0)


def test_an_image_by_digest_is_pulled(api: Api, engine: DockerEngine, registry: Registry) -> None:
    registry.push(engine, "exact:1")
    repository = f"{registry.address}/exact"
    digest = engine.client.images.get_registry_data(f"{repository}:1").id
    api.create("app", image=f"{repository}@{digest}", command=IDLE)
    api.await_status("app", "running")


def test_a_pull_from_a_place_that_does_not_answer_holds_up_nobody(homed: Homed, engine: DockerEngine) -> None:
    with SlowWay("127.0.0.1:9", 1) as way:  # takes the connection and says nothing
        for i in range(4):
            homed.api.create(f"silent{i}", image=f"{way.address}/x:{i}", command=IDLE)
        homed.api.create("app", image=IMAGE, command=IDLE)
        homed.api.await_status("app", "running")
        assert homed.stop() == 0


def test_the_same_tag_is_pulled_anew(api: Api, engine: DockerEngine, registry: Registry) -> None:
    image = registry.push(engine, "moving:1")
    api.create("app", image=image, command=IDLE, stop_timeout=0)
    confirmed(api, "app")
    first = container_id(engine, "app")
    assert api.act("app", "pull").json == {
        "name": "app", "status": "pulled", "message": "Image pulled successfully",
    }  # fmt: skip
    assert container_id(engine, "app") == first, "it is the same image"
    with Follower(api, "/ws/services/app/logs?tail=0") as follower:
        assert follower is not None
        kept = engine.client.images.get(image).id
        registry.push(engine, "moving:1", padding=1000)
        assert api.post("/api/v1/services/app/restart?pull=true").status in (200, 202)
        until("the new build", lambda: (found := engine.find("app")) and found["Image"] != kept)
        confirmed(api, "app")
    second = container_id(engine, "app")
    assert second != first
    registry.push(engine, "moving:1", padding=2000)
    assert api.put("/api/v1/services/app?pull=true", {"labels": {"a": "b"}}).status == 200
    until("the newest build", lambda: (found := engine.find("app")) and found["Id"] not in (first, second))
    api.await_status("app", "running")
    missing = api.post("/api/v1/services/nothing/pull")
    assert (missing.status, missing.code) == (404, "SERVICE_NOT_FOUND")
