"""Which sockets are served, which of them are trusted, and how many connections."""

import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web

from homed.api import listeners
from homed.api.listeners import Listeners, addresses, check_exposure, is_loopback, metrics_port
from homed.config import Api, Config, Monitoring
from homed.errors import ConfigError
from homed.health import Health, Level, overall
from tests.support.homed import free_port


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "::1%lo"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example", "localhost.evil", "128.0.0.1", "fe80::1"])
def test_what_is_not_loopback_is_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "api",
    [
        Api(host="0.0.0.0"),
        Api(host="::"),
        Api(host="board.example"),
        Api(listen=("192.168.1.1:80",)),
        Api(listen=("127.0.0.1:81", "[::]:82")),
    ],
)
def test_nothing_is_exposed_without_a_key(api: Api) -> None:
    with pytest.raises(ConfigError) as raised:
        check_exposure(Config(api=api), have_key=False)
    assert raised.value.code == "KEY_REQUIRED"
    assert "homed key create" in raised.value.message
    check_exposure(Config(api=api), have_key=True)


def test_the_metrics_port_is_no_way_around() -> None:
    exposed = Config(monitoring=Monitoring(metrics_host="0.0.0.0", metrics_port=9090))
    with pytest.raises(ConfigError):
        check_exposure(exposed, have_key=False)
    check_exposure(
        Config(monitoring=Monitoring(enabled=False, metrics_host="0.0.0.0", metrics_port=9090)), have_key=False
    )


def test_loopback_and_unix_sockets_need_no_key() -> None:
    check_exposure(Config(api=Api(listen=("[::1]:81", "unix:/run/x.sock"))), have_key=False)


def test_a_socket_that_systemd_passed_is_no_way_around() -> None:
    with socket.socket() as one:
        one.bind(("0.0.0.0", 0))
        with pytest.raises(ConfigError):
            check_exposure(Config(), have_key=False, sockets=[one])


Start = Callable[..., contextlib.AbstractAsyncContextManager[Listeners]]


@asynccontextmanager
async def started(
    config: Config,
    passed: Sequence[socket.socket] = (),
    connections: int = 100,
    control: Path | None = None,
    is_stranger: listeners.Ends = lambda client, server: False,
) -> AsyncIterator[Listeners]:
    """Listeners whose only route tells where a request came from."""
    if config.monitoring == Monitoring():
        config = msgspec.structs.replace(config, monitoring=Monitoring(metrics_port=0))
    made = Listeners(connections, is_stranger)

    async def tell(request: web.Request) -> web.Response:
        origin = made.locate(request)
        return web.json_response(origin._asdict())

    application = web.Application()
    application.router.add_get("/", tell)
    runner = listeners.runner_for(application)
    await runner.setup()
    try:
        await made.start(runner, config, passed, None, control)
        yield made
    finally:
        made.close()
        await runner.cleanup()


async def ask(url: str, connector: aiohttp.BaseConnector | None = None) -> dict[str, object]:
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
        told: dict[str, object] = await answer.json()
        return told


def told(address: str, *, control: bool = False) -> dict[str, object]:
    return {"address": address, "trusted": True, "only": None, "control": control, "spare": False, "plain": False}


async def test_a_loopback_listener_is_trusted() -> None:
    port = free_port()
    async with started(Config(api=Api(port=port))) as made:
        assert await ask(f"http://127.0.0.1:{port}/") == told("127.0.0.1")
        assert made.open == [f"http://127.0.0.1:{port}"]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_a_stranger_on_the_loopback_is_not_trusted_and_looked_at_once_a_connection(host: str) -> None:
    port, asked = free_port(), []

    def is_stranger(client: object, server: object) -> bool:
        asked.append((client, server))
        return True

    config = Config(api=Api(port=port, listen=(f"[::1]:{port}",)))
    async with started(config, is_stranger=is_stranger), aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.get(f"http://{host}:{port}/") as answer:
                assert (await answer.json())["trusted"] is False
    assert len(asked) == 1


async def test_a_listener_for_all_is_not_trusted_even_from_the_board_itself() -> None:
    with socket.socket() as given:
        given.bind(("0.0.0.0", 0))
        port = given.getsockname()[1]
        given.listen()
        async with started(Config(), [given]):
            assert (await ask(f"http://127.0.0.1:{port}/"))["trusted"] is False


async def test_a_passed_socket_takes_the_place_of_host_and_port() -> None:
    other, more = free_port(), free_port()
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        port = given.getsockname()[1]
        async with started(Config(api=Api(port=other, listen=(f"127.0.0.1:{more}",))), [given]):
            assert (await ask(f"http://127.0.0.1:{port}/"))["trusted"] is True
            assert (await ask(f"http://127.0.0.1:{more}/"))["trusted"] is True
            with pytest.raises(aiohttp.ClientConnectorError):
                await ask(f"http://127.0.0.1:{other}/")


async def test_a_unix_socket_is_trusted_private_and_taken_away_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "run" / "api.sock"
    config = Config(api=Api(port=free_port(), listen=(f"unix:{path}",)))
    async with started(config):
        assert path.stat().st_mode & 0o777 == 0o660
        assert await ask("http://board/", aiohttp.UnixConnector(str(path))) == told("unix")
    assert not path.exists()


