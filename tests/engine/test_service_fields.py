"""What a service's fields make of its container, and what is refused before there is one."""

from pathlib import Path
from typing import Any

from tests.support.api import Api
from tests.support.engine import IMAGE, DockerEngine
from tests.support.services import IDLE
from tests.support.wait import until


def say(engine: DockerEngine, name: str, command: str) -> str:
    done = engine.client.containers.get(name).exec_run(["sh", "-c", command])
    assert isinstance(done.output, bytes)
    return done.output.decode()


def test_fields_reach_the_container(engine: DockerEngine, api: Api) -> None:
    longest = "x" * (131_071 - len("LONGEST="))
    api.create(
        "app", image=IMAGE, command=IDLE, tmpfs=["/small:size=1m,mode=0700"], init=True, cap_add=["NET_BIND_SERVICE"],
        extra_hosts=["db:10.0.0.5"], ports=["18000-18002:9000-9002"], environment={"LONGEST": longest}, stop_timeout=0,
    )  # fmt: skip
    api.await_status("app", "running")
    host = engine.inspect("app")["HostConfig"]
    assert (host["Init"], host["CapAdd"]) == (True, ["NET_BIND_SERVICE"])
    assert host["PortBindings"]["9002/tcp"] == [{"HostIp": "", "HostPort": "18002"}]
    assert "10.0.0.5" in say(engine, "app", "cat /etc/hosts")
    assert say(engine, "app", "df -k /small | tail -1 | awk '{print $2}'").strip() == "1024"
    assert say(engine, "app", "echo ${#LONGEST}").strip() == str(len(longest)), "the kernel takes it"
    shown = api.service("app")
    assert (shown["init"], shown["cap_add"], shown["extra_hosts"]) == (True, ["NET_BIND_SERVICE"], ["db:10.0.0.5"])


_NEVER: list[tuple[dict[str, Any], str]] = [
    ({"image": "Bugs/x:1"}, "image"), ({"image": "x@sha256:12"}, "image"), ({"tmpfs": ["/tmp:bogus"]}, "tmpfs"),
    ({"volumes": ["a:/x", "b:/x/"]}, "volumes"), ({"ports": ["80:80", "80:81"]}, "ports"),
    ({"cap_add": ["SYS_ADMIN"]}, "cap_add"), ({"devices": ["/dev/uinput"]}, "devices"),
    ({"volumes": ["/opt/homed:/x"]}, "volumes"), ({"environment": {"A": "x" * 131_070}}, "environment.A"),
    ({"depends_on": {"nobody": "started"}}, "depends_on.nobody"), ({"depends_on": {"a1": "never"}}, "depends_on"),
]  # fmt: skip


def test_what_could_never_run_is_refused_at_once(engine: DockerEngine, api: Api, tmp_path: Path) -> None:
    for fields, field in _NEVER:
        answer = api.post("/api/v1/services", {"name": "bad", "image": IMAGE, **fields})
        assert (answer.status, answer.code) == (400, "VALIDATION_ERROR"), fields
        wrong = [error["field"] for error in answer.json["error"]["details"]["errors"]]
        assert wrong and wrong[0].startswith(field), fields
    assert api.get("/api/v1/services/bad").status == 404
    # A file that is not there is told of, and no folder is made in its place.
    volumes = [f"{tmp_path}/app.conf:/etc/app.conf"]
    answer = api.post("/api/v1/services", {"name": "app", "image": IMAGE, "volumes": volumes})
    assert (answer.status, answer.code) == (409, "MOUNT_SOURCE_MISSING")
    assert not (tmp_path / "app.conf").exists()
    (tmp_path / "app.conf").write_text("right")
    api.create("app", image=IMAGE, command=IDLE, volumes=[*volumes, f"{tmp_path}/made:/made"], stop_timeout=0)
    api.await_status("app", "running")
    assert say(engine, "app", "cat /etc/app.conf") == "right"
    assert (tmp_path / "made").is_dir(), "as it always was"


def test_a_service_waits_for_what_its_condition_says(engine: DockerEngine, api: Api, tmp_path: Path) -> None:
    migrate = "while [ ! -e /shared/go ]; do sleep 0.05; done"
    api.create(
        "migrate", image=IMAGE, command=["sh", "-c", migrate], volumes=[f"{tmp_path}/shared:/shared"], stop_timeout=0,
        restart_policy="no",
    )  # fmt: skip
    check = {"command": "false", "interval": 0.2}
    api.create("db", image=IMAGE, command=IDLE, health_check=check, restart_policy="no", stop_timeout=0)
    wanted = {"migrate": "completed", "db": "started"}
    api.create("web", image=IMAGE, command=IDLE, depends_on=wanted, stop_timeout=0)
    api.create("late", image=IMAGE, command=IDLE, depends_on={"db": "healthy"}, stop_timeout=0)
    api.await_status("migrate", "running")
    until("web to wait", lambda: "has not ended" in str(api.service("web")["conditions"]["message"]))
    assert api.service("web")["depends_on"] == wanted
    (tmp_path / "shared" / "go").touch()
    api.await_status("web", "running")
    assert api.service("late")["conditions"]["reason"] == "dependency"
    assert api.call("DELETE", "/api/v1/services/db").code == "SERVICE_NEEDED"
