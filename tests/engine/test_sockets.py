"""The WebSockets: what comes, who is refused, and clients that do not read."""

import asyncio
import base64
import json
import os
import signal
import socket
from contextlib import AsyncExitStack

import aiohttp
import pytest

from tests.engine.conftest import Start
from tests.engine.test_containers import seen
from tests.support.api import Api
from tests.support.engine import IMAGE, DockerEngine
from tests.support.homed import Homed
from tests.support.services import IDLE
from tests.support.sockets import Follower
from tests.support.wait import until

EVENTS = "/ws/events"


def open_sockets(api: Api) -> float:
    text = api.get("/metrics").body.decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith('homed_streams_open{kind="soc')))


def test_events_have_the_documented_form(api: Api, engine: DockerEngine) -> None:
    with Follower(api, EVENTS) as follower:
        made = engine.run(*IDLE, name="one")
        started = follower.await_event("container.start", name="one")
        assert set(started) == {"type", "data", "timestamp"}
        assert started["data"]["container_id"] == made.id
        assert started["timestamp"].endswith("Z")
        made.kill()
        assert follower.await_event("container.die", name="one")["data"]["exit_code"] == 137
        made.remove()
        follower.await_event("container.destroy", name="one")
        api.create("app", image=IMAGE, command=IDLE)
        assert follower.await_event("service.status", name="app", status="running")["data"]["reason"] in (
            "settling",
            None,
        )
        assert follower.await_event("container.start", name="app")["data"]["service"] == "app"
        api.put("/api/v1/config", {"orchestrator": {"monitoring": {"health_check_interval": 60}}})
        follower.await_event("config.updated")
    until("it to be let go", lambda: open_sockets(api) == 0)


def test_events_are_filtered_by_type(api: Api, engine: DockerEngine) -> None:
    with (
        Follower(api, f"{EVENTS}?type=container.*") as containers,
        Follower(api, f"{EVENTS}?type=container.die&type=service.*") as some,
        Follower(api, EVENTS) as every,
    ):
        api.create("app", image=IMAGE, command=IDLE)
        api.await_status("app", "running")
        engine.client.api.kill("app")
        every.await_event("container.die", name="app")
        some.await_event("container.die", name="app")
        containers.await_event("container.die", name="app")
        assert all(e["type"].startswith("container.") for e in containers.events)
        assert {e["type"].partition(".")[0] for e in some.events} == {"container", "service"}
        assert not some.of("container.start")
        assert every.of("service.status")
    for wrong in ("?type=", "?type=A", "?type=" + "a" * 65, "?" + "type=a&" * 40):
        assert api.get(EVENTS + wrong, headers=_upgrade()).status == 400, wrong


def _upgrade() -> dict[str, str]:
    key = base64.b64encode(os.urandom(16)).decode()
    return {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }  # fmt: skip


def test_a_log_comes_line_by_line_and_the_socket_ends_with_it(api: Api, engine: DockerEngine) -> None:
    made = engine.run("sh", "-c", r"echo one; printf '\377two\n'; while :; do sleep 0.1; done", name="talker")
    seen(api, engine, "talker")
    with Follower(api, "/ws/containers/talker/logs") as follower:
        until("its lines", lambda: len(follower.messages) == 2)
        assert follower.messages == ["one", "\ufffdtwo"]
        made.kill()
        until("its end", lambda: follower.code is not None)
        assert follower.code == 1000
    with Follower(api, "/ws/containers/talker/logs?tail=1&timestamps=true") as follower:
        until("its end", lambda: follower.code is not None)
        assert [m.partition(" ")[2] for m in follower.messages] == ["\ufffdtwo"]
    missing = api.get("/ws/containers/nothing/logs", headers=_upgrade())
    assert (missing.status, missing.code) == (404, "CONTAINER_NOT_FOUND")
    plain = api.get(EVENTS)
    assert (plain.status, plain.code) == (400, "WEBSOCKET_REQUIRED")


def test_too_many_sockets_are_told(engine: DockerEngine, start: Start) -> None:
    api = start(api={"sockets": 2}).api
    with Follower(api, EVENTS), Follower(api, EVENTS):
        refused = api.get(EVENTS, headers=_upgrade())
        assert (refused.status, refused.code) == (503, "TOO_BUSY")
        assert api.get("/health").status == 200
    until("them to be let go", lambda: open_sockets(api) == 0)
    with Follower(api, EVENTS):
        assert open_sockets(api) == 1


def test_pages_of_other_origins_may_not_listen(engine: DockerEngine, start: Start) -> None:
    api = start(api={"cors_origins": ["https://panel.example"]}).api
    for foreign in ("https://evil.example", "null", f"https://127.0.0.1:{api.port}"):
        refused = api.get(EVENTS, headers={**_upgrade(), "Origin": foreign})
        assert (refused.status, refused.code) == (403, "ORIGIN_NOT_ALLOWED")
    for fine in ("https://panel.example", f"http://127.0.0.1:{api.port}"):
        with Follower(Api(api.port, headers={"Origin": fine}), EVENTS) as follower:
            assert follower.code is None


def test_a_token_in_the_query_opens_a_socket_and_nothing_else(engine: DockerEngine, start: Start) -> None:
    homed = start(api={"require_key": True})
    key, _ = homed.make_key("person", "read")
    api = homed.api.with_key(key)
    until("the key to hold", lambda: api.get("/api/v1/services").status == 200, deadline=5)
    token = api.post("/api/v1/auth/token", {}).json["token"]
    assert homed.api.get(EVENTS, headers=_upgrade()).status == 401
    assert homed.api.get(f"/api/v1/services?access_token={token}").status == 401
    with Follower(homed.api, f"{EVENTS}?access_token={token}"):
        assert open_sockets(api) == 1
    assert token not in homed.log


