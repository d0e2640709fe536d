"""The way of every request, over a real socket."""

import asyncio
import gzip
import json
import logging
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homed.access.scopes import Scope
from homed.config import Api, Config, Limits, Log, LoggedRequests
from tests.support.front import INNER, Server, config, raw, serve


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serve(tmp_path) as made:
        yield made


@pytest.fixture
async def exposed(tmp_path: Path) -> AsyncIterator[Server]:
    """A listener that others reach: who calls has to say so."""
    async with serve(tmp_path, trusted=False) as made:
        yield made


async def code_of(answer: aiohttp.ClientResponse) -> str:
    """The error's code, its shape checked."""
    assert answer.content_type == "application/json"
    body = await answer.json()
    assert set(body) == {"error", "timestamp", "request_id"}
    assert set(body["error"]) == {"code", "message", "details"}
    assert body["error"]["message"]
    assert body["request_id"] == answer.headers["X-Request-ID"]
    return str(body["error"]["code"])


async def test_an_answer_is_json_with_the_usual_headers(server: Server) -> None:
    async with server.request("GET", "/things/a") as answer:
        assert answer.status == 200
        assert await answer.json() == {"name": "a", "caller": "local"}
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Server"] == "homed"


async def test_a_request_id_is_taken_over_or_made(server: Server) -> None:
    async with server.request("GET", "/things/a", headers={"X-Request-ID": "abc-1.2_3"}) as answer:
        assert answer.headers["X-Request-ID"] == "abc-1.2_3"
    made = set()
    for asked in ("", "x" * 65, "with space", 'quote"', "<script>"):
        async with server.request("GET", "/nothing", headers={"X-Request-ID": asked}) as answer:
            made.add(answer.headers["X-Request-ID"])
            assert (await answer.json())["request_id"] == answer.headers["X-Request-ID"] != asked
    assert len(made) == 5


async def test_a_query_is_decoded_and_a_wrong_one_named(server: Server) -> None:
    async with server.request("GET", "/things?limit=3&tag=a&tag=b&other=1") as answer:
        assert await answer.json() == [3, "a", "b"]
    for wrong in ("limit=0", "limit=x", "limit="):
        async with server.request("GET", f"/things?{wrong}") as answer:
            assert answer.status == 400
            (error,) = (await answer.json())["error"]["details"]["errors"]
            assert error["field"] == "limit"


