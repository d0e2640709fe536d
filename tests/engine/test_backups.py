"""Backups of a real board: of its containers, its volumes and its homed, which is killed and replaced."""

import os
import signal
from pathlib import Path
from typing import Any

from tests.engine.conftest import Start
from tests.support.engine import IMAGE, DockerEngine
from tests.support.homed import Homed
from tests.support.services import IDLE
from tests.support.wait import until

PATH = "/api/v1/backups"


def volume(engine: DockerEngine, name: str) -> Path:
    return Path(engine.client.volumes.get(name).attrs["Mountpoint"])


def say(engine: DockerEngine, container: str, command: str) -> str:
    code, output = engine.client.containers.get(container).exec_run(["sh", "-c", command])
    assert code == 0 and isinstance(output, bytes), output
    return output.decode()


def create(homed: Homed) -> str:
    answer = homed.api.post(PATH, {"name": "all"}, timeout=60)
    assert answer.status == 201, answer
    return str(answer.json["name"])


def board(homed: Homed, web: Path) -> None:
    """`db` keeps rows in a volume, and is paused for a backup; `web` serves a folder, and needs it."""
    paused = {"io.homed.backup": "paused"}
    homed.api.create("db", image=IMAGE, command=IDLE, volumes=["rows:/data"], labels=paused, stop_timeout=1)
    homed.api.create(
        "web", image=IMAGE, command=IDLE, volumes=[f"{web}:/www"], depends_on=["db"], stop_timeout=1
    )  # fmt: skip
    for name in ("db", "web"):
        homed.api.await_status(name, "running")


def operations(homed: Homed) -> Any:
    return homed.api.get(f"{PATH}/operations").json["operations"]


def ended(homed: Homed) -> None:
    until("all to have ended", lambda: all(one["state"] != "running" for one in operations(homed)))


def left(homed: Homed) -> list[str]:
    """What of operations lies where none runs."""
    folders = [homed.state / "backup-work", homed.state / "backups"]
    return [p.name for f in folders for p in f.iterdir() if f.name == "backup-work" or p.name.startswith(".")]


def test_a_board_that_is_lost_is_rebuilt_on_another_one(engine: DockerEngine, start: Start, tmp_path: Path) -> None:
    one, web = start(), tmp_path / "web"
    web.mkdir()
    (web / "page").write_text("hello")
    os.chown(web / "page", 1000, 1000)
    board(one, web)
    say(engine, "db", "echo 1 2 3 > /data/rows && chown 33:33 /data/rows && ln -s rows /data/link")
    name = create(one)
    archive = one.api.get(f"{PATH}/{name}/download", timeout=60).body
    one.stop()
    engine.clean()
    (web / "page").unlink()
    web.rmdir()

    two = start()
    config = two.config.read_text()
    taken = two.api.call("PUT", f"{PATH}/{name}", data=archive, timeout=60)
    assert taken.status == 201, taken
    plan = two.api.post(f"{PATH}/{name}/restore", {"dry_run": True}, timeout=60)
    assert {one["name"]: one["act"] for one in plan.json["plan"]["services"]} == {"db": "create", "web": "create"}
    assert engine.client.volumes.list() == [] and not web.exists()
    answer = two.api.post(f"{PATH}/{name}/restore", {}, timeout=90)

    assert answer.status == 200, answer
    assert answer.json["result"]["not_running"] == []
    for service in ("db", "web"):
        two.api.await_status(service, "running")
    assert say(engine, "db", "cat /data/link && stat -c %u:%g /data/rows") == "1 2 3\n33:33\n"
    assert say(engine, "web", "cat /www/page && stat -c %u:%g /www/page") == "hello1000:1000\n"
    assert two.config.read_text() == config, "the owner's file is changed by no restore over the API"
    assert left(two) == []


def test_a_service_that_was_paused_when_homed_was_killed_goes_on(
    engine: DockerEngine, start: Start, tmp_path: Path
) -> None:
    homed, web = start(), tmp_path / "web"
    web.mkdir()
    board(homed, web)
    with (volume(engine, "rows") / "large").open("wb") as file:
        for _ in range(160):
            file.write(os.urandom(1 << 20))
    answer = homed.api.post(f"{PATH}?wait=false", {"name": "all"})
    assert answer.status == 202
    until("db to be paused", lambda: engine.inspect("db")["State"]["Paused"], every=0.002)
    homed.kill()
    assert engine.inspect("db")["State"]["Paused"]
    homed.start().await_ready()
    until("db to go on", lambda: not engine.inspect("db")["State"]["Paused"])
    homed.api.await_status("db", "running")
    ended(homed)
    assert homed.api.get(PATH).json["backups"] == []
    until("nothing to be left", lambda: left(homed) == [])

    # And where it is asked to end, it lets everybody go before it does.
    homed.api.post(f"{PATH}?wait=false", {"name": "all"})
    until("db to be paused", lambda: engine.inspect("db")["State"]["Paused"], every=0.002)
    assert homed.stop() == 0
    assert not engine.inspect("db")["State"]["Paused"]
    assert left(homed) == []


def test_a_restore_whose_homed_is_killed_is_ended_by_the_next(
    engine: DockerEngine, start: Start, tmp_path: Path
) -> None:
    homed, web = start(), tmp_path / "web"
    web.mkdir()
    (web / "page").write_text("old")
    board(homed, web)
    say(engine, "db", "echo old > /data/rows")
    name = create(homed)
    say(engine, "db", "echo new > /data/rows")
    (web / "page").write_text("new")
    for number in (signal.SIGKILL, signal.SIGTERM):
        homed.api.post(f"{PATH}/{name}/restore?wait=false", {"config": False})
        until("web to be stopped", lambda: not engine.is_running("web"), every=0.002)
        homed.send(number)
        homed.wait()
        homed.start().await_ready()
        for service in ("db", "web"):
            homed.api.await_status(service, "running")
        ended(homed)
        assert (web / "page").read_text() == say(engine, "db", "cat /data/rows").strip()
        until("nothing to be left", lambda: left(homed) == [])
        assert [path.name for path in volume(engine, "rows").iterdir()] == ["rows"]
        assert not list(tmp_path.glob(".homed-*")) and not list(volume(engine, "rows").parent.glob(".homed-*"))


def test_what_somebody_elses_container_uses_is_not_replaced(engine: DockerEngine, start: Start, tmp_path: Path) -> None:
    homed, web = start(), tmp_path / "web"
    web.mkdir()
    board(homed, web)
    say(engine, "db", "echo old > /data/rows")
    name = create(homed)
    say(engine, "db", "echo new > /data/rows")
    engine.run(*IDLE, name="stranger", volumes={"rows": {"bind": "/x", "mode": "rw"}})
    started = engine.inspect("db")["State"]["StartedAt"]
    answer = homed.api.post(f"{PATH}/{name}/restore", {"config": False}, timeout=60)

    assert (answer.status, answer.code) == (409, "BACKUP_IN_USE")
    assert answer.json["error"]["details"]["containers"] == ["stranger"]
    assert engine.inspect("db")["State"]["StartedAt"] == started
    engine.client.containers.get("stranger").kill()
    assert homed.api.post(f"{PATH}/{name}/restore", {"config": False}, timeout=60).status == 200
    homed.api.await_status("db", "running")
    assert say(engine, "db", "cat /data/rows") == "old\n"