def raw_socket(port: int, path: str) -> socket.socket:
    """A WebSocket of which nothing is read, with a small buffer."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect(("127.0.0.1", port))
    head = "".join(f"{name}: {value}\r\n" for name, value in _upgrade().items())
    made.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
    return made


def test_a_client_that_does_not_read_events_is_dropped_and_others_go_on(homed: Homed, engine: DockerEngine) -> None:
    api = homed.api
    # Each reload of a file that is this wrong is told by an event of 100 KB: the kernel's buffers are soon full.
    wrong = "".join(f"{letter * 2000}{i} = 1\n" for i in range(5) for letter in "abcdefghij")
    homed.config.write_text(f"{wrong}{homed.config.read_text()}")
    with raw_socket(homed.port, EVENTS) as slow, Follower(api, f"{EVENTS}?type=config.refused") as reader:
        until("both", lambda: open_sockets(api) == 2)

        def drop() -> bool:
            had = len(reader.messages)
            homed.send(signal.SIGHUP)
            until("the refusal", lambda: len(reader.messages) > had, every=0.002)
            return "homed_slow_clients_total 1.0" in api.get("/metrics").body.decode()

        until("the slow one to be dropped", drop, deadline=60, every=0)
        assert reader.code is None
        until("only the other to be left", lambda: open_sockets(api) == 1)
        data = b""
        slow.settimeout(10)
        try:
            while chunk := slow.recv(65_536):
                data += chunk
        except ConnectionError:
            pass
        assert data.startswith(b"HTTP/1.1 101")
    assert homed.memory() < 150 * 1024 * 1024


def test_a_client_that_does_not_read_a_log_holds_up_nothing(homed: Homed, engine: DockerEngine) -> None:
    engine.run("sh", "-c", "yes abcdefghijklmnopqrstuvwxyz", name="flood")
    seen(homed.api, engine, "flood")
    with raw_socket(homed.port, "/ws/containers/flood/logs"):
        until("it to be open", lambda: open_sockets(homed.api) == 1)
        with Follower(homed.api, "/ws/containers/flood/logs") as reader:
            until("lines", lambda: len(reader.messages) > 20_000)
        assert homed.api.get("/health").status == 200
        assert homed.memory() < 200 * 1024 * 1024
    engine.client.api.kill("flood")
    until("both to be let go", lambda: open_sockets(homed.api) == 0)


async def test_pings_are_answered_and_what_clients_say_is_passed_over(homed: Homed) -> None:
    url = f"{homed.api.url}{EVENTS}"
    async with aiohttp.ClientSession() as session, session.ws_connect(url, autoping=False) as opened:
        await opened.ping(b"are you there")
        async with asyncio.timeout(10):
            message = await opened.receive()
            while message.type is aiohttp.WSMsgType.TEXT:
                message = await opened.receive()
        assert (message.type, bytes(message.data)) == (aiohttp.WSMsgType.PONG, b"are you there")
        for _ in range(100):
            await opened.send_str("hello")
            await opened.send_bytes(b"\x00")
        await opened.send_str("x" * 100_000)
        async with asyncio.timeout(10):
            while not opened.closed:
                await opened.receive()
        assert opened.close_code == 1009
    assert homed.api.is_live()


async def test_a_hundred_clients_that_come_and_go_leave_nothing(engine: DockerEngine, start: Start) -> None:
    homed = start(api={"sockets": 200})
    homed.api.create("app", image=IMAGE, command=["sh", "-c", "exit 1"], restart_policy="always")
    before = homed.descriptors()
    for _ in range(2):
        async with aiohttp.ClientSession() as session, AsyncExitStack() as stack:
            for i in range(100):
                opened = await stack.enter_async_context(session.ws_connect(f"{homed.api.url}{EVENTS}"))
                if i % 2:
                    response = opened._response
                    if response.connection is not None and response.connection.transport is not None:
                        response.connection.transport.abort()
    until("them to be let go", lambda: open_sockets(homed.api) == 0)
    until("their descriptors", lambda: homed.descriptors() <= before + 4)
    assert homed.api.is_live()


def test_a_socket_ends_with_the_key_that_opened_it(engine: DockerEngine, start: Start) -> None:
    homed = start(api={"require_key": True})
    text, identity = homed.make_key("watcher", "read")
    with Follower(homed.api.with_key(text), "/ws/events") as follower:
        assert homed.command("key", "revoke", identity).returncode == 0
        until("the socket to be closed", lambda: follower.code is not None)
    assert follower.code == 1008


def test_a_stop_of_homed_tells_its_sockets(homed: Homed) -> None:
    with Follower(homed.api, EVENTS) as follower:
        assert homed.stop() == 0
        until("the farewell", lambda: follower.code is not None)
        assert follower.code == 1001


@pytest.mark.parametrize(
    "frame",
    [b"\x00" * 64, b"\xff" * 64, b"\x81\xff" + b"\xff" * 8 + b"x" * 64, b"\x88\x02\x03\xe8", b"\x09\x7f"],
    ids=["unmasked", "reserved", "endless", "bare close", "long ping"],
)
def test_frames_that_are_wrong_end_their_socket_only(homed: Homed, frame: bytes) -> None:
    with raw_socket(homed.port, EVENTS) as broken:
        until("it to be open", lambda: open_sockets(homed.api) == 1)
        broken.sendall(frame)
        broken.shutdown(socket.SHUT_WR)
        until("it to be let go", lambda: open_sockets(homed.api) == 0)
    assert homed.api.is_live()
    assert "Traceback" not in homed.log
    assert json.loads(homed.api.get("/health").body)["status"]
