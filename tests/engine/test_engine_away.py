"""Docker Engine that is not there, goes away, hangs, or is not one."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.engine.conftest import Start
from tests.support.api import Api
from tests.support.engine import IMAGE, DockerEngine
from tests.support.services import IDLE, confirmed, container_id, started
from tests.support.wait import stays, until


def says_away(api: Api) -> bool:
    health = api.get("/health").json
    return bool(health["components"]["docker"] == "unhealthy")


def test_without_an_engine_homed_serves_and_says_so(engine: DockerEngine, start: Start) -> None:
    engine.stop()
    api = start(ready=False).api
    health = api.get("/health")
    assert health.status == 200
    assert health.json["status"] == "unhealthy"
    assert health.json["components"]["docker"] == "unhealthy"
    assert "cannot be reached" in until("why", lambda: api.get("/health").json["details"].get("docker"))
    ready = api.get("/health/ready")
    assert (ready.status, ready.json["status"]) == (503, "not ready")
    assert any("docker" in reason for reason in ready.json["reasons"])
    assert api.get("/health/live").json == {"status": "alive"}
    for path in ("", "/abc", "/abc/logs", "/abc/stats"):
        answer = api.get(f"/api/v1/containers{path}")
        assert (answer.status, answer.code) == (503, "DOCKER_ERROR")
    assert "homed_docker_up 0.0" in api.get("/metrics").body.decode()
    assert api.get("/api/v1/services").json == {"services": []}


def test_what_is_asked_for_without_an_engine_is_done_when_it_comes(engine: DockerEngine, start: Start) -> None:
    engine.stop()
    api = start(ready=False).api
    api.create("app", image=IMAGE, command=IDLE)
    assert api.await_reason("app", "engine_unavailable")["wanted"] == "running"
    refused = api.act("app", "start")
    assert (refused.status, refused.code) == (503, "DOCKER_ERROR")
    api.create("gone", image=IMAGE, command=IDLE)
    refused = api.delete("/api/v1/services/gone")
    assert (refused.status, refused.code) == (503, "DOCKER_ERROR")
    engine.start()
    api.await_status("app", "running")
    until("it to be deleted", lambda: [s["name"] for s in api.get("/api/v1/services").json["services"]] == ["app"])
    assert engine.names() == {"app"}
    assert "homed_docker_up 1.0" in api.get("/metrics").body.decode()
    assert api.get("/health/ready").status == 200


def test_an_engine_that_is_killed_and_comes_back_is_taken_up(engine: DockerEngine, start: Start) -> None:
    api = start().api
    api.create("app", image=IMAGE, command=IDLE)
    confirmed(api, "app")
    identity, before = container_id(engine, "app"), started(engine, "app")
    engine.kill()
    until("homed to say so", lambda: says_away(api))
    assert api.service("app")["status"] == "unknown"
    assert api.get("/api/v1/containers").status == 503
    engine.start()
    # Without live-restore the engine ends its containers when it is back: homed starts them.
    confirmed(api, "app")
    assert engine.is_running("app")
    assert container_id(engine, "app") == identity
    assert started(engine, "app") >= before


def test_an_engine_that_is_restarted_in_its_own_time_has_its_containers_again(
    engine: DockerEngine, start: Start
) -> None:
    api = start().api
    for name in ("one", "two"):
        api.create(name, image=IMAGE, command=IDLE)
    confirmed(api, "one")
    confirmed(api, "two")
    api.act("two", "stop")
    engine.stop()
    until("homed to say so", lambda: says_away(api))
    engine.start()
    confirmed(api, "one")
    until("the one that was stopped to stay so", lambda: api.service("two")["status"] == "stopped")
    assert engine.is_running("one")
    assert not engine.is_running("two")


def test_an_engine_killed_again_and_again_does_not_break_homed(engine: DockerEngine, start: Start) -> None:
    homed = start()
    homed.api.create("app", image=IMAGE, command=IDLE)
    confirmed(homed.api, "app")
    before = homed.descriptors()
    for _ in range(3):
        engine.kill()
        until("homed to say so", lambda: says_away(homed.api))
        engine.start()
        homed.await_ready()
    confirmed(homed.api, "app")
    until("no descriptors to be left", lambda: homed.descriptors() <= before + 6)


def test_an_engine_that_hangs_does_not_hold_up_the_api(engine: DockerEngine, start: Start) -> None:
    api = start().api
    api.create("app", image=IMAGE, command=IDLE)
    confirmed(api, "app")
    identity = container_id(engine, "app")
    with engine.hung():
        slow = [threading.Thread(target=_ask, args=(api, f"/api/v1/containers/{identity}/stats")) for _ in range(30)]
        slow += [threading.Thread(target=_ask, args=(api, f"/api/v1/containers/{identity}")) for _ in range(30)]
        answers: list[tuple[int, str]] = []
        readers = [threading.Thread(target=_read_log, args=(api, identity, answers)) for _ in range(4)]
        for thread in (*slow, *readers):
            thread.start()
        for _ in range(20):
            for path in ("/health", "/health/live", "/api/v1/services", "/api/v1/containers", "/metrics"):
                # The deadline tells an answer from none; how fast it is, is for the benchmarks.
                assert api.get(path, timeout=5).status in (200, 503)
        api.create("late", image=IMAGE, command=IDLE)
        until("homed to say so", lambda: says_away(api), deadline=60)
        for thread in readers:
            thread.join(timeout=60)
        assert answers == [(503, "DOCKER_ERROR")] * 4, "each reader of a log is told while the engine hangs"
    for thread in slow:
        thread.join(timeout=90)
    until("homed to be back", lambda: api.get("/health/ready").status == 200, deadline=60)
    api.await_status("late", "running", deadline=60)
    assert container_id(engine, "app") == identity
    assert engine.is_running("app")


def test_homed_ends_in_its_time_while_the_engine_hangs(engine: DockerEngine, start: Start) -> None:
    homed = start()
    homed.api.create("app", image=IMAGE, command=IDLE)
    confirmed(homed.api, "app")
    with engine.hung():
        threading.Thread(target=_ask, args=(homed.api, "/api/v1/containers/app/stats"), daemon=True).start()
        stays("an answer", homed.api.is_live, 0.3)
        assert homed.stop() == 0


def _read_log(api: Api, container: str, answers: list[tuple[int, str]]) -> None:
    answer = api.get(f"/api/v1/containers/{container}/logs", timeout=55)
    answers.append((answer.status, answer.code))


def _ask(api: Api, path: str) -> None:
    with suppress(OSError):
        api.get(path, timeout=85)


# What is at the engine's address need not be an engine.

Talk = Callable[[socket.socket, bytes], None]


@contextmanager
def impostor(talk: Talk) -> Iterator[str]:
    """A Unix socket that answers each request's head by `talk`; its address."""
    with TemporaryDirectory(prefix="homed-") as folder:
        path = Path(folder) / "engine.sock"
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(str(path))
        server.listen(64)
        threading.Thread(target=_serve, args=(server, talk), daemon=True).start()
        try:
            yield f"unix://{path}"
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()


