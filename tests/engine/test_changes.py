"""Changes of services: the old container is kept until the new one is well, and comes back where it is not."""

from pathlib import Path
from typing import Any

from tests.engine.conftest import Start
from tests.support.api import Api
from tests.support.engine import IMAGE, DockerEngine
from tests.support.services import IDLE, WEB, confirmed, container_id, fetch, started
from tests.support.wait import stays, until


def change_is_kept(api: Api, engine: DockerEngine, name: str, old: str) -> None:
    until("the new container alone", lambda: container_id(engine, name) not in ("", old) and engine.names() == {name})


def test_a_change_keeps_the_old_container_until_the_new_one_is_healthy(
    api: Api, engine: DockerEngine, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    check = {"command": "test -e /shared/ready", "interval": 0.2, "timeout": 2, "retries": 100}
    api.create("app", image=IMAGE, command=IDLE, environment={"V": "1"}, volumes=[f"{shared}:/shared:ro"])
    confirmed(api, "app")
    old = container_id(engine, "app")
    api.change("app", environment={"V": "2"}, health_check=check)
    until("the new one to be watched", lambda: container_id(engine, "app") != old and engine.is_running("app"))
    new = container_id(engine, "app")
    assert api.await_reason("app", "settling")["health"] == "starting"
    assert api.service("app")["status"] == "starting"
    stays("the old one at hand", lambda: engine.find(old) is not None, 1.0)
    (shared / "ready").touch()
    change_is_kept(api, engine, "app", old)
    assert container_id(engine, "app") == new
    assert "V=2" in engine.inspect("app")["Config"]["Env"]


def test_a_change_of_what_is_not_the_containers_makes_no_new_one(api: Api, engine: DockerEngine) -> None:
    api.create("app", image=IMAGE, command=IDLE)
    confirmed(api, "app")
    old = container_id(engine, "app")
    api.change("app", restart_policy="always", stop_timeout=2, depends_on=[])
    confirmed(api, "app")
    stays("the container", lambda: container_id(engine, "app") == old, 1.0)
    assert api.service("app")["restart_policy"] == "always"


def taken_back(api: Api, engine: DockerEngine, name: str, old: str) -> Any:
    """Wait until the configuration before runs again, in the container that it had; the conditions then."""
    until(
        "the old container to run again under its name",
        lambda: container_id(engine, name) == old and engine.is_running(old),
    )
    shown = until("it to say so", lambda: (s := api.service(name))["conditions"]["rolled_back"] and s)
    until("the refused container to go", lambda: engine.names() == {name})
    return shown["conditions"]


def test_a_change_that_crashes_is_taken_back_and_tried_again_when_sent_again(api: Api, engine: DockerEngine) -> None:
    api.create("app", image=IMAGE, command=IDLE)
    confirmed(api, "app")
    old = container_id(engine, "app")
    api.change("app", command=["sh", "-c", "echo bad; exit 7"])
    conditions = taken_back(api, engine, "app", old)
    assert "7" in conditions["rolled_back"]["reason"]
    confirmed(api, "app")
    assert api.service("app")["command"] == ["sh", "-c", "echo bad; exit 7"]

    first = conditions["rolled_back"]["at"]
    api.change("app", command=["sh", "-c", "echo bad; exit 7"])
    until("another refusal", lambda: (api.conditions("app")["rolled_back"] or {"at": first})["at"] != first)
    taken_back(api, engine, "app", old)

    api.change("app", command=IDLE, environment={"V": "3"})
    change_is_kept(api, engine, "app", old)
    assert api.conditions("app")["rolled_back"] is None


def test_a_change_that_is_unhealthy_is_taken_back(api: Api, engine: DockerEngine) -> None:
    api.create("app", image=IMAGE, command=IDLE)
    confirmed(api, "app")
    old = container_id(engine, "app")
    api.change("app", health_check={"command": "false", "interval": 0.2, "timeout": 2, "retries": 2})
    assert "health" in taken_back(api, engine, "app", old)["rolled_back"]["reason"]


def test_a_change_that_does_not_become_healthy_in_time_is_taken_back(engine: DockerEngine, start: Start) -> None:
    api = start(containers={"start_timeout": 1.0}).api
    api.create("app", image=IMAGE, command=IDLE)
    confirmed(api, "app")
    old = container_id(engine, "app")
    api.change("app", health_check={"command": "false", "interval": 3600, "timeout": 2, "retries": 2})
    assert "healthy within" in taken_back(api, engine, "app", old)["rolled_back"]["reason"]


def test_a_change_whose_port_is_taken_is_taken_back(api: Api, engine: DockerEngine) -> None:
    engine.run(*IDLE, name="other", ports={"80/tcp": 18090})
    api.create("app", image=IMAGE, command=WEB, ports=["18091:80"])
    confirmed(api, "app")
    old = container_id(engine, "app")
    api.change("app", ports=["18090:80"])
    shown = until("it to be taken back", lambda: api.conditions("app")["rolled_back"])
    assert "18090" in shown["reason"]
    until("the old one to answer", lambda: fetch(engine, 18091))
    assert container_id(engine, "app") == old
    assert engine.is_running("other")


def test_a_change_to_a_command_that_is_not_there_is_taken_back(api: Api, engine: DockerEngine) -> None:
    api.create("app", image=IMAGE, command=IDLE)
    confirmed(api, "app")
    old = container_id(engine, "app")
    api.change("app", command=["/no/such/program"])
    taken_back(api, engine, "app", old)


def test_a_change_to_an_image_that_is_not_there_leaves_the_old_one_running(api: Api, engine: DockerEngine) -> None:
    api.create("app", image=IMAGE, command=IDLE)
    confirmed(api, "app")
    old, since = container_id(engine, "app"), started(engine, "app")
    api.change("app", image=f"{engine.machine}:1/nothing:1")
    conditions = api.await_reason("app", "pull_failed")
    assert conditions["next_try"] is not None
    assert conditions["attempts"] >= 1
    assert (container_id(engine, "app"), started(engine, "app")) == (old, since)
    assert api.service("app")["status"] == "running"
    api.change("app", image=IMAGE)
    confirmed(api, "app")
    assert (container_id(engine, "app"), started(engine, "app")) == (old, since)


def test_a_wrong_change_names_every_wrong_field_and_changes_nothing(api: Api) -> None:
    api.create("app", image=IMAGE, command=IDLE)
    before = api.service("app")["updated_at"]
    for wrong in ({"memory": "lots", "ports": ["80:80", "99999:1"]}, {"image": 5, "colour": 1, "cpus": "many"}):
        refused = api.put("/api/v1/services/app", wrong)
        assert (refused.status, refused.code) == (400, "VALIDATION_ERROR")
        fields = {error["field"].replace("[1]", "") for error in refused.json["error"]["details"]["errors"]}
        assert fields == set(wrong)
    assert api.service("app")["updated_at"] == before
