"""Services held still on a real engine, as backups need it: frozen, stopped, prepared by their hooks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from homed.containers.engine import Engine
from homed.containers.spec import HealthCheck
from homed.containers.streams import Streams
from homed.errors import BackupError, NotFoundError
from homed.model import Capture, Hook, Mode, Source
from tests.boards.rig.cache import REPOSITORY
from tests.support.engine import IMAGE, DockerEngine
from tests.support.held_services import Board, board
from tests.support.services import IDLE
from tests.support.wait import stays, until

WHY = "its data is being restored"
# Writes a line each tenth of a second.
CLOCK = ["sh", "-c", "trap 'exit 0' TERM; while :; do date >> /data/ticks; sleep 0.1; done"]


@pytest.fixture
async def one(tmp_path: Path, engine: DockerEngine) -> AsyncIterator[Board]:
    real, streams = Engine(engine.address, lambda call: lambda seconds, worked: None), Streams(engine.address)
    state = tmp_path / "state"
    state.mkdir()
    async with board(state, real, streams) as made:
        yield made
    await streams.close()
    await real.close()


async def create(one: Board, name: str, **spec: Any) -> None:
    await one.create(name, **{"image": IMAGE, "command": tuple(IDLE), **spec})
    await one.reaches(name, "running")


async def capture(one: Board, name: str) -> Capture:
    (found,) = [capture for capture in await one.capturing.captures() if capture.service == name]
    return found


async def test_services_that_depend_on_each_other_are_held_and_come_back(one: Board, engine: DockerEngine) -> None:
    await create(one, "db")
    await create(one, "web", depends_on=("db",), restart_policy="no")
    await create(one, "other")
    await one.capturing.hold(["db", "web"], WHY)
    assert not engine.is_running("db") and not engine.is_running("web") and engine.is_running("other")
    down = {name: engine.inspect(name)["State"]["FinishedAt"] for name in ("db", "web")}
    assert down["web"] < down["db"]
    engine.client.containers.get("web").start()
    await one.reaches("web", "held", "held")
    await one.until(lambda: not engine.is_running("web"))
    await one.capturing.release(["db", "web"])
    assert await one.capturing.settle(["db", "web"], 30) == []
    assert engine.inspect("db")["State"]["StartedAt"] < engine.inspect("web")["State"]["StartedAt"]


async def test_a_frozen_service_writes_nothing_until_it_is_let_go(one: Board, engine: DockerEngine) -> None:
    await create(one, "clock", command=tuple(CLOCK), volumes=("ticks:/data",))
    ticks = Path((await capture(one, "clock")).sources[0].path) / "ticks"
    until("a first line", ticks.exists)
    await one.capturing.pause(["clock"])
    assert engine.inspect("clock")["State"]["Paused"]
    size = ticks.stat().st_size
    stays("the file as it is", lambda: ticks.stat().st_size == size, 0.5)
    await one.capturing.resume(["clock"])
    until("another line", lambda: ticks.stat().st_size > size)


async def test_what_was_frozen_by_a_homed_that_was_killed_is_let_go_by_the_next(
    tmp_path: Path, engine: DockerEngine
) -> None:
    real, streams = Engine(engine.address, lambda call: lambda seconds, worked: None), Streams(engine.address)
    async with board(tmp_path, real, streams) as one:
        await create(one, "web")
        await create(one, "by-hand")
    engine.client.containers.get("by-hand").pause()
    arguments = [sys.executable, "-m", "tests.support.freeze_and_wait", str(tmp_path), engine.address, "web"]
    process = subprocess.Popen(arguments, cwd=REPOSITORY, stdout=subprocess.PIPE, start_new_session=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"frozen\n"
        os.kill(process.pid, signal.SIGKILL)
    assert engine.inspect("web")["State"]["Paused"]
    async with board(tmp_path, real, streams, before=lambda capturing: capturing.recover()) as one:
        await one.reaches("web", "running")
        await one.reaches("by-hand", "paused", "paused")
    assert not engine.inspect("web")["State"]["Paused"] and engine.inspect("by-hand")["State"]["Paused"]
    await streams.close()
    await real.close()


async def test_a_health_check_does_not_restart_what_was_frozen(one: Board, engine: DockerEngine) -> None:
    check = HealthCheck(command="true", interval=0.2, timeout=0.2, retries=1)
    await create(one, "web", health_check=check)
    started = engine.inspect("web")["State"]["StartedAt"]
    await one.capturing.pause(["web"])
    time.sleep(1.5)
    await one.capturing.resume(["web"])
    await one.reaches("web", "running")
    assert engine.inspect("web")["State"]["StartedAt"] == started


async def test_a_hook_that_ends_well_has_done_its_work(one: Board) -> None:
    await create(one, "db", volumes=("dump:/dump",))
    assert await one.capturing.run_hook("db", Hook("echo $((6 * 7)) > /dump/sql", 30)) is None
    folder = Path((await capture(one, "db")).sources[0].path)
    assert (folder / "sql").read_text() == "42\n"
    assert await one.capturing.run_hook("db", Hook(("rm", "/dump/sql"), 30)) is None
    assert not (folder / "sql").exists()


async def test_a_hook_that_fails_tells_the_end_of_what_it_said(one: Board) -> None:
    await create(one, "db")
    command = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo 'no such role' >&2; exit 3"
    with pytest.raises(BackupError, match="db: its hook failed: it ended with exit code 3") as failed:
        await one.capturing.run_hook("db", Hook(command, 30))
    assert failed.value.code == "BACKUP_HOOK_FAILED"
    assert failed.value.message.endswith("line 2999\nno such role") and len(failed.value.message) < 5000


async def test_a_hook_that_cannot_be_run_fails(one: Board) -> None:
    await create(one, "db")
    with pytest.raises(BackupError) as failed:
        await one.capturing.run_hook("db", Hook(("/no/such/program",), 30))
    assert failed.value.code == "BACKUP_HOOK_FAILED"
    with pytest.raises(NotFoundError):
        await one.capturing.run_hook("gone", Hook("true", 30))


async def test_a_hook_past_its_deadline_is_told_by_its_process(one: Board, engine: DockerEngine) -> None:
    await create(one, "db")
    pid = await one.capturing.run_hook("db", Hook("echo begun; exec sleep 1000", 0.5))
    assert pid is not None and pid > 0
    top = engine.client.containers.get("db").top()
    commands = {row[top["Titles"].index("PID")]: row[-1] for row in top["Processes"]}
    assert commands[str(pid)] == "sleep 1000"
    assert one.capturing.container("db") == engine.inspect("db")["Id"]


async def test_the_data_of_a_service_is_told_with_what_is_left_out(
    one: Board, tmp_path: Path, engine: DockerEngine
) -> None:
    for name in ("data", "cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    engine.client.volumes.create("elsewhere", driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=1m"})
    await create(
        one,
        "web",
        volumes=(
            "named:/named", "elsewhere:/elsewhere", f"{tmp_path}/data/:/data", f"{tmp_path}/cache:/cache",
            f"{tmp_path}/file:/file:ro", f"{tmp_path}/link:/link", "/etc/localtime:/etc/localtime:ro",
        ),
        labels={
            "io.homed.backup": "paused", "io.homed.backup.before": "pg_dump", "io.homed.backup.timeout": "20",
            "io.homed.backup.exclude": f"{tmp_path}/cache",
        },
    )  # fmt: skip
    found = await capture(one, "web")
    assert (found.mode, found.before, found.after, found.running) == (Mode.PAUSED, Hook("pg_dump", 20.0), None, True)
    mountpoint = engine.client.volumes.get("named").attrs["Mountpoint"]
    sources = {source.name: source for source in found.sources}
    assert sources["named"] == Source("volume", "named", mountpoint)
    assert Path(mountpoint).is_dir()
    assert "type=tmpfs" in sources["elsewhere"].left_out
    assert sources[f"{tmp_path}/data"] == Source("path", f"{tmp_path}/data", f"{tmp_path}/data")
    assert sources[f"{tmp_path}/file"].left_out == ""
    assert sources[f"{tmp_path}/link"].path == f"{tmp_path}/data"
    assert sources[f"{tmp_path}/cache"].left_out == "its service excludes it by label"
    assert sources["/etc/localtime"].left_out == "it is the system's"


async def test_volumes_that_only_the_image_wants_are_said_to_be_left_out(one: Board, engine: DockerEngine) -> None:
    holder = engine.client.containers.get(engine.run(*IDLE).id)
    holder.commit("with-volume", "1", changes="VOLUME /var/data")
    await create(one, "web", image="with-volume:1", volumes=("named:/named",))
    sources = (await capture(one, "web")).sources
    assert [source.left_out for source in sources] == ["", "it has no name of its own: mount a volume at /var/data"]


async def test_what_does_not_run_is_told_as_such(one: Board, engine: DockerEngine) -> None:
    await create(one, "web")
    engine.client.containers.get("web").pause()
    await one.reaches("web", "paused", "paused")
    assert not (await capture(one, "web")).running
    engine.client.containers.get("web").unpause()
    await one.reaches("web", "running")
    await one.change("web", stopped=True)
    await one.reaches("web", "stopped", "stopped")
    assert not (await capture(one, "web")).running
    assert one.capturing.container("web") is None


async def test_containers_of_others_that_are_in_the_way_are_named(
    one: Board, tmp_path: Path, engine: DockerEngine
) -> None:
    data = tmp_path / "data"
    (data / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(data)
    await create(one, "mine", volumes=(f"{data}:/data", "named:/named"))
    await create(one, "sibling", volumes=("named:/named",))
    for name, source, mode in (
        ("same", data, "ro"), ("inside", data / "inner", "ro"), ("above", tmp_path, "rw"),
        ("linked", tmp_path / "link", "rw"), ("looks-on", tmp_path, "ro"), ("elsewhere", "/srv", "rw"),
    ):  # fmt: skip
        engine.run(*IDLE, name=name, volumes={str(source): {"bind": "/mnt", "mode": mode}})
    engine.run("true", name="ended", volumes={str(data): {"bind": "/mnt", "mode": "rw"}})
    until("it to have ended", lambda: not engine.is_running("ended"))
    assert await one.capturing.strangers([str(data)], ["mine"]) == ["above", "inside", "linked", "same"]
    volume = await one.capturing.make_volume("named")
    assert await one.capturing.strangers([volume], ["mine"]) == ["sibling"]
    assert await one.capturing.strangers([volume], ["mine", "sibling"]) == []


async def test_a_volume_is_made_where_there_is_none(one: Board, engine: DockerEngine) -> None:
    assert await one.capturing.find_volume("fresh") is None
    path = await one.capturing.make_volume("fresh")
    assert path == await one.capturing.make_volume("fresh") == await one.capturing.find_volume("fresh")
    found = engine.client.volumes.get("fresh").attrs
    assert (found["Mountpoint"], found["Labels"]) == (path, {"io.homei.managed": "true"})
    engine.client.volumes.create("elsewhere", driver_opts={"type": "tmpfs", "device": "tmpfs"})
    with pytest.raises(BackupError, match="mounted from elsewhere"):
        await one.capturing.make_volume("elsewhere")
