"""Connections that do nothing, come slowly, speak the wrong language, or are too many: with a real homed."""

import asyncio
import contextlib
import gc
import json
import logging
import os
import re
import socket
import ssl
import subprocess
import time
from asyncio.sslproto import SSLProtocol
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from homed.api import acceptor, certificates, listeners
from homed.api.listeners import Listeners
from homed.api.protocol import REFUSAL
from homed.config import Api as ApiConfig
from homed.config import Config, Monitoring, Tls
from homed.errors import HomedError
from tests.boards.rig.cache import REPOSITORY
from tests.support.api import Api
from tests.support.homed import Homed, free_port
from tests.support.sockets import Follower
from tests.support.wait import until


def address_of_this_machine() -> str:
    """An address that others see; a connection to it comes from it, too, and so not from the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(("198.51.100.1", 9))
        except OSError:
            pytest.skip("this machine has no address but the loopback")
        return str(one.getsockname()[0])


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def without_engine(folder: Path, **api: object) -> dict[str, object]:
    return {"folder": folder, "engine": f"unix://{folder}/no-engine.sock", "tables": {"api": api}}


@contextlib.contextmanager
def holding(count: int, host: str, port: int, say: bytes = b"") -> Iterator[list[socket.socket]]:
    """This many connections that say no more than this."""
    held: list[socket.socket] = []
    with ExitStack() as stack:
        for _ in range(count):
            one = stack.enter_context(socket.create_connection((host, port), timeout=20))
            if say:
                with contextlib.suppress(OSError):
                    one.sendall(say)
            held.append(one)
        yield held


def is_ended(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return one.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homed]:
    """One that is reached over TLS from elsewhere."""
    folder = tmp_path_factory.mktemp("served")
    homed = Homed(**without_engine(folder, host="0.0.0.0"))  # type: ignore[arg-type]
    homed.tables["api.tls"] = {"enabled": True}
    homed.write_config()
    homed.api = homed.api.with_key(homed.make_key("person", "admin")[0])
    with homed:
        yield homed
        homed.stop()


def control(homed: Homed) -> Api:
    return Api(unix=str(homed.state / "control.sock"), timeout=20)


@pytest.mark.parametrize("say", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"], ids=["silent", "half"])
def test_hundreds_of_connections_to_a_tls_port_cost_little_and_starve_nobody(served: Homed, say: bytes) -> None:
    lan = Api(served.port, host=address_of_this_machine(), tls=unverified(), timeout=20)
    assert lan.get("/health").status == 200
    before = served.memory()
    with holding(600, lan.host, served.port, say) as held:
        assert lan.get("/health").status == 200
        assert served.api.get("/api/v1/services").status == 200
        assert control(served).get("/api/v1/keys").status == 200
        until("the oldest of one client's to be ended", lambda: sum(map(is_ended, held)) >= 600 - 64)
        assert is_ended(held[0]) and not is_ended(held[-1])
        grown = served.memory() - before
    print(f"600 connections that said {len(say)} bytes: {grown / 1e6:+.1f} MB")
    assert grown < 64_000_000
    until("all to be forgotten", lambda: served.descriptors() < 64)


def test_hundreds_of_connections_over_the_loopback_starve_nobody(served: Homed) -> None:
    """They share an address with all else on the board: the idlest of all are ended, and not one for another's sake."""
    with holding(300, "127.0.0.1", served.port, b"GET /health HT") as held:
        assert served.api.get("/health").status == 200
        assert control(served).get("/api/v1/keys").status == 200
        lan = Api(served.port, host=address_of_this_machine(), tls=unverified(), timeout=20)
        assert lan.get("/health").status == 200
        until("the oldest to be ended", lambda: sum(map(is_ended, held)) >= 300 - 256)
        assert is_ended(held[0]) and not is_ended(held[-1])


