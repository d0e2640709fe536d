"""Whether hosts can be reached, with Debian's sshd and with what is none."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from homed.errors import HostError, NotFoundError
from homed.jobs.ssh.check import Checks, Status
from tests.support.ssh_world import ssh_world
from tests.support.sshd import Sshd, sshd


async def test_a_host_that_answers_is_connected(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        host = await world.by_password(server)
        checked = await Checks(world.hosts, world.connections).check(host.id)
        assert (checked.status, checked.output, checked.code) == (Status.CONNECTED, "test", "")
        assert checked.milliseconds is not None
        assert checked.milliseconds >= 0
        noted = world.hosts.get(host.id)
        assert (noted.status, noted.checked_at is not None) == ("connected", True)
        assert noted.updated_at == host.updated_at


async def test_hosts_that_cannot_be_reached_are_answers_and_hold_up_nobody(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path, connect_timeout=60) as world:
        with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as closed:
            nobody: int = closed.getsockname()[1]
            closed.close()
            hosts = [
                await world.by_key(server),
                await world.by_key(server, port=nobody),
                await world.by_password(server, "wrong horse"),
                *[await world.by_key(server, port=silent.getsockname()[1]) for _ in range(30)],
            ]
            checks = Checks(world.hosts, world.connections, deadline=2.0)
            found = await checks.check_all([host.id for host in hosts])
        assert [checked.host for checked in found] == [host.id for host in hosts]
        assert [checked.status for checked in found[:3]] == ["connected", "disconnected", "disconnected"]
        assert [checked.code for checked in found[:3]] == ["", "HOST_UNREACHABLE", "HOST_REFUSED"]
        assert {(checked.code, checked.milliseconds) for checked in found[3:]} == {("HOST_UNREACHABLE", None)}
        assert all("2 s" in checked.message for checked in found[3:])
        assert "wrong horse" not in str(found)


async def test_a_host_whose_sessions_are_all_taken_is_connected(tmp_path: Path) -> None:
    with sshd(tmp_path, lines="MaxSessions 1") as server:
        async with ssh_world(tmp_path, per_host=1) as world:
            host = await world.by_key(server)
            run = world.start(host, "echo on; sleep 300")
            await run.printed("on")
            checked = await Checks(world.hosts, world.connections).check(host.id)
            assert checked.status is Status.CONNECTED
            await run.kill()


async def test_a_host_that_runs_nothing_says_what_it_says(tmp_path: Path) -> None:
    with sshd(tmp_path, lines="ForceCommand echo 'not for you' >&2; exit 1") as server:
        async with ssh_world(tmp_path) as world:
            checked = await Checks(world.hosts, world.connections).check((await world.by_key(server)).id)
            assert (checked.status, checked.message) == (Status.DISCONNECTED, "not for you")


async def test_a_host_that_is_not_there(tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        checks = Checks(world.hosts, world.connections)
        with pytest.raises(NotFoundError):
            await checks.check("none")
        assert list(await checks.check_all(["none"])) == []


async def test_first_checks_are_bounded_in_time_and_number_however_many_ask(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path, connect_timeout=60) as world:
        with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
            good = await world.by_key(server)
            silents = [await world.by_key(server, port=silent.getsockname()[1]) for _ in range(30)]
            ids = [good.id, *(host.id for host in silents)]
            checks = Checks(world.hosts, world.connections, deadline=60.0)
            found = await asyncio.gather(*(checks.check_first(ids, within=1.0) for _ in range(5)))
            for one in found:
                assert {id: checked.status for id, checked in one.items()} == {good.id: Status.CONNECTED}
            silent.setblocking(False)
            dialled = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    silent.accept()[0].close()
                    dialled += 1
            assert dialled <= 20, "each host once, and no more than 20 at a time"
            await checks.close()
        assert await checks.check_first([good.id], within=1.0) == {}, "it was checked"


async def test_a_status_stays_true_to_what_jobs_have_seen_since(tmp_path: Path) -> None:
    async with ssh_world(tmp_path, connect_timeout=5) as world:
        (tmp_path / "one").mkdir()
        with sshd(tmp_path / "one") as server:
            host = await world.by_key(server)
            await world.run(host, "true")
            assert world.hosts.get(host.id).status == ""
            await Checks(world.hosts, world.connections).check(host.id)
            assert world.hosts.get(host.id).status == "connected"
        world.connections.drop(host.id)
        with pytest.raises(HostError):
            await world.run(host, "true")
        assert world.hosts.get(host.id).status == "disconnected"
