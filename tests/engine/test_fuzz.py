"""Requests made by machines: valid ones, wrong ones, and what is no request at all. The daemon answers on."""

import asyncio
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import Start
from tests.support.engine import IMAGE, DockerEngine
from tests.support.homed import Homed
from tests.support.wait import until

_SEED = "20260101"
_CHECKS = (
    "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "use_after_free", "unsupported_method",
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(the_engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homed]:
    """One homed for all the requests that it is to refuse."""
    with Homed(tmp_path_factory.mktemp("shared"), the_engine.address) as homed:
        yield homed


@pytest.mark.timeout(240)
def test_every_answer_is_as_documented(engine: DockerEngine, start: Start, tmp_path: Path) -> None:
    homed = start()
    # It ends by itself: the log of one that runs has no end to be followed to.
    homed.api.create("app", image=IMAGE, command=["echo", "done"], restart_policy="no")
    homed.api.await_reason("app", "ended")
    before = engine.inspect("app")["Id"]
    ran = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{homed.api.url}/openapi.json", "--seed", _SEED,
            "--checks", ",".join(_CHECKS), "--max-time", "40", "--max-examples", "20", "--no-shrink", "--no-color",
            "--phases", "examples,coverage,fuzzing", "--request-timeout", "70", "--generation-database", "none",
            "--continue-on-failure", "--suppress-health-check", "all", "--workers", "1", "--warnings", "off",
        ],
        capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert homed.runs, homed.log[-3000:]
    assert ran.returncode == 0, ran.stdout[-12_000:] + ran.stderr[-2000:]
    assert "Traceback" not in homed.log
    assert '"level":"CRITICAL"' not in homed.log
    failed = [entry for entry in entries(homed) if entry.get("status_code") == 500]
    # What the engine cannot do (an image that is not there) is told by its own code.
    assert [entry for entry in failed if entry.get("error_code") != "DOCKER_ERROR"] == []
    for service in homed.api.get("/api/v1/services").json["services"]:
        homed.api.delete(f"/api/v1/services/{service['name']}")
    until("all to be gone", lambda: homed.api.get("/api/v1/services").json == {"services": []})
    assert before not in {c["Id"] for c in engine.client.api.containers(all=True)}
    assert engine.names() == set()


def entries(homed: Homed) -> list[dict[str, Any]]:
    return [json.loads(line) for line in homed.log.split("\n") if line.startswith("{")]