async def test_a_body_is_decoded_and_every_wrong_field_named(server: Server) -> None:
    async with server.request("POST", "/things", json={"name": "a", "count": 2}) as answer:
        assert (answer.status, await answer.json()) == (201, {"name": "a", "count": 2})
    async with server.request("POST", "/things", json={"name": "", "count": "x", "colour": 1}) as answer:
        assert answer.status == 400
        assert await code_of(answer) == "VALIDATION_ERROR"
        errors = (await answer.json())["error"]["details"]["errors"]
        assert [error["field"] for error in errors] == ["name", "count", "colour"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1, 2", b"null", b'"text"', b"\xff\xfe", b"[" * 10_000, b'{"name":"\\ud800"}']
)
async def test_what_is_no_json_object_is_a_validation_error(server: Server, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    async with server.request("POST", "/things", data=body, headers=headers) as answer:
        assert answer.status == 400
        assert await code_of(answer) == "VALIDATION_ERROR"


async def test_another_media_type_is_refused(server: Server) -> None:
    """Those that a page may send across origins without being asked above all."""
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
    ):
        async with server.request("POST", "/things", data=b'{"name": "a"}', headers={"Content-Type": kind}) as answer:
            assert answer.status == 415
            assert await code_of(answer) == "UNSUPPORTED_MEDIA_TYPE"
    headers = {"Content-Type": "application/json; charset=utf-8"}
    async with server.request("POST", "/things", data=b'{"name": "a"}', headers=headers) as answer:
        assert answer.status == 201


async def _endless(size: int) -> AsyncIterator[bytes]:
    yield b'{"name": "'
    for _ in range(size // 1024):
        yield b"x" * 1024


async def test_a_body_past_the_limit_is_refused_with_or_without_its_length(server: Server) -> None:
    server.set_config(config(body_limit=2048))
    headers = {"Content-Type": "application/json"}
    async with server.request("POST", "/things", data=b"x" * 4096, headers=headers) as answer:
        assert answer.status == 413
        assert await code_of(answer) == "PAYLOAD_TOO_LARGE"
    async with server.request("POST", "/things", data=_endless(8192), headers=headers) as answer:
        assert answer.status == 413


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x-unknown", "gzip, gzip"])
@pytest.mark.parametrize("path", ["/things", "/nothing", "/things/a/slow"])
async def test_no_content_encoding_is_accepted_on_any_path(exposed: Server, encoding: str, path: str) -> None:
    """Refused before the caller is looked at, and before a byte of the body is read."""
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    async with exposed.request("POST", path, data=gzip.compress(b" " * 1_000_000), headers=headers) as answer:
        assert answer.status == 415
        assert await code_of(answer) == "ENCODING_NOT_SUPPORTED"


@pytest.mark.parametrize("path", ["/", "/nothing", "/things/a/b", "/openXtxt", "//things"])
async def test_an_unknown_path_is_not_found(server: Server, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
        async with server.request(method, path) as answer:
            assert answer.status == 404, method
            assert await code_of(answer) == "NOT_FOUND"


async def test_a_wrong_method_names_the_right_ones(server: Server) -> None:
    async with server.request("PUT", "/things/a") as answer:
        assert answer.status == 405
        assert await code_of(answer) == "METHOD_NOT_ALLOWED"
        assert {"DELETE", "GET"} <= {word.strip() for word in answer.headers["Allow"].split(",")}


async def test_head_is_get_without_a_body(server: Server) -> None:
    async with server.request("GET", "/things/a") as answer:
        length = answer.headers["Content-Length"]
    async with server.request("HEAD", "/things/a") as answer:
        assert (answer.status, await answer.read(), answer.headers["Content-Length"]) == (200, b"", length)


async def test_an_error_on_purpose_keeps_its_code_status_and_details(server: Server) -> None:
    async with server.request("POST", "/things/a/refuse") as answer:
        assert answer.status == 409
        assert await code_of(answer) == "THING_EXISTS"
        assert (await answer.json())["error"]["details"] == {"name": "a"}


async def test_an_error_of_ours_shows_its_request_id_and_nothing_of_its_inside(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with server.request("POST", "/things/a/break", headers={"X-Request-ID": "find-me"}) as answer:
        assert answer.status == 500
        assert await code_of(answer) == "INTERNAL_ERROR"
        text = await answer.text()
    assert INNER not in text and "RuntimeError" not in text and "Traceback" not in text
    assert "find-me" in text
    (record,) = [r for r in caplog.records if r.exc_info]
    assert record.__dict__["fields"]["request_id"] == "find-me"


async def test_a_foreign_host_is_misdirected(server: Server) -> None:
    for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "board.example.evil.example", "[evil]"):
        async with server.request("GET", "/open.txt", headers={"Host": host}) as answer:
            assert answer.status == 421, host
            assert await code_of(answer) == "HOST_NOT_ALLOWED"
    for host in ("board.example", "BOARD.example:80", "board", "board.local", "localhost:1", "[::1]:8080", "10.1.2.3"):
        async with server.request("GET", "/open.txt", headers={"Host": host}) as answer:
            assert answer.status == 200, host
    server.set_config(config(hosts=("edge-7.example",)))
    async with server.request("GET", "/open.txt", headers={"Host": "Edge-7.example"}) as answer:
        assert answer.status == 200


async def test_only_a_health_check_of_http_1_0_needs_no_host(server: Server) -> None:
    assert _status(await raw(server.port, b"GET /open.txt HTTP/1.0\r\n\r\n")) == 200
    for host in (b"", b"Host:\r\n"):
        answer = await raw(server.port, b"GET /open.txt HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n")
        assert _status(answer) in (400, 421)


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1", "https://127.0.0.1:{port}", "http://[", "file://", "x", ""],
)
async def test_a_page_from_elsewhere_changes_nothing(server: Server, origin: str) -> None:
    headers = {"Origin": origin.format(port=server.port)}
    async with server.request("POST", "/things", json={"name": "a"}, headers=headers) as answer:
        assert answer.status == 403
        assert await code_of(answer) == "ORIGIN_NOT_ALLOWED"
        assert "Access-Control-Allow-Origin" not in answer.headers
    async with server.request("GET", "/things/a", headers=headers) as answer:
        assert answer.status == 200 and "Access-Control-Allow-Origin" not in answer.headers


async def test_the_boards_own_pages_and_those_allowed_may_change(server: Server) -> None:
    async with server.request("POST", "/things", json={"name": "a"}, headers={"Origin": server.url}) as answer:
        assert answer.status == 201
    server.set_config(config(cors_origins=("https://ui.example",)))
    async with server.request(
        "POST", "/things", json={"name": "a"}, headers={"Origin": "https://ui.example"}
    ) as answer:
        assert answer.status == 201
        assert answer.headers["Access-Control-Allow-Origin"] == "https://ui.example"
        assert answer.headers["Vary"] == "Origin"


async def test_a_preflight_is_answered_for_allowed_origins_only(server: Server) -> None:
    server.set_config(config(cors_origins=("https://ui.example",)))
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    async with server.request("OPTIONS", "/things", headers={"Origin": "https://ui.example", **asked}) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == "https://ui.example"
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        assert "X-API-Key" in answer.headers["Access-Control-Allow-Headers"]
    async with server.request("OPTIONS", "/things", headers={"Origin": "https://evil.example", **asked}) as answer:
        assert "Access-Control-Allow-Methods" not in answer.headers
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_a_key_or_token_says_who_calls(exposed: Server) -> None:
    made = await exposed.keys.create("op", Scope.OPERATE)
    issued = exposed.tokens.issue(exposed.keys.identify(made.text) or pytest.fail("no key"), None, 60)
    for headers in (
        {"X-API-Key": made.text},
        {"Authorization": f"Bearer {made.text}"},
        {"Authorization": f"bearer {issued.text}"},
        {"X-API-Key": issued.text},
    ):
        async with exposed.request("GET", "/things/a", headers=headers) as answer:
            assert (await answer.json())["caller"] == "key:op", headers


async def test_without_a_key_only_what_is_open_is_served(exposed: Server) -> None:
    async with exposed.request("GET", "/open.txt") as answer:
        assert (answer.status, (await answer.json())["caller"]) == (200, "anonymous")
    async with exposed.request("GET", "/things/a") as answer:
        assert answer.status == 401
        assert await code_of(answer) == "UNAUTHORIZED"
        assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_trusted_listener_wants_a_key_where_the_configuration_says_so(server: Server) -> None:
    server.set_config(config(require_key=True))
    async with server.request("GET", "/things/a") as answer:
        assert answer.status == 401


async def test_the_command_lines_socket_needs_no_key_and_no_name_and_has_no_limit(tmp_path: Path) -> None:
    strict = config(Limits(services=1), require_key=True)
    async with serve(tmp_path, strict, control=True) as server:
        for _ in range(3):
            async with server.request("GET", "/things/a", headers={"Host": "any.name"}) as answer:
                assert (answer.status, (await answer.json())["caller"]) == (200, "local")
                assert "X-RateLimit-Limit" not in answer.headers


_FOREIGN = (
    {"X-API-Key": "your-secret-key"},
    {"X-API-Key": ""},
    {"X-API-Key": "\u00e9"},
    {"Authorization": "Basic dXNlcjpwYXNz"},
    {"Authorization": "Bearer a.b.c"},
    {"Authorization": f"Bearer {jwt.encode({'iss': 'another', 'sub': 'x'}, 'k' * 32)}"},
    {"Authorization": ""},
    {"Authorization": "nonsense"},
)


async def test_what_homed_never_issued_is_ignored_by_a_listener_that_needs_no_key(server: Server) -> None:
    for headers in _FOREIGN:
        async with server.request("GET", "/things/a", headers=headers) as answer:
            assert (answer.status, (await answer.json())["caller"]) == (200, "local"), headers


async def test_what_homed_never_issued_is_refused_by_a_listener_that_needs_a_key(exposed: Server) -> None:
    for headers in _FOREIGN:
        for path in ("/things/a", "/open.txt"):
            async with exposed.request("GET", path, headers=headers) as answer:
                assert answer.status == 401, headers


async def test_a_key_or_token_of_homeds_own_that_ended_is_refused_also_where_none_is_needed(server: Server) -> None:
    made = await server.keys.create("op", Scope.OPERATE)
    principal = server.keys.identify(made.text) or pytest.fail("no key")
    issued = server.tokens.issue(principal, None, 60).text
    old = server.tokens.issue(principal, None, -60).text
    async with server.request("GET", "/things/a", headers={"X-API-Key": made.text}) as answer:
        assert (await answer.json())["caller"] == "key:op"
    await server.keys.revoke(made.key.id)
    for text in (made.text, issued, old, "hk_00000000_" + "0" * 48, "hk_", f"{issued[:-3]}abc"):
        for headers in ({"X-API-Key": text}, {"Authorization": f"Bearer {text}"}):
            for path in ("/things/a", "/open.txt"):
                async with server.request("GET", path, headers=headers) as answer:
                    assert answer.status == 401, text


async def test_wrong_keys_of_one_local_program_do_not_lock_out_another_that_sends_a_foreign_one(server: Server) -> None:
    server.set_config(config(Limits(failures=2)))
    for i in range(5):
        async with server.request("GET", "/things/a", headers={"X-API-Key": f"hk_0000000{i}_x"}) as answer:
            assert answer.status == 401
    async with server.request("GET", "/things/a", headers={"X-API-Key": "your-secret-key"}) as answer:
        assert answer.status == 200


async def test_a_token_in_the_query_is_taken_by_sockets_alone(exposed: Server) -> None:
    made = await exposed.keys.create("op", Scope.OPERATE)
    token = exposed.tokens.issue(exposed.keys.identify(made.text) or pytest.fail("no key"), None, 60).text
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    for path in ("/things/a", "/things", "/nothing"):
        for headers in ({}, upgrade):
            async with exposed.request("GET", f"{path}?access_token={token}", headers=headers) as answer:
                assert answer.status == 401, path
    async with exposed.request("GET", f"/socket?access_token={token}", headers=upgrade) as answer:
        assert (answer.status, (await answer.json())["caller"]) == (200, "key:op")
    async with exposed.request("GET", f"/socket?access_token={token}") as answer:
        assert answer.status == 401


async def test_without_a_key_nobody_learns_which_paths_there_are(exposed: Server) -> None:
    for method, path in (("GET", "/nothing"), ("POST", "/nothing"), ("PATCH", "/things/a")):
        async with exposed.request(method, path) as answer:
            assert answer.status == 401, path
    async with exposed.request("POST", "/open.txt") as answer:
        assert answer.status == 405
    key = (await exposed.keys.create("r", Scope.READ)).text
    for path, status in (("/nothing", 404), ("/things/a", 405)):
        async with exposed.request("PATCH", path, headers={"X-API-Key": key}) as answer:
            assert answer.status == status
    asked = {"Origin": "https://panel.example", "Access-Control-Request-Method": "GET"}
    async with exposed.request("OPTIONS", "/things/a", headers=asked) as answer:
        assert answer.status == 204, "a browser asks without a key"


async def test_a_scope_allows_what_is_below_it_and_no_more(exposed: Server) -> None:
    expected = {Scope.READ: (200, 403, 403), Scope.OPERATE: (200, 201, 403), Scope.ADMIN: (200, 201, 409)}
    for scope, statuses in expected.items():
        headers = {"X-API-Key": (await exposed.keys.create("k", scope)).text}
        got = []
        for method, path, body in (
            ("GET", "/things/a", None),
            ("POST", "/things", {"name": "a"}),
            ("DELETE", "/things/a", None),
        ):
            async with exposed.request(method, path, json=body, headers=headers) as answer:
                got.append(answer.status)
        assert tuple(got) == statuses


async def test_a_limit_refuses_with_numbers_and_a_wait_and_ends(server: Server) -> None:
    server.set_config(config(Limits(services=3, health=60)))
    remaining = []
    for _ in range(3):
        async with server.request("GET", "/things/a") as answer:
            assert answer.headers["X-RateLimit-Limit"] == "3"
            remaining.append(answer.headers["X-RateLimit-Remaining"])
    assert remaining == ["2", "1", "0"]
    async with server.request("GET", "/things/a") as answer:
        assert answer.status == 429
        assert await code_of(answer) == "RATE_LIMIT_EXCEEDED"
        assert answer.headers["X-RateLimit-Remaining"] == "0"
        wait = int(answer.headers["Retry-After"])
        assert (await answer.json())["error"]["details"]["retry_after"] == wait
    async with server.request("GET", "/open.txt") as answer:
        assert answer.status == 200, "another class has its own limit"
    server.clock.now += wait
    async with server.request("GET", "/things/a") as answer:
        assert answer.status == 200


async def test_unknown_paths_are_limited_too(server: Server) -> None:
    server.set_config(config(Limits(system=2)))
    statuses = []
    for i in range(3):
        async with server.request("GET", f"/nothing/{i}") as answer:
            statuses.append(answer.status)
    assert statuses == [404, 404, 429]


async def test_guessing_keys_is_limited_by_address(exposed: Server) -> None:
    exposed.set_config(config(Limits(failures=3)))
    good = (await exposed.keys.create("op", Scope.OPERATE)).text
    statuses = []
    for i in range(5):
        async with exposed.request("GET", "/things/a", headers={"X-API-Key": f"hk_0000000{i}_x"}) as answer:
            statuses.append(answer.status)
    assert statuses == [401, 401, 401, 429, 429]
    async with exposed.request("GET", "/open.txt") as answer:
        assert answer.status == 200, "who sends no key guesses none"
    exposed.clock.now += 60
    async with exposed.request("GET", "/things/a", headers={"X-API-Key": good}) as answer:
        assert answer.status == 200


async def test_limits_follow_the_key_rather_than_the_address(exposed: Server) -> None:
    exposed.set_config(config(Limits(services=1)))
    for name in ("a", "b"):
        headers = {"X-API-Key": (await exposed.keys.create(name, Scope.READ)).text}
        async with exposed.request("GET", "/things/a", headers=headers) as answer:
            assert answer.status == 200


async def audited(server: Server, count: int) -> list[tuple[str, str, int, str]]:
    """What the audit log holds, oldest first, once it holds that many."""
    for _ in range(400):
        entries = list(await server.store.entries(100, None))
        if len(entries) >= count:
            break
        await asyncio.sleep(0.02)
    return [(e.action, e.target, e.status, e.code) for e in reversed(entries)]


async def test_changes_are_audited_with_who_what_and_outcome(exposed: Server) -> None:
    key = await exposed.keys.create("op", Scope.OPERATE)
    headers = {"X-API-Key": key.text, "X-Request-ID": "r1"}
    for method, path, body in (
        ("POST", "/things", {"name": "a"}),
        ("POST", "/things", {"name": 1}),
        ("POST", "/things/a/refuse", None),
        ("POST", "/things/a/break", None),
        ("DELETE", "/things/a", None),
        ("GET", "/things/a", None),
    ):
        async with exposed.request(method, path, json=body, headers=headers):
            pass
    assert await audited(exposed, 5) == [
        ("thing.create", "/things", 201, ""),
        ("thing.create", "/things", 400, "VALIDATION_ERROR"),
        ("thing.refuse", "/things/a/refuse", 409, "THING_EXISTS"),
        ("thing.break", "/things/a/break", 500, "INTERNAL_ERROR"),
        ("thing.delete", "/things/a", 403, "FORBIDDEN"),
    ]
    newest = (await exposed.store.entries(1, None))[0]
    assert (newest.actor, newest.origin, newest.request_id) == ("key:op", "127.0.0.1", "r1")


async def test_who_floods_without_a_key_does_not_fill_the_audit_log(exposed: Server) -> None:
    for _ in range(5):
        async with exposed.request("POST", "/things", json={"name": "a"}) as answer:
            assert answer.status == 401
    assert await audited(exposed, 0) == []


async def test_a_change_runs_to_its_end_and_is_audited_when_the_client_goes_away(server: Server) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /things/a/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    await asyncio.wait_for(server.started.wait(), 20)
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.1)
    assert server.done == []
    server.go_on.set()
    assert await audited(server, 1) == [("thing.slow", "/things/a/slow", 200, "")]
    assert server.done == ["a"]


async def test_an_audit_log_that_cannot_be_written_does_not_hide_the_answer(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    await server.store.close()
    async with server.request("POST", "/things", json={"name": "a"}) as answer:
        assert answer.status == 201
    async with server.request("POST", "/things/a/refuse") as answer:
        assert (answer.status, await code_of(answer)) == (409, "THING_EXISTS")
    assert "audit" in caplog.text


async def test_no_secret_reaches_the_log(exposed: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    made = await exposed.keys.create("op", Scope.OPERATE)
    token = exposed.tokens.issue(exposed.keys.identify(made.text) or pytest.fail("no key"), None, 60).text
    secret = made.text.rpartition("_")[2]
    for headers in (
        {"X-API-Key": made.text},
        {"Authorization": f"Bearer {token}"},
        {"X-API-Key": made.text[:-1] + "!"},
        {"Authorization": f"Bearer {token}x"},
    ):
        async with exposed.request("POST", "/things", json={"name": "hunter2"}, headers=headers):
            pass
        async with exposed.request("GET", f"/things/a?access_token={token}", headers=headers):
            pass
    logged = "\n".join(f"{r.getMessage()} {r.__dict__}" for r in caplog.records)
    assert "Request processed" in logged
    for text in (secret[:-1], token, "hunter2"):
        assert text not in logged


async def test_the_configuration_says_which_requests_are_logged(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for logged, expected in ((LoggedRequests.ALL, 2), (LoggedRequests.CHANGES, 1), (LoggedRequests.NONE, 0)):
        server.set_config(Config(api=Api(limits=Limits(enabled=False)), log=Log(requests=logged)))
        caplog.clear()
        async with server.request("GET", "/things/a"):
            pass
        async with server.request("POST", "/things", json={"name": "a"}):
            pass
        await asyncio.sleep(0.05)
        found = [r for r in caplog.records if r.name == "api.requests"]
        assert len(found) == expected, logged


async def test_slow_and_failed_reads_are_logged_by_default_with_a_sentence(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    async with server.request("GET", "/things/a"):
        pass
    monkeypatch.setattr("homed.api.front._SLOW_REQUEST", 0.0)
    async with server.request("GET", "/things/a"):
        pass
    await asyncio.sleep(0.05)
    (found,) = [r for r in caplog.records if r.name == "api.requests"]
    assert found.getMessage() == "Request processed"
    assert found.sentence.startswith("GET /things/a 200 ")  # type: ignore[attr-defined]


async def test_a_flood_of_refused_changes_is_not_logged(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(5):
        async with server.request("POST", "/things", data=b"x", headers={"Content-Encoding": "deflate"}) as answer:
            assert answer.status == 415
    await asyncio.sleep(0.05)
    assert not [r for r in caplog.records if r.name == "api.requests"]


async def test_requests_are_counted_by_route_and_not_by_path(server: Server) -> None:
    for path in ("/things/a", "/things/b", "/nothing/1", "/nothing/2"):
        async with server.request("GET", path):
            pass
    await asyncio.sleep(0.05)
    text = server.metrics.render().decode()
    assert 'route="/things/{name}",status="200"} 2.0' in text
    assert 'route="other",status="404"} 2.0' in text
    assert "nothing" not in text


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


_WILD = st.binary(max_size=40).filter(lambda b: not set(b) & set(b"\r\n\0"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=_WILD,
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                [b"Host", b"Origin", b"X-API-Key", b"Authorization", b"X-Request-ID", b"Content-Type",
                 b"Content-Encoding", b"Upgrade", b"Expect", b"Accept", b"Access-Control-Request-Method"]
            ),
            _WILD,
        ),
        max_size=4,
    ),
    method=st.sampled_from([b"GET", b"POST", b"DELETE", b"OPTIONS", b"HEAD", b"BREW"]),
)  # fmt: skip
async def test_no_bytes_make_it_fail(
    tmp_path_factory: pytest.TempPathFactory, path: bytes, headers: list[tuple[bytes, bytes]], method: bytes
) -> None:
    async with serve(tmp_path_factory.mktemp("wild")) as server:
        lines = [b"%s /%s HTTP/1.1" % (method, path), b"Connection: close", b"Content-Length: 2"]
        if not any(name == b"Host" for name, _ in headers):
            lines.append(b"Host: localhost")
        lines += [b"%s: %s" % header for header in headers]
        answer = await raw(server.port, b"\r\n".join(lines) + b"\r\n\r\n{}")
        assert _status(answer) < 500, answer


@pytest.mark.parametrize(
    "lines",
    [
        [b"GET /things/a HTTP/1.1", b"Host: \xff\xfe.example"],
        [b"GET /things/a HTTP/1.1", b"Host: localhost", b"X-API-Key: hk_aa_\xff\xfe"],
        [b"GET /things/a HTTP/1.1", b"Host: localhost", b"X-API-Key: hk_\xff", b"Authorization: Bearer \xff.\xfe.\xfd"],
        [b"POST /things/a/refuse HTTP/1.1", b"Host: localhost", b"Origin: http://\xff"],
        [b"POST /things/%ff%fe/refuse HTTP/1.1", b"Host: localhost"],
        [b"POST /things/%00/refuse HTTP/1.1", b"Host: localhost"],
        [b"GET /things?limit=%ff&tag=%ff HTTP/1.1", b"Host: localhost"],
        [b"GET /nothing/%ff HTTP/1.1", b"Host: localhost"],
        [b"GET /nothing/\xff HTTP/1.1", b"Host: localhost"],
    ],
)
async def test_bytes_that_are_no_text_are_the_clients_error(server: Server, lines: Iterable[bytes]) -> None:
    answer = await raw(server.port, b"\r\n".join([*lines, b"Connection: close", b"", b""]))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert 400 <= _status(head) < 500 or b'"\xef\xbf\xbd"' in body, answer
    shown: Any = json.loads(body) if b"application/json" in head else {}
    assert not isinstance(shown, dict) or "error" in shown or b"text/" in head


async def test_a_slash_at_the_end_of_a_path_changes_nothing(server: Server) -> None:
    async with server.request("GET", "/things/a/") as answer:
        assert (answer.status, (await answer.json())["name"]) == (200, "a")
    async with server.request("GET", "/things/?limit=3&tag=a") as answer:
        assert await answer.json() == [3, "a"]
    async with server.request("POST", "/things/", json={"name": "a", "count": 2.0}) as answer:
        assert (answer.status, await answer.json()) == (201, {"name": "a", "count": 2})
    async with server.request("PUT", "/things/") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, HEAD, POST, OPTIONS"
    for path in ("/things//", "//", "/nothing/", "/things/a/b/"):
        async with server.request("GET", path) as answer:
            assert (answer.status, await code_of(answer)) == (404, "NOT_FOUND")


async def test_a_byte_order_mark_before_json_is_passed_over(server: Server) -> None:
    headers = {"Content-Type": "application/json"}
    async with server.request("POST", "/things", data=b'\xef\xbb\xbf{"name": "a"}', headers=headers) as answer:
        assert answer.status == 201


@pytest.mark.parametrize(
    "kind",
    [";" * 8000, "application/json" + ";a=b" * 1500, "application/json; a=" + "(" * 8000, "=?utf-8?q?a?= " * 500],
)
async def test_a_media_type_of_any_kind_costs_little(server: Server, kind: str) -> None:
    async with server.request("POST", "/things", data=b'{"name": "a"}', headers={"Content-Type": kind}) as warm:
        await warm.read()
    before = time.thread_time()
    async with server.request("POST", "/things", data=b'{"name": "a"}', headers={"Content-Type": kind}) as answer:
        assert answer.status == (201 if kind.startswith("application/json") else 415)
    assert time.thread_time() - before < 0.1


async def test_bodies_share_a_budget_and_who_finds_no_room_is_told_when_to_come_again(server: Server) -> None:
    """Unfinished bodies of one client hold half of it at most; its others are refused before they are read."""
    server.set_config(config(body_limit=4 << 20, memory_budget=8 << 20))
    head = b"POST /things HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    writers = []
    for _ in range(4):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head % (1 << 20) + b'{"name": "')
        await writer.drain()
        writers.append(writer)
    await asyncio.sleep(0.2)
    answer = await raw(server.port, head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % (1 << 20))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"MEMORY_BUDGET" in answer
    assert b"Retry-After: 1\r\n" in answer
    async with server.request("POST", "/things", json={"name": "a"}) as small:
        assert small.status == 201
    for writer in writers:
        writer.close()
    await asyncio.sleep(0.2)
    async with server.request("POST", "/things", json={"name": "a" * (1 << 19)}) as long:
        assert long.status == 400