def test_plain_http_to_a_tls_port_is_told_to_use_https(served: Homed) -> None:
    plain = Api(served.port, host=address_of_this_machine(), timeout=20)
    for path in ("/health", "/api/v1/services", "/nothing"):
        answer = plain.get(path, headers={"X-API-Key": served.api.headers["X-API-Key"]})
        assert (answer.status, answer.code) == (400, "HTTPS_REQUIRED"), path
        assert "https://" in answer.json["error"]["message"]
    refused = plain.post("/api/jobs/create", {"command": "x"})
    assert refused.status == 400 and "https://" in refused.body.decode(), "in the shape of the path's family"


def test_on_the_board_itself_both_http_and_https_are_answered(served: Homed) -> None:
    assert served.api.tls is None
    assert served.api.get("/api/v1/services").status == 200
    encrypted = Api(served.port, tls=unverified(), headers=served.api.headers, timeout=20)
    assert encrypted.get("/api/v1/services").status == 200
    own = {"Origin": f"https://127.0.0.1:{served.port}"}
    assert encrypted.post("/api/v1/auth/token", {}, headers=own).status == 201
    assert served.api.post("/api/v1/auth/token", {}, headers=own).code == "ORIGIN_NOT_ALLOWED"


def test_each_curl_of_the_boards_page_works_on_a_loopback_listener_with_tls(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "board.md").read_text(encoding="utf-8")
    lines = re.findall(r"`curl (localhost:8080\S*)`", page)
    root = re.findall(r"`curl --unix-socket /var/lib/homed/control.sock (\S+)`", page)
    assert len(lines) > 3 and len(root) == 1
    homed = Homed(**without_engine(tmp_path))  # type: ignore[arg-type]
    homed.tables["api.tls"] = {"enabled": True}
    homed.write_config()
    with homed:
        asked = [line.replace("localhost:8080", f"127.0.0.1:{homed.port}") for line in lines]
        certificate = homed.state / "tls" / "certificate.pem"
        socket_path = homed.state / "control.sock"
        for arguments in (
            *([one] for one in asked),
            *(["--cacert", certificate, f"https://{one}"] for one in asked),
            *(["--unix-socket", socket_path, one] for one in root),
        ):
            command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", *arguments]
            said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            assert said.returncode == 0, (arguments, said.stderr)
            assert said.stdout in ("200", "404", "503"), (arguments, said.stdout)  # no such service; no engine
        homed.stop()
    assert f"https://127.0.0.1:{homed.port}" in homed.log
    assert f"TLS certificate {certificate}: SHA-256 " in homed.log


class Small(Homed):
    """One that may open few files."""

    def _around(self) -> list[str | Path]:
        return ["prlimit", "--nofile=96:96"]


@pytest.mark.thorough
def test_when_no_more_files_can_be_opened_it_neither_ends_nor_spins(tmp_path: Path) -> None:
    homed = Small(**without_engine(tmp_path, connections=1000))  # type: ignore[arg-type]
    with homed:
        with holding(200, "127.0.0.1", homed.port):
            before, started = _cpu_seconds(homed.pid), time.monotonic()
            assert homed.api.get("/health").status == 200
            until("it to have noticed", lambda: "Cannot accept a connection" in homed.log)
            time.sleep(1)
            used, passed = _cpu_seconds(homed.pid) - before, time.monotonic() - started
            assert used < 0.5 * passed, "it spins"
            assert homed.log.count("Cannot accept a connection") == 1
        until("it to answer at once again", lambda: homed.api.get("/health").status == 200)
        homed.stop()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_when_all_connections_are_at_work_health_and_the_command_line_are_still_answered(tmp_path: Path) -> None:
    with Homed(**without_engine(tmp_path, connections=8)) as homed, ExitStack() as stack:  # type: ignore[arg-type]
        for _ in range(8):
            stack.enter_context(Follower(homed.api, "/ws/events"))
        for path in ("/health", "/health/live", "/health/ready"):
            assert homed.api.get(path).status in (200, 503), path
            assert homed.api.get(path).headers["connection"] == "close"
        full = homed.api.get("/api/v1/services")
        assert (full.status, full.code) == (503, "TOO_MANY_CONNECTIONS")
        assert full.headers["retry-after"] == "1"
        with holding(40, "127.0.0.1", homed.port):
            assert homed.api.get("/health").status in (200, 503)
        assert control(homed).get("/api/v1/services").status == 200
        told = control(homed).get("/metrics").body.decode()
        assert 'homed_http_connections_dropped_total{reason="full"}' in told
        stack.close()
        until("room for others", lambda: homed.api.get("/api/v1/services").status == 200)
        homed.stop()