def speak(port: int, data: bytes, *, end: bool = True, seconds: float = 10) -> bytes:
    """Send bytes, and read until the daemon ends the connection or `seconds` are over."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as client:
        with suppress(OSError):  # ENOTCONN too, where it was ended before what follows
            client.sendall(data)
            if end:
                client.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionError, TimeoutError):
            while chunk := client.recv(65_536):
                answer += chunk
        return answer


HEAD = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /api/v1/services HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200, (400,)),
        (b"\x00" * 4096, (400,)),
        (b"GET\r\n\r\n", (400,)),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", (400, 505)),
        (b"GET  /  HTTP/1.1\r\n\r\n", (400,)),
        (HEAD + b"X-A: b\x00c\r\n\r\n", (400,)),
        (HEAD + b"X-A b\r\n\r\n", (400,)),
        (HEAD + b": b\r\n\r\n", (400,)),
        (HEAD + b"X-Long: " + b"a" * 1_000_000 + b"\r\n\r\n", (400, 431)),
        (HEAD + b"".join(b"X-%d: a\r\n" % i for i in range(20_000)) + b"\r\n", (400, 431)),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", (400, 414)),
        (b"GET /%ff%fe%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", (400, 404)),
        (b"GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n", (400, 421)),
        (
            b"GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            (200, 400, 404, 421),
        ),
        (HEAD + b"Host: evil.example\r\nConnection: close\r\n\r\n", (200, 400, 421)),
        (POST + b"Content-Length: -5\r\n\r\n{}", (400,)),
        (POST + b"Content-Length: 99999999999999999999\r\n\r\n{}", (400, 413)),
        (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (400,)),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", (400,)),
        (POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n", (400,)),
        (POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", (400,)),
        (POST + b"Connection: close\r\n\r\n", (400,)),
    ],
    ids=range(22),
)
def test_malformed_requests_are_refused(shared: Homed, data: bytes, statuses: tuple[int, ...]) -> None:
    answer = speak(shared.port, data)
    if answer:
        assert answer.startswith(b"HTTP/1."), answer[:100]
        assert int(answer.split()[1]) in statuses, answer[:300]
    assert shared.api.is_live()
    assert "Traceback" not in shared.log
    assert shared.api.get("/api/v1/services").json == {"services": []}


def deep(depth: int) -> bytes:
    return b'{"name": "app", "image": "x", "environment": ' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    "body",
    [
        deep(100), deep(100_000), b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"[" * 500_000, b"", b"null", b"[]",
        b'"text"', b"5", b"{", b"\xff\xfe\x00", b'{"name": "\xff\xfe", "image": "x"}',
        b'{"name": "\\ud800", "image": "x"}',
        b'{"name": "a\\u0000b", "image": "x"}', b'{"name": "app", "image": "x", "cpus": 1e999}',
        b'{"name": "app", "image": "x", "memory": ' + b"9" * 5000 + b"}",
        b'{"name": "app", "image": "x", "stop_timeout": 1e400}', b'{"name": "app", "image": "x", "cpus": NaN}',
        b'{"name": "app", "image": "x", "labels": {"": ""}}', b'{"name": "app", "image": "x", "command": "\'unclosed"}',
        b'{"name": "app", "name": "other", "image": 5}', b'{"' + b"k" * 900_000 + b'": 1}',
        b'{"name": "app", "image": "x", "ports": ' + b'["80",' * 1 + b'"x",' * 60_000 + b'"80"]}',
    ],
    ids=range(23),
)  # fmt: skip
def test_bodies_that_cannot_be_meant_are_refused_by_name(shared: Homed, body: bytes) -> None:
    answer = shared.api.post("/api/v1/services", data=body, headers={"Content-Type": "application/json"})
    assert (answer.status, answer.code) == (400, "VALIDATION_ERROR")
    assert len(answer.body) < 200_000
    assert shared.api.is_live()
    assert "Traceback" not in shared.log
    config = shared.api.put("/api/v1/config", data=body, headers={"Content-Type": "application/json"})
    assert config.status == 400
    assert shared.api.is_live()


def test_a_body_over_the_bound_is_refused(homed: Homed) -> None:
    big = b'{"name": "' + b"a" * 2_000_000 + b'"}'
    with suppress(ConnectionError):
        answer = homed.api.post("/api/v1/services", data=big, headers={"Content-Type": "application/json"})
        assert (answer.status, answer.code) == (413, "PAYLOAD_TOO_LARGE")
    chunks = b"".join(b"10000\r\n" + b"a" * 0x10000 + b"\r\n" for _ in range(40))
    answered = speak(homed.port, POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks, end=False, seconds=5)
    assert not answered or int(answered.split()[1]) == 413
    assert homed.api.is_live()
    assert homed.memory() < 120 * 1024 * 1024


def test_bodies_that_come_slowly_hold_up_nobody(homed: Homed) -> None:
    slow = []
    for _ in range(50):
        client = socket.create_connection(("127.0.0.1", homed.port))
        client.sendall(POST + b"Content-Length: 1000\r\n\r\n{")
        slow.append(client)
    for _ in range(20):
        assert homed.api.get("/health", timeout=5).status == 200
    for client in slow:
        client.sendall(b" ")
        client.close()
    assert homed.api.get("/api/v1/services").json == {"services": []}


async def test_two_thousand_connections_at_once(homed: Homed) -> None:
    """More than it takes: those past the bound are told 503 or ended, and it goes on when they are gone."""
    before = homed.descriptors()

    async def connect() -> int:
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", homed.port), 30)
        except OSError:
            return 0
        try:
            writer.write(HEAD + b"\r\n")
            await writer.drain()
            line = await asyncio.wait_for(reader.readline(), 30)
            await asyncio.sleep(1)
            return int(line.split()[1]) if line else 0
        except ConnectionError:
            return 0
        finally:
            writer.close()

    statuses = await asyncio.gather(*(connect() for _ in range(2000)))
    assert set(statuses) <= {0, 200, 503}
    assert statuses.count(200) >= 200
    until("it to answer", homed.api.is_live)
    until("their descriptors", lambda: homed.descriptors() <= before + 5)
    assert homed.memory() < 150 * 1024 * 1024
    assert "Traceback" not in homed.log


def test_requests_at_random_never_end_it(homed: Homed) -> None:
    chance = random.Random(7)
    good = POST + b"Content-Length: 32\r\n\r\n" + b'{"name": "app", "image": "nope"}'
    end = time.monotonic() + 5
    while time.monotonic() < end:
        data = bytearray(good * chance.randint(1, 3))
        for _ in range(chance.randint(1, 12)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        speak(homed.port, bytes(data[: chance.randint(1, len(data))]), seconds=3)
    assert homed.api.is_live()
    told = [entry for entry in entries(homed) if entry["level"] not in ("DEBUG", "INFO")]
    assert [entry for entry in told if "exception" in entry] == []
    assert json.loads(homed.api.get("/api/v1/services").body)["services"] is not None
