"""Services on a real engine: made, kept, changed, taken back, deleted."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import Start
from tests.support.api import Api
from tests.support.engine import IMAGE, DockerEngine
from tests.support.homed import Homed
from tests.support.services import IDLE, STUBBORN, WEB, confirmed, container_id, crash, fetch, started
from tests.support.wait import stays, until

# Made


def test_a_created_service_runs_and_answers_on_its_port(api: Api, engine: DockerEngine) -> None:
    answer = api.create("web", image=IMAGE, command=WEB, ports=["18080:80"])
    assert answer.json == {"name": "web", "status": "created", "message": "Service created successfully"}
    assert until("an answer on its port", lambda: fetch(engine, 18080)) == "busybox\n"
    shown = confirmed(api, "web")
    assert shown["container_id"] == container_id(engine, "web")
    listed = api.get("/api/v1/services").json["services"]
    assert [(one["name"], one["status"], one["labels"]["io.homei.managed"]) for one in listed] == [
        ("web", "running", "true")
    ]


def test_every_field_arrives_in_the_container(engine: DockerEngine, start: Start, tmp_path: Path) -> None:
    api = start().api
    data = tmp_path / "data"
    data.mkdir()
    api.create(
        "all",
        image=IMAGE,
        command=["-c", "trap 'exit 0' TERM; sleep 1000 & wait"],
        entrypoint="sh",
        environment={"GREETING": "hello world=1", "EMPTY": ""},
        ports=["18081:80", "127.0.0.1:18082:81", "18083:83/udp", "84"],
        volumes=[f"{data}:/data:ro", "things:/things"],
        tmpfs=["/scratch"],
        read_only=True,
        devices=["/dev/null:/dev/nothing:r"],
        user="nobody",
        memory="64m",
        cpus=0.25,
        network="lan",
        labels={"io.homei.service": "demo", "colour": "green"},
        health_check={"command": "true", "interval": 5, "timeout": 2, "retries": 4, "start_period": 1},
        stop_timeout=3,
    )
    api.await_status("all", "running")
    found = engine.inspect("all")
    config, host = found["Config"], found["HostConfig"]
    assert {"GREETING=hello world=1", "EMPTY="} <= set(config["Env"])
    assert config["Entrypoint"] == ["sh"]
    assert config["Cmd"] == ["-c", "trap 'exit 0' TERM; sleep 1000 & wait"]
    assert config["User"] == "nobody"
    assert host["Memory"] == 64 * 1024 * 1024
    assert host["NanoCpus"] == 250_000_000
    assert host["PortBindings"] == {
        "80/tcp": [{"HostIp": "", "HostPort": "18081"}],
        "81/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18082"}],
        "83/udp": [{"HostIp": "", "HostPort": "18083"}],
        "84/tcp": [{"HostIp": "", "HostPort": ""}],
    }
    assert int(found["NetworkSettings"]["Ports"]["84/tcp"][0]["HostPort"]) > 0
    assert set(host["Binds"]) == {f"{data}:/data:ro", "things:/things:rw"}
    assert {(m["Destination"], m["RW"]) for m in found["Mounts"]} == {("/data", False), ("/things", True)}
    assert "/scratch" in host["Tmpfs"]
    assert host["ReadonlyRootfs"] is True
    assert host["Devices"] == [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/nothing", "CgroupPermissions": "r"}]
    assert host["Privileged"] is False
    assert host["NetworkMode"] == "lan"
    assert "all" in found["NetworkSettings"]["Networks"]["lan"]["Aliases"]
    assert host["RestartPolicy"]["Name"] in ("no", "")
    assert config["Labels"]["io.homei.service"] == "demo"
    assert config["Labels"]["colour"] == "green"
    assert config["Labels"]["io.homei.managed"] == "true"
    assert config["Healthcheck"] == {
        "Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9, "Timeout": 2 * 10**9, "Retries": 4,
        "StartPeriod": 10**9,
    }  # fmt: skip
    inside = engine.client.containers.get("all")
    assert inside.exec_run(["touch", "/etc/x"]).exit_code != 0
    assert inside.exec_run(["touch", "/scratch/x"], user="root").exit_code == 0
    assert inside.exec_run(["touch", "/data/x"], user="root").exit_code != 0


def test_a_service_finds_another_by_its_name_in_their_network(api: Api, engine: DockerEngine) -> None:
    api.create("one", image=IMAGE, command=WEB, network="lan")
    api.create("two", image=IMAGE, command=IDLE, network="lan")
    api.await_status("one", "running")
    api.await_status("two", "running")
    address = engine.inspect("one")["NetworkSettings"]["Networks"]["lan"]["IPAddress"]
    two = engine.client.containers.get("two")
    # A static busybox finds no resolver but nslookup's own.
    assert address in until("the name", lambda: str(two.exec_run(["nslookup", "one"]).output))
    assert two.exec_run(["wget", "-q", "-O", "-", f"http://{address}/"]).output == b"busybox\n"


def test_a_service_without_a_network_or_with_the_boards_own(api: Api, engine: DockerEngine) -> None:
    api.create("alone", image=IMAGE, command=IDLE, network="none")
    api.create("board", image=IMAGE, command=IDLE, network="host")
    api.await_status("alone", "running")
    api.await_status("board", "running")
    assert engine.inspect("alone")["HostConfig"]["NetworkMode"] == "none"
    assert engine.inspect("board")["HostConfig"]["NetworkMode"] == "host"


def test_privileges_are_refused_unless_the_file_allows_them(engine: DockerEngine, start: Start) -> None:
    asked = {"name": "root", "image": IMAGE, "command": IDLE, "privileged": True}
    refused = start().api.post("/api/v1/services", asked)
    assert refused.status == 400
    assert [error["field"] for error in refused.json["error"]["details"]["errors"]] == ["privileged"]
    allowing = start(containers={"allow_privileged": True}).api
    assert allowing.post("/api/v1/services", asked).status == 201
    # Whether such a container starts is the machine's to say: ours may lack capabilities itself.
    until("its container", lambda: engine.find("root"))
    assert engine.inspect("root")["HostConfig"]["Privileged"] is True


def test_a_restart_does_not_end_what_could_not_be_started_again(
    engine: DockerEngine, start: Start, tmp_path: Path
) -> None:
    homed = start()
    (tmp_path / "data").mkdir()
    homed.api.create("web", image=IMAGE, command=IDLE, volumes=[f"{tmp_path}/data:/data"], stop_timeout=0)
    homed.api.await_status("web", "running")
    before = container_id(engine, "web")
    homed.tables["containers"]["data_roots"] = ["/srv"]  # as an upgrade to stricter rules
    homed.write_config()
    homed.restart().await_ready()
    homed.api.await_reason("web", "not_allowed")
    assert "web: runs, and could not be started again: volumes[0]: " in homed.log
    refused = homed.api.act("web", "restart")
    assert (refused.status, refused.code) == (409, "NOT_ALLOWED")
    assert homed.api.service("web")["status"] == "running" and container_id(engine, "web") == before


def test_what_was_stored_is_checked_again_when_its_container_is_made(
    engine: DockerEngine, start: Start, tmp_path: Path
) -> None:
    homed = start()
    folder = tmp_path / "harmless"
    folder.mkdir()
    homed.api.create("sly", image=IMAGE, command=IDLE, volumes=[f"{folder}:/data"], enabled=False)
    folder.rmdir()
    folder.symlink_to("/etc")
    assert homed.api.act("sly", "enable").status == 500
    conditions = homed.api.await_reason("sly", "create_failed")
    assert "/etc" in conditions["message"]
    assert engine.find("sly") is None


def test_a_disabled_service_does_not_run_and_cannot_be_started(api: Api, engine: DockerEngine) -> None:
    api.create("off", image=IMAGE, command=IDLE, enabled=False)
    assert api.await_reason("off", "disabled")["wanted"] == "stopped"
    refused = api.act("off", "start")
    assert (refused.status, refused.code) == (409, "SERVICE_DISABLED")
    assert engine.find("off") is None
    assert api.act("off", "enable").json["status"] == "enabled"
    assert engine.is_running("off")


def test_a_name_is_used_once(api: Api) -> None:
    api.create("once", image=IMAGE, command=IDLE)
    again = api.post("/api/v1/services", {"name": "once", "image": IMAGE})
    assert (again.status, again.code) == (409, "SERVICE_EXISTS")


@pytest.mark.parametrize("name", ["a" * 63, "a.b-c_d", "0", "Az"])
def test_every_name_that_is_taken_can_be_run(api: Api, engine: DockerEngine, name: str) -> None:
    answer = api.post("/api/v1/services", {"name": name, "image": IMAGE, "command": IDLE})
    if answer.status == 400:
        assert answer.code == "VALIDATION_ERROR"
        return
    api.await_status(name, "running")


# Kept


def test_a_container_removed_by_hand_comes_back(api: Api, engine: DockerEngine) -> None:
    api.create("kept", image=IMAGE, command=IDLE)
    confirmed(api, "kept")
    before = container_id(engine, "kept")
    engine.client.api.remove_container("kept", force=True)
    until("another container", lambda: engine.is_running("kept") and container_id(engine, "kept") != before)


def test_a_container_killed_or_stopped_by_hand_comes_back(api: Api, engine: DockerEngine) -> None:
    api.create("kept", image=IMAGE, command=IDLE)
    confirmed(api, "kept")
    identity = container_id(engine, "kept")
    for end in (engine.client.api.kill, engine.client.api.stop):
        before = started(engine, "kept")
        end("kept")
        until("a new start", lambda b=before: engine.is_running("kept") and started(engine, "kept") != b)  # type: ignore[misc]
    assert container_id(engine, "kept") == identity


def test_a_container_of_others_is_never_touched_and_its_name_is_waited_for(api: Api, engine: DockerEngine) -> None:
    theirs = engine.run(*IDLE, name="mine")
    api.create("mine", image=IMAGE, command=IDLE)
    conditions = api.await_reason("mine", "name_taken")
    assert theirs.id[:12] in conditions["message"]
    stays("their container", lambda: engine.is_running(theirs.id), 1.5)
    theirs.remove(force=True)
    api.await_status("mine", "running")
    assert container_id(engine, "mine") != theirs.id


def test_a_container_of_others_made_later_in_the_name_of_a_stopped_service(api: Api, engine: DockerEngine) -> None:
    api.create("late", image=IMAGE, command=IDLE, enabled=False)
    api.await_reason("late", "disabled")
    theirs = engine.run(*IDLE, name="late")
    answer = api.act("late", "enable")
    assert answer.status == 500
    assert answer.json["error"]["details"]["reason"] == "name_taken"
    theirs.rename("moved")
    api.await_status("late", "running")
    assert engine.is_running("moved")


def test_an_orphan_is_told_of_and_left(api: Api, engine: DockerEngine) -> None:
    engine.run(*IDLE, name="orphan", labels={"io.homei.managed": "true", "io.homed.service": "gone"})
    until("it to be told of", lambda: "orphan" in api.get("/health").json["details"].get("services", ""))
    assert "homed_containers_orphaned 1.0" in api.get("/metrics").body.decode()
    assert api.get("/health").json["status"] == "healthy"
    assert [c["name"] for c in api.get("/api/v1/containers?managed=true").json["containers"]] == ["orphan"]
    stays("the orphan", lambda: engine.is_running("orphan"), 1.5)


def test_a_paused_container_is_left_paused(api: Api, engine: DockerEngine) -> None:
    api.create("still", image=IMAGE, command=IDLE)
    confirmed(api, "still")
    engine.client.api.pause("still")
    api.await_reason("still", "paused")
    stays("paused", lambda: engine.inspect("still")["State"]["Paused"], 1.5)
    engine.client.api.unpause("still")
    api.await_status("still", "running")


def test_a_crash_loop_backs_off_and_says_when_it_tries_again(api: Api, engine: DockerEngine) -> None:
    api.create("crashing", image=IMAGE, command=crash(3), restart_policy="always")

    def waiting() -> Any:
        seen = api.conditions("crashing")
        return seen if seen["attempts"] >= 4 and seen["next_try"] else None

    seen = until("the fourth try", waiting)
    assert seen["reason"] == "crashed"
    assert seen["exit_code"] == 3
    assert "exit code 3" in seen["message"]
    assert api.get("/health").json["status"] == "degraded"
    assert "crashing" in api.get("/health").json["details"]["services"]


@pytest.mark.parametrize(
    ("policy", "code", "reason", "starts"),
    [("no", 3, "ended", 1), ("no", 0, "ended", 1), ("on-failure", 0, "ended", 1), ("on-failure:2", 3, "gave_up", 3)],
)
def test_a_policy_that_lets_it_be(
    api: Api, engine: DockerEngine, policy: str, code: int, reason: str, starts: int
) -> None:
    api.create("once", image=IMAGE, command=["sh", "-c", f"echo run; exit {code}"], restart_policy=policy)
    conditions = api.await_reason("once", reason)
    assert conditions["next_try"] is None
    stays("its end", lambda: not engine.is_running("once"), 1.0)
    assert engine.client.api.logs("once") == b"run\n" * starts
    assert api.get("/health").json["components"]["api"] == "healthy"


@pytest.mark.parametrize(("policy", "code"), [("always", 0), ("unless-stopped", 0), ("on-failure", 3)])
def test_a_policy_that_starts_it_again(api: Api, engine: DockerEngine, policy: str, code: int) -> None:
    api.create("again", image=IMAGE, command=["sh", "-c", f"echo run; exit {code}"], restart_policy=policy)
    until("its third start", lambda: engine.find("again") and engine.client.api.logs("again").count(b"run") >= 3)


def test_on_failure_that_gave_up_starts_again_when_told_to(api: Api, engine: DockerEngine) -> None:
    api.create("tired", image=IMAGE, command=["sh", "-c", "echo run; exit 3"], restart_policy="on-failure:1")
    api.await_reason("tired", "gave_up")
    before = engine.client.api.logs("tired").count(b"run")
    api.act("tired", "start")
    until("another start", lambda: engine.client.api.logs("tired").count(b"run") > before)
    api.await_reason("tired", "gave_up")


def test_a_container_that_ran_out_of_memory_says_so(api: Api, engine: DockerEngine) -> None:
    eat = ["sh", "-c", "tail /dev/zero"]
    api.create("greedy", image=IMAGE, command=eat, memory="8m", restart_policy="no")
    assert "memory" in api.await_reason("greedy", "ended")["message"]


def test_a_service_starts_when_what_it_depends_on_is_healthy(api: Api, engine: DockerEngine, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    check = {"command": "test -e /shared/ready", "interval": 0.3, "timeout": 2, "retries": 100}
    api.create("base", image=IMAGE, command=IDLE, volumes=[f"{shared}:/shared:ro"], health_check=check)
    api.create("top", image=IMAGE, command=IDLE, depends_on=["base"])
    conditions = api.await_reason("top", "dependency")
    assert "base" in conditions["message"]
    api.await_status("base", "starting")
    stays("what waits", lambda: not engine.is_running("top"), 1.0)
    (shared / "ready").touch()
    api.await_status("top", "running")
    assert started(engine, "top") > started(engine, "base")
    needed = api.delete("/api/v1/services/base")
    assert (needed.status, needed.code) == (409, "SERVICE_NEEDED")


def test_an_unhealthy_container_is_restarted(api: Api, engine: DockerEngine, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "well").touch()
    check = {"command": "test -e /shared/well", "interval": 0.2, "timeout": 2, "retries": 1}
    api.create("patient", image=IMAGE, command=IDLE, volumes=[f"{shared}:/shared:ro"], health_check=check)
    confirmed(api, "patient")
    before = started(engine, "patient")
    (shared / "well").unlink()
    until("a restart", lambda: started(engine, "patient") != before)
    (shared / "well").touch()
    confirmed(api, "patient")


# Commands


def test_stop_start_restart_do_what_they_say(api: Api, engine: DockerEngine) -> None:
    api.create("app", image=IMAGE, command=IDLE)
    confirmed(api, "app")
    identity = container_id(engine, "app")
    assert api.act("app", "stop").json == {
        "name": "app", "status": "stopped", "message": "Service stopped successfully",
    }  # fmt: skip
    assert not engine.is_running("app")
    stays("stopped", lambda: not engine.is_running("app"), 1.0)
    assert api.act("app", "start").json["status"] == "started"
    assert engine.is_running("app")
    before = started(engine, "app")
    assert api.act("app", "start").json["status"] == "started"
    assert started(engine, "app") == before
    assert api.act("app", "restart").json["status"] == "restarted"
    assert engine.is_running("app")
    assert started(engine, "app") != before
    assert api.act("app", "disable").json["status"] == "disabled"
    assert not engine.is_running("app")
    assert api.act("app", "enable").json["status"] == "enabled"
    assert engine.is_running("app")
    assert container_id(engine, "app") == identity
    missing = api.act("nothing", "start")
    assert (missing.status, missing.code) == (404, "SERVICE_NOT_FOUND")
    assert missing.json["error"]["details"] == {"service_name": "nothing"}


@pytest.mark.parametrize(("verb", "runs"), [("stop", False), ("disable", False), ("start", True), ("enable", True)])
def test_what_was_said_survives_a_kill_of_homed(engine: DockerEngine, start: Start, verb: str, runs: bool) -> None:
    homed = start()
    homed.api.create("app", image=IMAGE, command=IDLE)
    confirmed(homed.api, "app")
    if runs:
        homed.api.act("app", "stop" if verb == "start" else "disable")
    homed.api.act("app", verb)
    homed.kill()
    assert engine.is_running("app") == runs
    homed.start()
    homed.api.await_status("app", "running" if runs else "stopped")
    stays("as it was told", lambda: engine.is_running("app") == runs, 1.0)


def test_a_stop_of_homed_leaves_containers_and_a_start_takes_them_over(homed: Homed, engine: DockerEngine) -> None:
    homed.api.create("app", image=IMAGE, command=IDLE)
    confirmed(homed.api, "app")
    identity, since = container_id(engine, "app"), started(engine, "app")
    assert homed.stop() == 0
    assert engine.is_running("app")
    homed.start()
    confirmed(homed.api, "app")
    stays("untouched", lambda: (container_id(engine, "app"), started(engine, "app")) == (identity, since), 1.0)


def test_what_crashed_while_homed_was_away_is_started(homed: Homed, engine: DockerEngine) -> None:
    homed.api.create("app", image=IMAGE, command=IDLE)
    confirmed(homed.api, "app")
    homed.kill()
    engine.client.api.kill("app")
    homed.start()
    until("it to run", lambda: engine.is_running("app"))


def test_a_container_that_does_not_stop_holds_up_no_other_service(api: Api, engine: DockerEngine) -> None:
    api.create("stubborn", image=IMAGE, command=STUBBORN, stop_timeout=25)
    api.await_status("stubborn", "running")
    confirmed(api, "stubborn")
    api.change("stubborn", environment={"V": "2"})
    api.await_reason("stubborn", None)
    for i in range(3):
        api.create(f"quick{i}", image=IMAGE, command=IDLE, stop_timeout=1)
    for i in range(3):
        confirmed(api, f"quick{i}")
        assert api.act(f"quick{i}", "restart").status == 200
    assert api.delete("/api/v1/services/quick0").json["status"] == "deleted"
    assert json.dumps(api.service("stubborn")["conditions"])
    assert "stubborn" in engine.names()


# Deleted


def test_delete_removes_the_container_and_the_service(api: Api, engine: DockerEngine) -> None:
    api.create("app", image=IMAGE, command=IDLE)
    api.await_status("app", "running")
    assert api.delete("/api/v1/services/app").json == {
        "name": "app", "status": "deleted", "message": "Service deleted successfully",
    }  # fmt: skip
    assert engine.names() == set()
    assert api.get("/api/v1/services/app").code == "SERVICE_NOT_FOUND"
    assert api.delete("/api/v1/services/app").status == 404
    assert api.get("/api/v1/services").json == {"services": []}
    api.create("app", image=IMAGE, command=IDLE)
    api.await_status("app", "running")


def test_a_deletion_goes_on_when_homed_is_killed_in_its_middle(homed: Homed, engine: DockerEngine) -> None:
    homed.api.create("app", image=IMAGE, command=STUBBORN, stop_timeout=2)
    homed.api.await_status("app", "running")
    with suppress(OSError):
        homed.api.delete("/api/v1/services/app", timeout=0.3)
    homed.kill()
    assert "app" in engine.names()
    homed.start()
    until("its container to go", lambda: "app" not in engine.names())
    until("it to be forgotten", lambda: homed.api.get("/api/v1/services").json == {"services": []})


def test_a_service_deleted_while_homed_was_away_from_the_engine_leaves_nothing(
    homed: Homed, engine: DockerEngine
) -> None:
    homed.api.create("app", image=IMAGE, command=crash(), restart_policy="always")
    until("a crash", lambda: homed.api.conditions("app")["attempts"] >= 2)
    assert homed.api.delete("/api/v1/services/app").status == 200
    stays("nothing", lambda: engine.names() == set(), 1.5)


def test_a_container_renamed_by_hand_stays_its_services(engine: DockerEngine, api: Api) -> None:
    api.create("web", image=IMAGE, command=IDLE, stop_timeout=0)
    api.await_status("web", "running")
    before = engine.inspect("web")["Id"]
    engine.client.containers.get("web").rename("webx")
    until("its name to be back", lambda: (found := engine.find("web")) is not None and found["Id"] == before)
    engine.client.containers.get("web").rename("webx")
    engine.client.containers.get(before).kill()
    until("it to run again", lambda: engine.is_running("web") and "webx" not in engine.names())
    api.act("web", "stop")
    engine.client.containers.get("web").rename("webx")
    assert api.call("DELETE", "/api/v1/services/web").status == 200
    assert not {"web", "webx"} & engine.names()