async def test_a_unix_socket_left_by_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with started(Config(api=Api(port=free_port(), listen=(f"unix:{path}",)))):
        assert (await ask("http://board/", aiohttp.UnixConnector(str(path))))["trusted"] is True


async def test_a_file_in_the_place_of_a_unix_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    path.write_text("mine")
    with pytest.raises(ConfigError) as raised:
        async with started(Config(api=Api(port=free_port(), listen=(f"unix:{path}",)))):
            pass
    assert raised.value.code == "CANNOT_LISTEN" and path.read_text() == "mine"


async def test_a_port_in_use_is_an_error_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as raised:
            async with started(Config(api=Api(port=port))):
                pass
    assert raised.value.code == "CANNOT_LISTEN"
    assert str(port) in raised.value.message


async def test_what_was_bound_is_let_go_where_a_later_address_fails() -> None:
    first = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError):
            async with started(Config(api=Api(port=first, listen=(f"127.0.0.1:{taken.getsockname()[1]}",)))):
                pass
    async with started(Config(api=Api(port=first))):
        assert await ask(f"http://127.0.0.1:{first}/")


async def test_the_metrics_port_serves_one_path(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    port, metrics = free_port(), free_port()
    config = Config(api=Api(port=port), monitoring=Monitoring(metrics_port=metrics))
    async with started(config):
        # Whoever reads the two lines sees which one to open.
        assert f"Listening on http://127.0.0.1:{port} (see /docs)\n" in caplog.text
        assert f"Listening on http://127.0.0.1:{metrics} (metrics only)\n" in caplog.text
        assert (await ask(f"http://127.0.0.1:{metrics}/"))["only"] == "/metrics"
        assert (await ask(f"http://127.0.0.1:{port}/"))["only"] is None


async def test_a_port_that_two_have_bound_is_the_ones_that_listens_first() -> None:
    """Bound by both with SO_REUSEADDR, as two homeds that start together do."""
    with socket.socket() as other, socket.socket() as late:
        for one in (other, late):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        metrics, port = other.getsockname()[1], free_port()
        config = Config(api=Api(port=port), monitoring=Monitoring(metrics_port=metrics))
        async with started(config):
            with pytest.raises(OSError, match="in use"):
                other.listen()
        late.bind(("127.0.0.1", metrics))
        late.listen()
        async with started(config) as made:
            health = Health()
            made.report(health, configured=False)
            assert "metrics" in health.components()


async def test_a_metrics_port_in_use_is_a_note_and_no_failed_start(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        metrics, port = taken.getsockname()[1], free_port()
        config = Config(api=Api(port=port), monitoring=Monitoring(metrics_port=metrics))
        async with started(config) as made:
            assert await ask(f"http://127.0.0.1:{port}/") == told("127.0.0.1")
            health = Health()
            for configured, level in ((False, Level.HEALTHY), (True, Level.DEGRADED)):
                made.report(health, configured=configured)
                told_of = health.components()["metrics"]
                assert (told_of.status, told_of.needed) == (level, False) and str(metrics) in (told_of.message or "")
                assert overall(health.components()) is level
    assert len([one for one in caplog.records if one.levelname == "WARNING"]) == 1


def test_metrics_are_served_on_9090_of_the_loopback_unless_it_is_switched_off() -> None:
    assert addresses(Config()) == [("127.0.0.1", 8080), ("127.0.0.1", 9090)]
    assert metrics_port(Config()) == 9090
    off = Config(monitoring=Monitoring(metrics_port=0))
    assert addresses(off) == [("127.0.0.1", 8080)] and metrics_port(off) is None


@contextlib.contextmanager
def short(path: Path) -> Iterator[str]:
    """A name of at most 107 bytes for a path."""
    folder = os.open(path.parent, os.O_PATH)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@pytest.mark.parametrize("folder", ["state", "state/" + "very-long/" * 20])
async def test_the_command_lines_socket_is_known_for_what_it_is(tmp_path: Path, folder: str) -> None:
    path, other = tmp_path / folder / "control.sock", tmp_path / "api.sock"
    path.parent.mkdir(parents=True)
    port = free_port()
    async with started(Config(api=Api(port=port, listen=(f"unix:{other}",))), control=path) as made:
        with short(path) as name:
            assert await ask("http://any/", aiohttp.UnixConnector(name)) == told("unix", control=True)
        assert await ask("http://any/", aiohttp.UnixConnector(str(other))) == told("unix")
        assert await ask(f"http://127.0.0.1:{port}/") == told("127.0.0.1")
        assert path.stat().st_mode & 0o777 == 0o600
        assert made.open == [f"http://127.0.0.1:{port}", f"unix:{other}"]
    assert not path.exists()


async def test_the_command_lines_socket_takes_the_place_of_one_that_was_left(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with started(Config(api=Api(port=free_port())), control=path):
        assert await ask("http://any/", aiohttp.UnixConnector(str(path))) == told("unix", control=True)


async def test_without_the_command_lines_socket_the_rest_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path) -> socket.socket:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(listeners, "_beside", full)
    port = free_port()
    async with started(Config(api=Api(port=port)), control=tmp_path / "control.sock"):
        assert await ask(f"http://127.0.0.1:{port}/") == told("127.0.0.1")
    assert "No space left on device" in caplog.text
