"""Whatever of the state is lost, damaged, unreadable or read-only: containers are kept, and it is said why."""

import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.boards.rig.process import spawn
from tests.engine.conftest import Start
from tests.support.engine import IMAGE, DockerEngine
from tests.support.filesystems import bound, in_memory
from tests.support.homed import Homed
from tests.support.services import IDLE, container_id, started
from tests.support.wait import until

BUCKETS = ["services", "keys", "secrets", "hosts", "workers", "jobs", "pem-files", "backup_operations", "backup_pauses"]


def serving(homed: Homed, name: str = "web") -> Homed:
    """A homed with a running service, and something of every kind in its state."""
    homed.api.create(name, image=IMAGE, command=IDLE)
    homed.api.await_status(name, "running")
    return homed


def health(homed: Homed) -> Any:
    return homed.api.get("/health").json


def component(homed: Homed, name: str) -> str:
    return str(health(homed)["components"][name])


def is_kept(homed: Homed, engine: DockerEngine, name: str = "web") -> None:
    """What is killed is started again."""
    before = started(engine, name)
    engine.client.api.kill(name)
    until(f"{name} to be started again", lambda: engine.is_running(name) and started(engine, name) != before)


def edit(homed: Homed, *statements: str) -> None:
    with closing(sqlite3.connect(homed.state / "homed.db")) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


@pytest.mark.parametrize("left", [pytest.param("nothing", marks=pytest.mark.thorough), "no bytes"])
def test_a_lost_database_is_no_first_start(engine: DockerEngine, start: Start, left: str) -> None:
    homed = serving(start())
    made = homed.api.post("/api/v1/backups", {"name": "before", "include_data": False})
    assert made.status == 201, made.body
    name = made.json["name"]
    before = container_id(engine, "web")
    homed.stop()
    for path in homed.state.glob("homed.db*"):
        if path.name != "homed.db.initialized":
            path.unlink()
    if left == "no bytes":
        (homed.state / "homed.db").touch()
    homed.start()
    said = health(homed)
    assert (said["status"], said["components"]["store"]) == ("unhealthy", "unhealthy")
    assert "homed state reset" in said["details"]["store"] and "missing or empty" in homed.log
    for refused in (
        homed.api.post("/api/v1/services", {"name": "x", "config": {"image": IMAGE}}),
        homed.api.post("/api/v1/keys", {"name": "a", "scope": "read"}),
        homed.api.post("/api/v1/tasks", {"task_type": "echo", "payload": {}}),
        homed.api.put("/api/v1/config", {"orchestrator": {"name": "x"}}),
        homed.api.delete(f"/api/v1/backups/{name}"),
    ):
        assert (refused.status, refused.code) == (503, "STATE_MISSING"), refused.body
        assert int(refused.headers["retry-after"]) > 0
    assert homed.command("key", "create", "a", "--scope", "admin").returncode == 1
    assert homed.api.get("/api/v1/services").json == {"services": []}
    assert container_id(engine, "web") == before and engine.is_running("web"), "no container is touched"
    restored = homed.api.post(f"/api/v1/backups/{name}/restore", {})
    assert restored.status == 200, restored.body
    assert homed.api.create("other", image=IMAGE, command=IDLE).status == 201
    until("jobs to be there", lambda: component(homed, "jobs") == "healthy")
    homed.restart()
    homed.await_ready()
    assert {one["name"] for one in homed.api.get("/api/v1/services").json["services"]} == {"web", "other"}
    assert component(homed, "store") == "healthy"


@pytest.mark.thorough
def test_a_state_that_is_reset_starts_afresh_and_keeps_what_was_there(engine: DockerEngine, start: Start) -> None:
    homed = serving(start())
    refused = homed.command("state", "reset", "--yes")
    assert refused.returncode == 1 and "systemctl stop homed" in refused.stderr
    homed.stop()
    (homed.state / "homed.db").write_bytes(b"")
    asked = homed.command("state", "reset")
    assert asked.returncode == 2 and "--yes" in asked.stderr
    done = homed.command("state", "reset", "--yes")
    assert done.returncode == 0, done.stderr
    assert "reset" in done.stdout
    homed.start()
    homed.await_ready()
    assert component(homed, "store") == "healthy"
    assert homed.api.get("/api/v1/services").json == {"services": []}
    assert engine.is_running("web")
    assert homed.api.create("new", image=IMAGE, command=IDLE).status == 201


