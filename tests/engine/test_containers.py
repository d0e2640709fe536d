"""What the engine has, over the API: lists, inspection, logs, usage."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import pytest

from tests.engine.conftest import Start
from tests.support.api import Api
from tests.support.engine import IMAGE, DockerEngine
from tests.support.homed import Homed
from tests.support.services import IDLE, WEB
from tests.support.wait import until


def seen(api: Api, engine: DockerEngine, *names: str) -> None:
    """Wait until homed knows of these containers."""
    until(
        "homed to see them",
        lambda: set(names) <= {c["name"] for c in api.get("/api/v1/containers").json["containers"]},
    )


def ended(engine: DockerEngine, api: Api, script: str, name: str = "talker", **more: Any) -> str:
    """A container that ran a script to its end; its id."""
    made = engine.run("sh", "-c", script, name=name, **more)
    made.wait()
    until("homed to see its end", lambda: _status(api, name) == "stopped")
    return str(made.id)


def _status(api: Api, name: str) -> str | None:
    found = api.get("/api/v1/containers").json["containers"]
    return next((c["status"] for c in found if c["name"] == name), None)


def logs(api: Api, name: str, query: str = "") -> list[str]:
    answer = api.get(f"/api/v1/containers/{name}/logs{query}")
    assert answer.status == 200, answer
    return list(answer.json["logs"])


# Lists and inspection


def test_lists_are_filtered(api: Api, engine: DockerEngine) -> None:
    api.create("service", image=IMAGE, command=WEB, ports=["18070:80"])
    engine.run(*IDLE, name="by-hand")
    engine.run("true", name="ended")
    engine.client.api.pause(engine.run(*IDLE, name="paused").id)
    api.await_status("service", "running")
    until("their states", lambda: (_status(api, "ended"), _status(api, "paused")) == ("stopped", "paused"))

    def names(query: str) -> list[str]:
        return [c["name"] for c in api.get(f"/api/v1/containers{query}").json["containers"]]

    assert names("") == ["by-hand", "ended", "paused", "service"]
    assert names("?managed=true") == ["service"]
    assert names("?managed=false") == ["by-hand", "ended", "paused"]
    assert names("?status=running") == ["by-hand", "service"]
    assert names("?status=stopped") == names("?status=exited") == ["ended"]
    assert names("?status=paused&managed=false") == ["paused"]
    assert names("?status=running&managed=true") == ["service"]
    for wrong in ("?managed=maybe", "?status=sleeping"):
        refused = api.get(f"/api/v1/containers{wrong}")
        assert (refused.status, refused.code) == (400, "VALIDATION_ERROR")
    service = next(c for c in api.get("/api/v1/containers").json["containers"] if c["name"] == "service")
    assert service["ports"] == [{"private_port": 80, "public_port": 18070, "type": "tcp"}]
    assert service["service"] == "service"
    assert service["created_at"].endswith("Z")


def test_a_container_is_found_by_id_its_beginning_and_name(api: Api, engine: DockerEngine) -> None:
    made = engine.run(*IDLE, name="one", environment={"A": "1"}, ports={"80/tcp": 18071})
    seen(api, engine, "one")
    for reference in (made.id, made.id[:12], "one"):
        shown = api.get(f"/api/v1/containers/{reference}").json
        assert shown["id"] == made.id
    assert shown["state"]["status"] == "running"
    assert shown["state"]["running"] is True
    assert shown["state"]["pid"] > 0
    assert shown["config"]["hostname"] == made.id[:12]
    assert "A=1" in shown["config"]["env"]
    assert shown["config"]["cmd"] == IDLE
    assert {"host_ip": "0.0.0.0", "host_port": "18071"} in shown["network_settings"]["ports"]["80/tcp"]
    for wrong in ("nothing", "ffffffffffff", "%2e%2e", "a/b", "%00"):
        missing = api.get(f"/api/v1/containers/{wrong}")
        assert missing.status == 404, wrong
    assert api.get("/api/v1/containers/nothing").code == "CONTAINER_NOT_FOUND"
    assert api.get("/api/v1/containers/nothing").json["error"]["details"] == {"container_id": "nothing"}


def test_what_goes_by_hand_is_gone_from_the_list(api: Api, engine: DockerEngine) -> None:
    made = engine.run(*IDLE, name="brief")
    seen(api, engine, "brief")
    made.rename("renamed")
    until("the new name", lambda: _status(api, "renamed") == "running")
    assert _status(api, "brief") is None
    made.remove(force=True)
    until("its end", lambda: _status(api, "renamed") is None)


def test_many_containers_are_listed(api: Api, engine: DockerEngine) -> None:
    for i in range(40):
        engine.client.containers.create(IMAGE, ["true"], name=f"many{i}")
    until("all of them", lambda: len(api.get("/api/v1/containers?status=created").json["containers"]) == 40)


# Logs


def test_a_log_is_read_from_its_end(api: Api, engine: DockerEngine) -> None:
    ended(engine, api, "for i in $(seq 1 250); do echo line $i; done")
    assert len(logs(api, "talker")) == 100
    assert logs(api, "talker", "?tail=2") == ["line 249", "line 250"]
    assert logs(api, "talker", "?tail=0") == []
    assert logs(api, "talker", "?tail=100000")[:2] == ["line 1", "line 2"]
    assert logs(api, "talker", "?tail=all") == [f"line {i}" for i in range(1, 251)]
    for wrong in ("-1", "x", "100001", "1.5", "ALL"):
        assert api.get(f"/api/v1/containers/talker/logs?tail={wrong}").status == 400, wrong
    assert api.get("/api/v1/containers/nothing/logs").code == "CONTAINER_NOT_FOUND"


def test_timestamps_and_since(api: Api, engine: DockerEngine) -> None:
    ended(engine, api, "echo first; sleep 1.2; echo second")
    stamped = logs(api, "talker", "?timestamps=true")
    assert [line.partition(" ")[2] for line in stamped] == ["first", "second"]
    second = stamped[1].partition(" ")[0]
    assert logs(api, "talker", f"?since={second}") == ["second"]
    assert logs(api, "talker", "?since=1h") == ["first", "second"]
    assert logs(api, "talker", "?since=0") == ["first", "second"]
    assert logs(api, "talker", "?since=2999-01-01T00:00:00Z") == []
    for wrong in ("yesterday", "-1", "10y", "999999999999999999999", "nan"):
        assert api.get(f"/api/v1/containers/talker/logs?since={wrong}").status == 400, wrong


def test_both_streams_and_a_terminals(api: Api, engine: DockerEngine) -> None:
    script = "echo out; echo err >&2; printf 'no end'"
    ended(engine, api, script, "plain")
    ended(engine, api, script, "terminal", tty=True)
    assert sorted(logs(api, "plain")) == ["err", "no end", "out"]
    assert logs(api, "terminal") == ["out", "err", "no end"]


def test_long_lines_and_bytes_that_are_no_text(api: Api, engine: DockerEngine) -> None:
    ended(engine, api, r"head -c 300000 /dev/zero | tr '\0' x; echo; printf 'caf\303\251 \377\376 end\n\001\002\n'")
    long, mixed, control = logs(api, "talker")
    assert long == "x" * 300_000
    assert logs(api, "talker", "?tail=3") == [long, mixed, control], "lines are counted, not the engine's pieces"
    with following(api, "talker", "&tail=3") as response:
        assert response.read().split(b"\n")[0] == long.encode()
    assert mixed == "café \ufffd\ufffd end"
    assert control == "\x01\x02"


def test_a_log_that_is_not_kept_is_a_conflict(api: Api, engine: DockerEngine) -> None:
    engine.run("sleep", "1000", name="silent", log_config={"type": "none"})
    until("the container", lambda: _status(api, "silent") == "running")
    for query in ("", "?follow=true", "?tail=all"):
        answer = api.get(f"/api/v1/containers/silent/logs{query}")
        assert (answer.status, answer.code) == (409, "LOG_NOT_KEPT"), query


@pytest.mark.thorough
def test_a_follower_of_a_log_that_is_rotated_too_fast_is_told(homed: Homed, engine: DockerEngine) -> None:
    script = "i=0; while :; do i=$((i+1)); echo $i-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"
    config = {"type": "json-file", "config": {"max-size": "50k", "max-file": "2"}}
    engine.run("sh", "-c", script, name="fast", log_config=config)
    until("the container", lambda: _status(homed.api, "fast") == "running")
    numbers: list[int] = []
    with following(homed.api, "fast", "&tail=1") as response:
        for line in response:
            if line.startswith(b"[homed] lines are missing"):
                break
            numbers.append(int(line.partition(b"-")[0]))
    assert numbers == sorted(set(numbers)), "none came twice"


def test_a_services_log_is_followed_over_its_containers(api: Api, engine: DockerEngine) -> None:
    api.create("app", image=IMAGE, command=["sh", "-c", "echo hello $WHO; sleep 1000"], environment={"WHO": "one"},
               stop_timeout=0)  # fmt: skip
    until("its line", lambda: api.get("/api/v1/services/app/logs").json["logs"] == ["hello one"])
    with followed(api, "/api/v1/services/app/logs?follow=true") as response:
        assert response.readline() == b"hello one\n"
        api.act("app", "restart")
        assert response.readline().startswith(b"[homed] the container of 'app' was started again: ")
        assert response.readline() == b"hello one\n"
        api.change("app", environment={"WHO": "two"})
        assert response.readline().startswith(b"[homed] the container of 'app' goes on in another one: ")
        assert response.readline() == b"hello two\n"
        assert api.delete("/api/v1/services/app").status in (200, 202)
        assert response.read() == b"", "with the service its log ends"
    assert api.get("/api/v1/services/app/logs").code == "SERVICE_NOT_FOUND"


def test_a_big_log_is_bounded_and_homed_stays_small(homed: Homed, engine: DockerEngine) -> None:
    ended(engine, homed.api, "yes abcdefghijklmnopqrstuvwxyz0123456789 | head -n 400000")
    found = logs(homed.api, "talker", "?tail=100000")
    assert 50_000 <= len(found) <= 100_000
    assert set(found) == {"abcdefghijklmnopqrstuvwxyz0123456789"}
    assert homed.memory() < 250 * 1024 * 1024


def following(api: Api, name: str, query: str = "") -> AbstractContextManager[http.client.HTTPResponse]:
    return followed(api, f"/api/v1/containers/{name}/logs?follow=true{query}")


@contextmanager
def followed(api: Api, path: str) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(api.host, api.port, timeout=30)
    connection.request("GET", path, headers={"Connection": "close"})
    raw = connection.sock
    response = connection.getresponse()
    try:
        yield response
    finally:
        # Not drained: a followed log has no end.
        with suppress(OSError):
            raw.shutdown(socket.SHUT_RDWR)
        response.close()
        connection.close()


def open_followers(api: Api) -> float:
    text = api.get("/metrics").body.decode()
    return float(
        next(line.split()[1] for line in text.splitlines() if line.startswith('homed_streams_open{kind="log"'))
    )


def test_a_log_is_followed_line_by_line_to_its_end(api: Api, engine: DockerEngine) -> None:
    made = engine.run("sh", "-c", "echo one; while read line; do echo got $line; done", name="echo", stdin_open=True)
    seen(api, engine, "echo")
    with following(api, "echo") as response:
        assert response.status == 200
        assert response.getheader("Content-Type") == "text/plain; charset=utf-8"
        assert response.readline() == b"one\n"
        assert open_followers(api) == 1
        made.kill()
        assert response.read() == b""
    until("it to be let go", lambda: open_followers(api) == 0)


def test_a_follower_gets_what_comes_after_it(api: Api, engine: DockerEngine) -> None:
    engine.run("sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done", name="ticker")
    seen(api, engine, "ticker")
    with following(api, "ticker", "&tail=1&timestamps=true") as response:
        lines = [response.readline().decode().split(" ", 1)[1] for _ in range(5)]
    numbers = [int(line.split()[1]) for line in lines]
    assert numbers == list(range(numbers[0], numbers[0] + 5))


@pytest.mark.parametrize("script", ["while :; do sleep 1; done", "while :; do echo on and on; done"])
def test_a_client_that_goes_away_frees_its_follower(homed: Homed, engine: DockerEngine, script: str) -> None:
    engine.run("sh", "-c", script, name="talker")
    seen(homed.api, engine, "talker")
    before = homed.descriptors()
    clients = []
    for _ in range(5):
        client = socket.create_connection(("127.0.0.1", homed.port))
        client.sendall(b"GET /api/v1/containers/talker/logs?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n")
        clients.append(client)
    until("all of them", lambda: open_followers(homed.api) == 5)
    for client in clients:
        client.close()
    until("them to be let go", lambda: open_followers(homed.api) == 0)
    until("their descriptors", lambda: homed.descriptors() <= before + 2)


def test_a_follower_that_does_not_read_costs_no_memory_and_no_other_follower(
    homed: Homed, engine: DockerEngine
) -> None:
    engine.run("sh", "-c", "while :; do head -c 100000 /dev/zero | tr '\\0' x; echo; done", name="flood")
    seen(homed.api, engine, "flood")
    with socket.create_connection(("127.0.0.1", homed.port)) as idle:
        idle.sendall(b"GET /api/v1/containers/flood/logs?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with following(homed.api, "flood") as response:
            for _ in range(200):
                assert response.readline()
        assert homed.api.get("/health").status == 200
    engine.client.api.kill("flood")
    assert homed.memory() < 200 * 1024 * 1024


def test_too_many_followers_are_told(engine: DockerEngine, start: Start) -> None:
    api = start(containers={"followers": 2}).api
    engine.run(*IDLE, name="quiet")
    seen(api, engine, "quiet")
    with following(api, "quiet"), following(api, "quiet"):
        until("both", lambda: open_followers(api) == 2)
        refused = api.get("/api/v1/containers/quiet/logs?follow=true")
        assert (refused.status, refused.code) == (503, "TOO_BUSY")
        assert api.get("/api/v1/containers/quiet/logs").status == 200


# Usage


def test_usage_of_a_busy_container_is_about_right(api: Api, engine: DockerEngine) -> None:
    engine.run("sh", "-c", "while :; do :; done", name="busy", nano_cpus=500_000_000, mem_limit=64 * 2**20)
    engine.run(*IDLE, name="idle")
    seen(api, engine, "busy", "idle")

    def used(name: str) -> Any:
        answer = api.get(f"/api/v1/containers/{name}/stats")
        assert answer.status == 200, answer
        return answer.json

    # Half a core is what it may have; the first figure may be of a moment.
    found = until("a second of it", lambda: (u := used("busy"))["cpu_seconds"] >= 0.9 and u)
    assert 25 <= found["cpu_percent"] <= 75
    assert used("idle")["cpu_percent"] < 15
    assert found["memory_usage"]["limit"] == 64 * 2**20
    assert 0 < found["memory_usage"]["usage"] < 64 * 2**20
    assert found["pids"] >= 1
    assert set(found["network_io"]) == {"rx_bytes", "tx_bytes"}
    assert set(found["block_io"]) == {"read_bytes", "write_bytes"}


def test_usage_of_what_does_not_run_is_a_conflict(api: Api, engine: DockerEngine) -> None:
    ended(engine, api, "true")
    refused = api.get("/api/v1/containers/talker/stats")
    assert (refused.status, refused.code) == (409, "CONTAINER_NOT_RUNNING")
    assert api.get("/api/v1/containers/nothing/stats").code == "CONTAINER_NOT_FOUND"