def test_a_metrics_port_in_use_stops_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        metrics = taken.getsockname()[1]
        homed = Homed(**without_engine(tmp_path))  # type: ignore[arg-type]
        homed.tables["monitoring"]["metrics_port"] = metrics
        homed.write_config()
        with homed:
            health = homed.api.get("/health").json
            assert health["components"]["metrics"] == "degraded", "the owner asked for this port"
            assert str(metrics) in health["details"]["metrics"]
            reasons = homed.api.get("/health/ready").json["reasons"]
            assert not [one for one in reasons if one.startswith("metrics")], "it serves all the same"
            homed.stop()


# Within this process: with shorter times.


def test_a_client_whose_connections_are_all_at_work_is_told_so(tmp_path: Path) -> None:
    host = address_of_this_machine()
    homed = Homed(**without_engine(tmp_path, host="0.0.0.0", connections_per_client=2))  # type: ignore[arg-type]
    key, _ = homed.make_key("person", "read")
    with homed, ExitStack() as stack:
        lan = Api(homed.port, host=host, headers={"X-API-Key": key}, timeout=20)
        until("the key to hold", lambda: lan.get("/api/v1/services").status == 200)
        for _ in range(2):
            stack.enter_context(Follower(lan, "/ws/events"))
        refused = lan.get("/api/v1/services")
        assert (refused.status, refused.code) == (503, "TOO_MANY_CONNECTIONS")
        assert refused.headers["connection"] == "close" and refused.headers["retry-after"] == "1"
        assert homed.api.get("/health").status == 200, "others are served"
        stack.close()
        until("it to be served again", lambda: lan.get("/api/v1/services").status == 200)
        homed.stop()