@pytest.mark.thorough
def test_a_damaged_record_of_any_kind_stops_nothing_else(engine: DockerEngine, start: Start) -> None:
    homed = serving(serving(start()), "hurt")
    before = container_id(engine, "hurt")
    homed.stop()
    values = [f"('{bucket}', 'bad', x'7b2261223a', 1)" for bucket in BUCKETS]
    edit(
        homed,
        f"INSERT OR REPLACE INTO records VALUES {', '.join(values)}",
        "UPDATE records SET value = CAST(replace(CAST(value AS TEXT), '{', '[') AS BLOB)"
        " WHERE bucket = 'services' AND key = 'hurt'",
        "UPDATE records SET value = x'00' WHERE bucket = 'secrets' AND key = 'token-signing'",
    )
    homed.start()
    homed.await_ready()
    said = health(homed)
    assert said["components"]["records"] == "degraded"
    shown = homed.command("state", "damaged")
    assert shown.returncode == 0, shown.stderr
    for bucket in (one for one in BUCKETS if one not in ("secrets", "pem-files")):
        assert f"{bucket}/bad" in shown.stdout, bucket
    assert "services/hurt" in shown.stdout and "secrets/token-signing" in shown.stdout
    is_kept(homed, engine)
    assert container_id(engine, "hurt") == before and engine.is_running("hurt")
    assert "hurt" in said["details"]["services"], "its container is reported"
    assert 'homed_records_damaged{bucket="services"} 2.0' in homed.api.get("/metrics").body.decode()
    for path in ("/api/v1/services", "/api/v1/keys", "/api/v1/jobs", "/api/v1/servers",
                 "/api/v1/backups/operations", "/api/v1/audit", "/api/v1/tasks"):  # fmt: skip
        assert homed.api.get(path).status == 200, path
    homed.restart()
    assert component(homed, "records") == "degraded", "until somebody has looked at it"
    assert homed.command("state", "damaged", "--forget").returncode == 0
    homed.restart()
    assert component(homed, "records") == "healthy"


@pytest.mark.thorough
def test_flipped_bits_anywhere_in_the_state_never_end_homed(engine: DockerEngine, start: Start) -> None:
    chance = random.Random(4)
    homed = serving(start())
    homed.make_key("a", "admin")
    homed.api.post("/api/v1/tasks", {"task_type": "echo", "payload": {"message": "x"}})
    homed.api.put("/api/v1/config", {"orchestrator": {"name": "x"}})
    homed.stop()
    whole = homed.folder / "whole"
    shutil.copytree(homed.state, whole, symlinks=True)
    before = container_id(engine, "web")
    for _ in range(6):
        for path in sorted(one for one in whole.rglob("*") if one.is_file() and one.stat().st_size):
            data = bytearray(path.read_bytes())
            for _ in range(1 + len(data) // 20_000):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            (homed.state / path.relative_to(whole)).write_bytes(data)
        homed.start()
        assert homed.api.get("/health").status == 200
        homed.kill()
        shutil.rmtree(homed.state)
        shutil.copytree(whole, homed.state, symlinks=True)
    assert container_id(engine, "web") == before and engine.is_running("web")


@pytest.mark.thorough
@pytest.mark.parametrize("part", ["jobs", "updates", "backups"])
def test_a_component_whose_folder_is_a_file_recovers_without_a_restart(
    engine: DockerEngine, start: Start, part: str
) -> None:
    homed = serving(start())
    homed.stop()
    folder, aside = homed.state / part, homed.state / f"{part}.aside"
    if folder.exists():
        folder.rename(aside)
    folder.write_text("in its place")
    homed.start()
    homed.await_ready()
    assert component(homed, part) == "unhealthy" and health(homed)["status"] == "degraded"
    assert f'homed_component_up{{component="{part}"}} 0.0' in homed.api.get("/metrics").body.decode()
    path = {"jobs": "/api/v1/jobs", "updates": "/api/v1/update/status", "backups": "/api/v1/backups"}[part]
    refused = homed.api.get(path)
    assert (refused.status, refused.code) == (503, "STATE_UNAVAILABLE"), refused.body
    assert int(refused.headers["retry-after"]) > 0
    others = {"jobs", "updates", "backups"} - {part}
    assert all(component(homed, one) == "healthy" for one in others)
    assert homed.api.get("/api/v1/system/info").status == 200
    is_kept(homed, engine)
    folder.unlink()
    if aside.exists():
        aside.rename(folder)
    until(f"{part} to be there again", lambda: component(homed, part) == "healthy", deadline=70)
    assert homed.api.get(path).status == 200
    assert f'homed_component_up{{component="{part}"}} 1.0' in homed.api.get("/metrics").body.decode()


class OnFailingDisk(Homed):
    """One for which what lies under a path fails as long as a file is there."""

    under: Path = Path("/nonexistent")

    def _environment(self) -> dict[str, str]:
        return {
            **super()._environment(),
            "LD_PRELOAD": str(self.folder / "eio.so"),
            "EIO_UNDER": str(self.under),
            "EIO_WHILE": str(self.folder / "fails"),
        }


@pytest.fixture
def failing(tmp_path: Path, engine: DockerEngine) -> Iterator[OnFailingDisk]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("a C compiler makes the disk that fails")
    homed = OnFailingDisk(tmp_path / "homed", engine.address)
    source = Path(__file__).parent.parent / "support" / "eio.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", homed.folder / "eio.so", source, "-ldl"], check=True)
    yield homed
    if homed.runs:
        homed.kill()


@pytest.mark.thorough
@pytest.mark.parametrize("part", ["jobs", "updates", "backups", "homed.db", "config.json"])
def test_where_the_disk_fails_the_rest_goes_on(failing: OnFailingDisk, engine: DockerEngine, part: str) -> None:
    homed = failing
    homed.start()
    homed.await_ready()
    serving(homed)
    homed.api.put("/api/v1/config", {"orchestrator": {"name": "x"}})
    homed.stop()
    before = container_id(engine, "web")
    homed.under = homed.state / part
    (homed.folder / "fails").touch()
    homed.start()
    name = {"homed.db": "store", "config.json": "configuration"}.get(part, part)
    assert component(homed, name) != "healthy", homed.log
    if part != "homed.db":
        homed.await_ready()
        is_kept(homed, engine)
    else:
        refused = homed.api.post("/api/v1/services", {"name": "x", "config": {"image": IMAGE}})
        assert (refused.status, refused.code) == (503, "STATE_UNAVAILABLE")
        assert container_id(engine, "web") == before and engine.is_running("web")
    (homed.folder / "fails").unlink()
    if part != "config.json":  # read at a start, and kept for its owner until then
        until(f"{part} to be there again", lambda: component(homed, name) == "healthy", deadline=70)
        homed.await_ready()
        assert homed.api.create("new", image=IMAGE, command=IDLE).status == 201
        is_kept(homed, engine)


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_on_a_read_only_state_containers_are_kept_and_changes_refused(
    engine: DockerEngine, start: Start, tmp_path: Path, how: str
) -> None:
    homed = serving(start())
    homed.make_key("a", "read")
    homed.stop() if how == "stopped" else homed.kill()
    own = tmp_path / "own"
    homed.state.rename(own)
    homed.state.mkdir()
    with bound(own, homed.state):
        subprocess.run(["mount", "-o", "remount,ro,bind", homed.state], check=True)
        try:
            homed.start()
            homed.await_ready()
            assert component(homed, "store") == "degraded"
            assert "changes are refused" in health(homed)["details"]["store"]
            is_kept(homed, engine)
            assert [one["name"] for one in homed.api.get("/api/v1/keys").json["keys"]] == ["a"]
            assert [one["name"] for one in homed.api.get("/api/v1/services").json["services"]] == ["web"]
            for refused in (
                homed.api.post("/api/v1/services", {"name": "x", "config": {"image": IMAGE}}),
                homed.api.delete("/api/v1/services/web"),
                homed.api.put("/api/v1/config", {"orchestrator": {"name": "x"}}),
                homed.api.post("/api/v1/backups", {"name": "x"}),
            ):
                assert (refused.status, refused.code) == (503, "STATE_READ_ONLY"), refused.body
            subprocess.run(["mount", "-o", "remount,rw,bind", homed.state], check=True)
            until("the store to be whole", lambda: component(homed, "store") == "healthy", deadline=40)
            assert homed.api.create("new", image=IMAGE, command=IDLE).status == 201
            until("jobs", lambda: homed.api.get("/api/v1/jobs").status == 200, deadline=70)
        finally:
            homed.kill()


@pytest.mark.thorough
def test_lost_keys_leave_the_board_itself_served_and_containers_kept(engine: DockerEngine, start: Start) -> None:
    homed = start(launch=False)
    key, _ = homed.make_key("a", "admin")
    homed.tables["api"]["host"] = "0.0.0.0"
    homed.write_config()
    open_api = homed.api
    homed.api = open_api.with_key(key)
    homed.start()
    homed.await_ready()
    serving(homed)
    homed.stop()
    edit(homed, "UPDATE records SET value = x'00' WHERE bucket = 'keys'")
    homed.api = open_api
    homed.start()
    homed.await_ready()
    assert component(homed, "api") == "degraded" and "KEY" not in homed.log.split("Listening")[-1]
    assert f"http://127.0.0.1:{homed.port}" in homed.log
    is_kept(homed, engine)