def _serve(server: socket.socket, talk: Talk) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=_talk, args=(client, talk), daemon=True).start()


def _talk(client: socket.socket, talk: Talk) -> None:
    with client, suppress(OSError):
        client.settimeout(20)
        head = b""
        while b"\r\n\r\n" not in head:
            data = client.recv(65_536)
            if not data:
                return
            head += data
        talk(client, head)


def _answer(body: bytes, *more: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", "Api-Version: 1.41", "Connection: close", *more]
    if not any(line.lower().startswith(("content-length", "transfer")) for line in more):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def garbage(client: socket.socket, head: bytes) -> None:
    client.sendall(b"\x00\xff\xfe!!! this is no HTTP\r\n" * 100)


def silence(client: socket.socket, head: bytes) -> None:
    client.recv(1)


def nothing(client: socket.socket, head: bytes) -> None:
    """The connection is closed at once."""


def half_an_answer(client: socket.socket, head: bytes) -> None:
    client.sendall(_answer(b'{"Version": "20', "Content-Length: 5000"))


def no_json(client: socket.socket, head: bytes) -> None:
    client.sendall(_answer(b"<html>teapot</html>"))


def other_json(client: socket.socket, head: bytes) -> None:
    client.sendall(_answer(b'["a", 1, null]'))


def null(client: socket.socket, head: bytes) -> None:
    client.sendall(_answer(b"null"))


def errors(client: socket.socket, head: bytes) -> None:
    client.sendall(_answer(b'{"message": "no"}', status="500 Internal Server Error"))


def not_found(client: socket.socket, head: bytes) -> None:
    client.sendall(_answer(b'{"message": "page not found"}', status="404 Not Found"))


def conflict(client: socket.socket, head: bytes) -> None:
    client.sendall(_answer(b'{"message": "busy"}', status="409 Conflict"))


def errors_without_words(client: socket.socket, head: bytes) -> None:
    client.sendall(_answer(b"\xff\xfe", status="418 Teapot"))


def endless_line(client: socket.socket, head: bytes) -> None:
    """A version and a list as an engine gives them, and events that are one line without an end."""
    if _plausible(client, head):
        return
    client.sendall(_answer(b"", "Transfer-Encoding: chunked"))
    for _ in range(64):
        client.sendall(b"100000\r\n" + b"x" * 0x100000 + b"\r\n")


def broken_events(client: socket.socket, head: bytes) -> None:
    if _plausible(client, head):
        return
    lines = (
        b'{"Action": "start", "Actor": null}\n', b"not json\n", b"[1]\n", b'"text"\n', b"null\n",
        b'{"Action": "die", "Actor": {"ID": "x", "Attributes": {"exitCode": "many"}}}\n', b"\xff\xfe\n",
        b'{"Action": 5, "Actor": {"ID": [], "Attributes": 7}}\n',
    )  # fmt: skip
    body = lines[_turn() % len(lines)]
    client.sendall(_answer(b"", "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n" % (len(body), body))
    client.recv(1)


def broken_containers(client: socket.socket, head: bytes) -> None:
    path = head.split(b" ")[1]
    if path.endswith(b"/version"):
        _plausible(client, head)
    elif b"/containers/json" in path:
        listed = [{"Id": "a" * 64, "State": "running"}, {"Id": "b" * 64, "State": "new-word"}, {"State": 5}]
        client.sendall(_answer(json.dumps(listed[: 2 + _turn() % 2]).encode()))
    elif b"/json" in path:
        inspected = {"Id": 5, "Name": None, "State": {"Status": "unheard of"}, "Config": {}, "Created": "yesterday"}
        client.sendall(_answer(json.dumps(inspected).encode()))
    elif path.startswith(b"/events"):
        client.sendall(_answer(b"", "Transfer-Encoding: chunked"))
        client.recv(1)
    else:
        client.sendall(_answer(b'{"message": "there is none"}', status="404 Not Found"))


_turns = iter(range(10**9))


def _turn() -> int:
    return next(_turns)


def _plausible(client: socket.socket, head: bytes) -> bool:
    path = head.split(b" ")[1]
    if path.endswith(b"/version"):
        client.sendall(
            _answer(json.dumps({"Version": "20.10", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}).encode())
        )
        return True
    if b"/containers/json" in path:
        client.sendall(_answer(b"[]"))
        return True
    if not path.startswith(b"/events"):
        client.sendall(_answer(b'{"message": "there is none"}', status="404 Not Found"))
        return True
    return False


@pytest.mark.parametrize(
    "talk",
    [garbage, silence, nothing, half_an_answer, no_json, other_json, null, errors, not_found, conflict,
     errors_without_words, endless_line, broken_events, broken_containers],
)  # fmt: skip
def test_a_hostile_engine_does_not_end_homed(start: Start, talk: Talk) -> None:
    with impostor(talk) as address:
        homed = start(engine=address, ready=False)
        homed.api.create("app", image=IMAGE, command=IDLE)
        stays("an answer", lambda: homed.runs and homed.api.is_live(), 1.0)
        assert homed.api.get("/health").status == 200
        assert homed.api.get("/api/v1/containers", timeout=30).status in (200, 503)
        assert homed.api.act("app", "start").status in (200, 202, 500, 503)
        assert homed.memory() < 150 * 1024 * 1024
        assert homed.runs
        assert "Traceback" not in homed.log
        assert '"critical"' not in homed.log
        homed.kill()


@pytest.mark.thorough
def test_a_start_is_starting_and_at_no_moment_unhealthy(engine: DockerEngine, start: Start) -> None:
    homed = start()
    homed.api.create("app", image=IMAGE, command=IDLE, stop_timeout=0)
    homed.api.await_status("app", "running")
    homed.stop()
    homed.launch()
    seen: list[tuple[str, int]] = []

    def look() -> bool:
        try:
            health, ready = homed.api.get("/health"), homed.api.get("/health/ready")
        except OSError:
            return False
        seen.append((health.json["status"], ready.status))
        assert health.json["components"]["services"] == "healthy", health.json
        return health.json["status"] == "healthy" and ready.status == 200

    until("homed to be ready", look, deadline=30, every=0.001)
    assert {status for status, _ in seen} <= {"starting", "healthy"}, seen
    assert homed.api.service("app")["status"] == "running"
