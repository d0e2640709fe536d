"""Kept connections, with Debian's sshd: who gets in, by which key a host is known, and how many there are."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import asyncssh
import pytest

from homed.errors import HomedError, HostError, NotFoundError, ValidationError
from homed.jobs.hosts import AuthType, Host, HostChange, NewHost
from homed.jobs.records import Result
from tests.support.ssh_server import by_sh
from tests.support.ssh_world import SshWorld, ssh_world
from tests.support.sshd import ACCOUNT, Sshd, keypair, sshd


async def refusal(world: SshWorld, host: Host) -> HomedError:
    with pytest.raises(HomedError) as caught:
        await world.run(host, "true")
    return caught.value


async def test_a_password_a_key_and_an_uploaded_key_let_homed_in(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        uploaded = await world.pem.put("board.pem", server.key.encode())
        by_file = await world.hosts.create(
            NewHost(
                name="by file", hostname="localhost", port=server.port, user=server.user, auth_type=AuthType.KEY,
                pem_file_url=uploaded.url,
            )
        )  # fmt: skip
        for host, user in (
            (await world.by_password(server), ACCOUNT),
            (await world.by_key(server), server.user),
            (by_file, server.user),
        ):
            _, run = await world.run(host, "id -un")
            assert run.stdout == f"{user}\n"


async def test_a_password_by_questions_lets_homed_in(tmp_path: Path) -> None:
    """Many hosts take passwords only so."""

    class Asking(asyncssh.SSHServer):
        def get_kbdint_challenge(
            self, username: str, lang: str, submethods: str
        ) -> tuple[str, str, str, list[tuple[str, bool]]]:
            return "", "", "", [("Password: ", False)]

        def kbdint_auth_supported(self) -> bool:
            return True

        def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> bool:
            return list(responses) == ["secret"]

    key = asyncssh.generate_private_key("ssh-ed25519")
    listener = await asyncssh.create_server(
        Asking, "127.0.0.1", 0, server_host_keys=[key], process_factory=by_sh, encoding=None
    )
    async with listener, ssh_world(tmp_path) as world:
        host = await world.hosts.create(
            NewHost(
                name="asks", hostname="127.0.0.1", port=listener.get_port(), user="me", auth_type=AuthType.PASSWORD,
                password="secret",
            )
        )  # fmt: skip
        _, run = await world.run(host, "echo in")
        assert run.stdout == "in\n"


async def test_a_wrong_password_and_a_wrong_key_are_refused(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        error = await refusal(world, await world.by_password(server, "wrong horse"))
        assert error.code == "HOST_REFUSED"
        assert ACCOUNT in error.message
        assert "wrong horse" not in repr(error) + error.message + str(error.details)
        other, _ = keypair(tmp_path, "other")
        assert (await refusal(world, await world.by_key(server, key=other))).code == "HOST_REFUSED"


async def test_a_host_is_known_by_the_key_that_it_showed_first(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    async with ssh_world(tmp_path) as world:
        with sshd(tmp_path / "one") as server:
            host = await world.by_key(server)
            await world.run(host, "true")
            (pin,) = world.hosts.get(host.id).pins
            assert pin.key.split() == server.public.split()[:2]
        with sshd(tmp_path / "two", port=server.port) as changed:
            await world.hosts.update(host.id, HostChange(private_key=changed.key))
            error = await refusal(world, host)
            assert error.code == "HOST_KEY_CHANGED"
            shown = asyncssh.import_public_key(changed.public).get_fingerprint()
            assert error.details == {"pinned": [pin.fingerprint], "shown": shown}
            assert pin.fingerprint in error.message
            assert shown in error.message
            assert changed.logins == 0
            # It stays so until somebody says that it is meant.
            assert (await refusal(world, host)).code == "HOST_KEY_CHANGED"
            await world.hosts.unpin(host.id)
            result, _ = await world.run(host, "true")
            assert result.good
            assert world.hosts.get(host.id).pins[0].fingerprint == shown


async def test_a_host_with_several_keys_is_asked_for_the_pinned_one(tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        for kind in ("rsa", "ecdsa"):
            asyncssh.generate_private_key({"rsa": "ssh-rsa", "ecdsa": "ecdsa-sha2-nistp256"}[kind]).write_private_key(
                tmp_path / kind
            )
            (tmp_path / kind).chmod(0o600)
        with sshd(tmp_path, lines=f"HostKey {tmp_path}/rsa\nHostKey {tmp_path}/ecdsa") as server:
            host = await world.by_key(server)
            rsa = asyncssh.read_private_key(tmp_path / "rsa").export_public_key().decode()
            await world.hosts.pin(host.id, " ".join(rsa.split()[:2]))
            result, _ = await world.run(host, "true")
            assert result.good


async def test_nothing_of_the_one_who_runs_homed_takes_part(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "config").write_text("Host *\n  Port 1\n  User nobody\n  ProxyCommand false\n")
    (home / ".ssh" / "known_hosts").write_text("* " + keypair(tmp_path, "else")[1] + "\n")
    (home / ".ssh" / "id_ed25519").write_text(server.key)
    (home / ".ssh" / "id_ed25519").chmod(0o600)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    async with ssh_world(tmp_path) as world:
        result, run = await world.run(await world.by_key(server), "echo ${SSH_AUTH_SOCK-none} ${DISPLAY-none}")
        assert (result.good, run.stdout) == (True, "none none\n")
        other, _ = keypair(tmp_path, "other")
        assert (await refusal(world, await world.by_key(server, key=other))).code == "HOST_REFUSED"


async def test_sessions_share_one_login(tmp_path: Path) -> None:
    with sshd(tmp_path) as server:
        async with ssh_world(tmp_path) as world:
            host = await world.by_key(server)
            await asyncio.gather(*(world.run(host, "true") for _ in range(20)))
            assert server.logins == 1
            await world.hosts.update(host.id, HostChange(name="another name"))
            await world.run(host, "true")
            assert server.logins == 1


async def test_a_host_that_was_changed_is_logged_in_at_anew(tmp_path: Path) -> None:
    with sshd(tmp_path, passwords=True) as server:
        async with ssh_world(tmp_path) as world:
            host = await world.by_key(server)
            running = world.start(host, "echo on; sleep 0.5; id -un")
            await running.printed("on")
            await world.hosts.update(
                host.id, HostChange(user=ACCOUNT, auth_type=AuthType.PASSWORD, password="correct horse")
            )
            _, run = await world.run(host, "id -un")
            assert run.stdout == f"{ACCOUNT}\n"
            # What ran by the old one is not disturbed.
            assert (await running.work).good
            assert running.stdout == f"on\n{server.user}\n"
            assert world.connections.count == 1
            await world.hosts.delete(host.id)
            assert world.connections.count == 0


async def test_an_unused_connection_is_closed(tmp_path: Path) -> None:
    with sshd(tmp_path) as server:
        async with ssh_world(tmp_path, idle=0.2) as world:
            host = await world.by_key(server)
            await world.run(host, "true")
            while world.connections.count:
                await asyncio.sleep(0.02)
            while "Disconnected from user" not in server.log.read_text():
                await asyncio.sleep(0.02)
            await world.run(host, "true")
            assert server.logins == 2


async def test_fifty_commands_at_once_wait_for_the_ten_sessions_that_there_are(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path, per_host=50) as world:
        host = await world.by_key(server)
        done = await asyncio.gather(*(world.run(host, f"sleep 0.1; echo {number}") for number in range(50)))
        assert [run.stdout for _, run in done] == [f"{number}\n" for number in range(50)]
        assert all(result.good for result, _ in done)


async def test_a_host_that_gives_fewer_sessions_than_homed_thinks(tmp_path: Path) -> None:
    with sshd(tmp_path, lines="MaxSessions 1") as server:
        async with ssh_world(tmp_path) as world:
            host = await world.by_key(server)
            long = world.start(host, "echo on; sleep 300")
            await long.printed("on")
            waiting = world.start(host, "echo in turn")
            await waiting.began.wait()
            # Its end needs a session as well, and gets one.
            assert (await long.kill()).signal == "SIGTERM"
            assert (await waiting.work).good


async def test_a_host_that_gives_no_session_at_all_is_busy(tmp_path: Path) -> None:
    with sshd(tmp_path, lines="MaxSessions 0") as server:
        async with ssh_world(tmp_path) as world:
            assert (await refusal(world, await world.by_key(server))).code == "HOST_BUSY"


async def test_no_more_connections_than_there_may_be(tmp_path: Path) -> None:
    with sshd(tmp_path) as server:
        async with ssh_world(tmp_path, hosts=2) as world:
            hosts = [await world.by_key(server) for _ in range(6)]
            seen = []

            async def run(host: Host) -> Result:
                result, _ = await world.run(host, "true")
                seen.append(world.connections.count)
                return result

            assert all(result.good for result in await asyncio.gather(*map(run, hosts)))
            assert max(seen) == 2
            assert server.logins == 6


async def test_a_connection_that_died_unseen_is_made_anew(tmp_path: Path) -> None:
    with sshd(tmp_path) as server:
        async with ssh_world(tmp_path) as world:
            host = await world.by_key(server)
            await world.run(host, "true")
            server.kill_sessions()
            result, _ = await world.run(host, "true")
            assert result.good
            assert server.logins == 2


async def test_an_sshd_that_turns_some_away_is_asked_again(tmp_path: Path) -> None:
    with sshd(tmp_path, lines="MaxStartups 1") as server:
        async with ssh_world(tmp_path) as world:
            hosts = [await world.by_key(server) for _ in range(4)]
            for result, _ in await asyncio.gather(*(world.run(host, "true") for host in hosts)):
                assert result.good


@contextlib.asynccontextmanager
async def silent() -> AsyncIterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_what_cannot_be_reached_says_why(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path, connect_timeout=0.5) as world, silent() as port:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody: int = closed.getsockname()[1]
        for host, said in (
            (await world.by_key(server, port=nobody), "refused"),
            (await world.by_key(server, port=port), "did not answer within 0.5 s"),
            (await world.by_key(server, hostname="no-such-host.invalid"), "name no-such-host.invalid is not known"),
        ):
            error = await refusal(world, host)
            assert isinstance(error, HostError)
            assert (error.code, said in error.message) == ("HOST_UNREACHABLE", True), error.message
        assert world.connections.count == 0


async def test_what_speaks_something_else_says_so(tmp_path: Path) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100)
        writer.close()

    listener = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with listener, ssh_world(tmp_path) as world:
        key, _ = keypair(tmp_path, "key")
        host = await world.hosts.create(
            NewHost(
                name="web", hostname="127.0.0.1", port=listener.sockets[0].getsockname()[1], user="me",
                auth_type=AuthType.KEY, private_key=key,
            )
        )  # fmt: skip
        assert (await refusal(world, host)).code == "HOST_UNREACHABLE"


async def test_a_host_that_is_not_there_any_more(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        host = await world.by_key(server)
        await world.hosts.delete(host.id)
        error = await refusal(world, host)
        assert isinstance(error, NotFoundError)
        assert error.code == "HOST_NOT_FOUND"


async def test_an_upload_that_is_not_there_makes_no_host(server: Sshd, tmp_path: Path) -> None:
    async with ssh_world(tmp_path) as world:
        with pytest.raises(ValidationError, match="pem_file_url"):
            await world.hosts.create(
                NewHost(name="x", hostname="h", user="u", auth_type=AuthType.KEY, pem_file_url="/pem-files/none.pem")
            )