@pytest.mark.thorough
def test_settings_of_the_api_that_cannot_be_listened_on_do_not_stop_a_start(start: Start, engine: DockerEngine) -> None:
    homed = start()
    homed.make_key("a", "admin")
    changed = homed.api.put("/api/v1/config", {"orchestrator": {"api": {"listen": ["192.0.2.7:8080"]}, "name": "x"}})
    assert changed.status == 200, changed.body
    homed.restart()
    homed.await_ready()
    assert component(homed, "configuration") == "degraded"
    assert "192.0.2.7" in health(homed)["details"]["configuration"]
    assert homed.api.get("/api/v1/config").json["orchestrator"]["name"] == "x"


def test_a_key_made_on_the_command_line_counts_at_once(start: Start, engine: DockerEngine) -> None:
    homed = start()
    change = {"orchestrator": {"api": {"host": "0.0.0.0"}}}
    assert homed.api.put("/api/v1/config", change).code == "KEY_REQUIRED"
    homed.make_key("a", "admin")
    assert homed.api.put("/api/v1/config", change).status == 200


def test_flags_hide_what_is_stored_and_it_is_checked_all_the_same(tmp_path: Path, engine: DockerEngine) -> None:
    homed = Homed(tmp_path / "homed", engine.address)
    serve: list[str | Path] = [sys.executable, "-m", "homed", "serve", "--config", homed.config, "--state", homed.state]
    flags = ["--port", str(homed.port), "--host", "127.0.0.1"]
    with (homed.folder / "homed.log").open("ab") as log:
        homed.process = spawn([*serve, *flags], {**homed._environment(), "HOMED_LOG_LEVEL": "info"}, log)
    try:
        until("homed to answer", homed._answers)
        for wrong in ({"port": 99999999}, {"host": "not a host!!"}):
            assert homed.api.put("/api/v1/config", {"orchestrator": {"api": wrong}}).status == 400
        change = {"api": {"port": 18701}, "log": {"level": "error"}, "name": "x"}
        answer = homed.api.put("/api/v1/config", {"orchestrator": change})
        assert answer.json["overridden"] == ["api.port", "log.level"]
        shown = homed.api.get("/api/v1/config").json["orchestrator"]
        assert (shown["api"]["port"], shown["log"]["level"], shown["name"]) == (homed.port, "info", "x")
        assert json.loads((homed.state / "config.json").read_text())["api"] == {"port": 18701}
    finally:
        homed.kill()


def test_a_named_file_that_is_missing_stops_the_start(start: Start, engine: DockerEngine) -> None:
    homed = start(launch=False)
    homed.config.unlink()
    homed.launch()
    assert homed.wait() == 78
    assert "does not exist" in homed.log


@pytest.mark.thorough
def test_a_full_disk_at_the_start_does_not_keep_containers_waiting(
    engine: DockerEngine, start: Start, tmp_path: Path
) -> None:
    homed = serving(start())
    homed.stop()
    own = tmp_path / "own"
    homed.state.rename(own)
    with in_memory(homed.state, 4) as disk:
        shutil.copytree(own, disk, dirs_exist_ok=True)
        with (disk / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                pass
        try:
            homed.start()
            homed.await_ready()
            is_kept(homed, engine)
            refused = homed.api.post("/api/v1/services", {"name": "x", "config": {"image": IMAGE}})
            assert refused.status in (500, 503), refused.body
            (disk / "filler").unlink()
            until("the store to be whole", lambda: component(homed, "store") == "healthy", deadline=40)
            assert homed.api.create("new", image=IMAGE, command=IDLE).status == 201
        finally:
            homed.kill()


@pytest.mark.thorough
def test_keys_that_a_restore_brings_count_for_its_configuration(start: Start, engine: DockerEngine) -> None:
    source = start()
    source.make_key("a", "admin")
    assert source.api.put("/api/v1/config", {"orchestrator": {"api": {"host": "0.0.0.0"}}}).status == 200
    made = source.api.post("/api/v1/backups", {"name": "lan", "include_data": False})
    name = made.json["name"]
    archive = next((source.state / "backups").glob(f"{name}*"))
    source.stop()
    target = start()
    target.state.joinpath("backups").mkdir(exist_ok=True)
    shutil.copy(archive, target.state / "backups" / archive.name)
    target.restart()
    target.await_ready()
    until("the archive to be seen", lambda: target.api.get(f"/api/v1/backups/{name}").status == 200, deadline=120)
    refused = target.api.post(f"/api/v1/backups/{name}/restore", {"config": True})
    assert refused.code == "KEY_REQUIRED", refused.body
    restored = target.api.post(f"/api/v1/backups/{name}/restore", {"config": True, "keys": True})
    assert restored.status == 200, restored.body
    assert target.api.get("/api/v1/config").json["orchestrator"]["api"]["host"] == "0.0.0.0"