@asynccontextmanager
async def serving(folder: Path, *, tls: bool, connections: int = 100) -> AsyncIterator[tuple[Listeners, int]]:
    made = Listeners(connections)

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"scheme": request.scheme, "length": len(await request.read())})

    async def long(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(folder / "long")

    def refusal(path: str, error: HomedError) -> web.Response:
        return web.json_response({"code": error.code}, status=error.status)

    application = web.Application()
    application[REFUSAL] = refusal
    application.router.add_route("*", "/", answer)
    application.router.add_get("/long", long)
    runner = listeners.runner_for(application)
    await runner.setup()
    port = free_port()
    context = certificates.context(Tls(enabled=tls), folder)
    config = Config(api=ApiConfig(port=port), monitoring=Monitoring(metrics_port=0))
    try:
        await made.start(runner, config, [], context)
        yield made, port
    finally:
        made.close()
        await runner.cleanup()


REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def gone(made: Listeners) -> None:
    async with asyncio.timeout(20):
        while len(made.pool):
            await asyncio.sleep(0.02)


async def test_a_connection_that_says_nothing_costs_no_tls(tmp_path: Path) -> None:
    async with serving(tmp_path, tls=True) as (made, port):
        pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        async with asyncio.timeout(20):
            while len(made.pool) < 20:
                await asyncio.sleep(0.02)
        for _, writer in pairs[:10]:
            writer.write(b"G")
        await asyncio.sleep(0.1)
        assert not [one for one in gc.get_objects() if isinstance(one, SSLProtocol)]
        for _, writer in pairs:
            writer.close()
        await gone(made)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_head_that_comes_too_slowly_is_ended_byte_by_byte_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    monkeypatch.setattr(acceptor, "HEAD_TIMEOUT", 0.5)
    async with serving(tmp_path, tls=tls) as (made, port):
        context = unverified() if tls else None
        silent, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        assert await asyncio.wait_for(silent.read(), 20) == b""
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        sent = 0
        with contextlib.suppress(ConnectionError, TimeoutError):
            for byte in REQUEST * 10:
                writer.write(bytes([byte]))
                sent += 1
                async with asyncio.timeout(0.05):
                    await reader.read(1)
                    break
        assert sent < 30, "each byte made it wait anew"
        writer.close()
        await gone(made)


async def test_a_slow_head_after_an_answer_is_ended_and_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "HEAD_TIMEOUT", 0.3)
    async with serving(tmp_path, tls=False) as (made, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        assert b"200" in await reader.readline()
        await reader.readuntil(b"}")
        await asyncio.sleep(0.6)
        writer.write(REQUEST)
        assert b"200" in await reader.readline(), "an idle connection has longer than a head"
        await reader.readuntil(b"}")
        writer.write(REQUEST[:-4])
        answer = await asyncio.wait_for(reader.read(), 20)
        assert answer.startswith(b"HTTP/1.1 408 ") and b"REQUEST_TIMEOUT" in answer
        writer.close()
        await gone(made)


async def test_a_handshake_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "HANDSHAKE_TIMEOUT", 1)
    async with serving(tmp_path, tls=True) as (made, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01\x02\x00\x01")
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()
        await gone(made)


async def test_an_idle_connection_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "KEEPALIVE_TIMEOUT", 0.5)
    async with serving(tmp_path, tls=False) as (made, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        answer = await asyncio.wait_for(reader.read(), 20)
        assert b"200" in answer and b"408" not in answer
        writer.close()
        await gone(made)


async def test_who_does_not_read_a_file_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "_SEND_TIMEOUT", 0.5)
    (tmp_path / "long").write_bytes(bytes(64_000_000))
    async with serving(tmp_path, tls=False) as (made, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" in await reader.readline()
        await gone(made)
        writer.close()


async def test_a_slow_body_is_the_handlers_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "HEAD_TIMEOUT", 0.2)
    async with serving(tmp_path, tls=False) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab")
        await asyncio.sleep(0.6)
        writer.write(b"cd")
        assert b"200" in await reader.readline()
        await reader.readuntil(b'"length": 4')
        writer.close()


async def test_requests_sent_at_once_are_answered_in_turn_over_tls_and_the_scheme_is_known(tmp_path: Path) -> None:
    async with serving(tmp_path, tls=True) as (made, port):
        for context, scheme in ((unverified(), "https"), (None, "http")):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(REQUEST * 3)
            for _ in range(3):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"Content-Length: ")[2].split()[0])
                assert json.loads(await reader.readexactly(length))["scheme"] == scheme
            writer.close()
        await gone(made)


async def test_noise_on_a_tls_port_is_no_error_of_homed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(tmp_path, tls=True) as (made, port):
        for noise in (b"\x16" + bytes(40), b"\x16\x03\x03\x00\x02\x02\x28", b"\x00\xff\r\n\r\n", b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(noise)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 20)
            writer.close()
        await gone(made)
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING and "self-signed" not in
            one.getMessage()] == []  # fmt: skip


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_storm_of_connections_is_survived_and_forgotten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tls: bool
) -> None:
    caplog.set_level(logging.INFO)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: caplog.handler.handle(
        logging.LogRecord("loop", logging.ERROR, __file__, 0, str(context), (), None)
    ))  # fmt: skip
    context = unverified() if tls else None
    answered = 0

    async def come(number: int, port: int) -> None:
        nonlocal answered
        kind = number % 5
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context if kind else None)
            writer.write(REQUEST[: number % len(REQUEST)] if kind == 1 else REQUEST)
            if kind == 2:
                writer.transport.abort()
                return
            if kind in (3, 4):
                async with asyncio.timeout(20):
                    answered += b" 200 " in await reader.readline()
            writer.close()

    async with serving(tmp_path, tls=tls, connections=8) as (made, port):
        for start in range(0, 400, 40):
            await asyncio.gather(*(come(number, port) for number in range(start, start + 40)))
        await gone(made)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(REQUEST)
        assert b" 200 " in await reader.readline()
        writer.close()
        assert answered > 0
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == []
