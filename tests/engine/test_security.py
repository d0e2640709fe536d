"""Who may do what, by which listener, and what is never told to anybody."""

import os
import re
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.conftest import Start
from tests.support.api import Answer, Api
from tests.support.engine import IMAGE, DockerEngine
from tests.support.homed import Homed
from tests.support.services import IDLE
from tests.support.wait import until

_METHODS = ("get", "put", "post", "delete", "patch")


@pytest.fixture
def keyed(engine: DockerEngine, start: Start) -> Homed:
    """A homed that asks everybody for a key."""
    return start(api={"require_key": True})


def operations(api: Api) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every method and path that is documented, with a plausible name in the path."""
    document = api.get("/openapi.json").json
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                filled = re.sub(r"\{[^}]*\}", "nothing", path)
                yield method.upper(), filled, methods[method]


def holder(homed: Homed, name: str, scope: str) -> tuple[Api, str, str]:
    """A client with a new key of its own, once the daemon has seen it; the key's text and id."""
    text, identity = homed.make_key(name, scope)
    api = homed.api.with_key(text)
    until("the key to hold", lambda: api.get("/api/v1/services").status == 200, deadline=5)
    return api, text, identity


def code_of(path: str, code: str) -> str:
    """The executor's errors have a sentence and a status, and no code."""
    return code if path.startswith(("/api/v1/", "/health", "/metrics")) else ""


# Keys


def test_without_a_key_only_what_is_open_to_all_answers(keyed: Homed) -> None:
    seen = 0
    for method, path, operation in operations(keyed.api):
        answer = keyed.api.call(method, path, {} if method in ("PUT", "POST") else None)
        if "security" in operation:
            assert (answer.status, answer.code) == (401, code_of(path, "UNAUTHORIZED")), (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
            seen += 1
        else:
            assert answer.status in (200, 503), (method, path)
    assert seen > 15
    health = keyed.api.get("/health").json
    assert health["details"] == {}


def test_a_read_key_reads_and_changes_nothing(keyed: Homed) -> None:
    api, _, _ = holder(keyed, "reader", "read")
    refused = allowed = 0
    for method, path, operation in operations(api):
        answer = api.call(method, path, {} if method in ("PUT", "POST") else None)
        if "`operate`" in operation["description"] or "`admin`" in operation["description"]:
            assert (answer.status, answer.code) == (403, code_of(path, "FORBIDDEN")), (method, path)
            assert "yours is 'read'" in answer.body.decode()
            refused += 1
        else:
            assert answer.status not in (401, 403), (method, path)
            allowed += 1
        if method != "GET" and path != "/api/v1/auth/token":
            assert answer.status == 403, (method, path)
    assert refused >= 10
    assert allowed >= 10


def test_an_operate_key_changes_services_and_no_more(keyed: Homed) -> None:
    api, _, _ = holder(keyed, "operator", "operate")
    api.create("app", image=IMAGE, command=IDLE)
    assert api.act("app", "stop").status in (200, 202)
    for method, path, operation in operations(api):
        answer = api.call(method, path, {} if method in ("PUT", "POST") else None)
        assert (answer.status == 403) == ("`admin`" in operation["description"]), (method, path)


@pytest.mark.parametrize("form", ["x-api-key", "bearer"])
def test_a_key_made_while_the_daemon_runs_holds_within_a_second_and_ends_likewise(keyed: Homed, form: str) -> None:
    text, identity = keyed.make_key("person", "admin")
    headers = {"X-API-Key": text} if form == "x-api-key" else {"Authorization": f"Bearer {text}"}

    def ask() -> int:
        return keyed.api.get("/api/v1/services", headers=headers).status

    until("the key to hold", lambda: ask() == 200, deadline=5)
    assert identity in keyed.command("key", "list").stdout
    revoked = keyed.command("key", "revoke", identity)
    assert revoked.returncode == 0
    until("the key to be refused", lambda: ask() == 401, deadline=5)
    assert keyed.command("key", "revoke", identity).returncode == 1


def test_keys_over_the_api(keyed: Homed) -> None:
    api, _, _ = holder(keyed, "first", "admin")
    made = api.post("/api/v1/keys", {"name": "second", "scope": "read", "expires_at": "2999-01-01T00:00:00Z"})
    assert made.status == 201
    second = api.with_key(made.json["key"])
    assert second.get("/api/v1/services").status == 200
    listed = api.get("/api/v1/keys").json["keys"]
    assert {key["name"] for key in listed} == {"first", "second"}
    assert all(set(key) == {"id", "name", "scope", "created_at", "expires_at"} for key in listed)
    assert api.delete(f"/api/v1/keys/{made.json['id']}").json["status"] == "revoked"
    assert second.get("/api/v1/services").status == 401
    gone = api.delete(f"/api/v1/keys/{made.json['id']}")
    assert (gone.status, gone.code) == (404, "KEY_NOT_FOUND")
    for wrong in ("2001-01-01T00:00:00Z", "2999-01-01T00:00:00", "soon"):
        assert api.post("/api/v1/keys", {"name": "late", "scope": "read", "expires_at": wrong}).status == 400


def test_keys_are_kept_as_hashes(keyed: Homed) -> None:
    text, _ = keyed.make_key("person", "admin")
    secret = text.split("_")[2].encode()
    keyed.stop()
    for path in keyed.state.rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes(), path


def test_a_wrong_key_is_refused_by_every_listener_and_a_foreign_one_where_keys_are_needed(
    engine: DockerEngine, start: Start
) -> None:
    homed = start()
    foreign = ({"X-API-Key": "a.b.c"}, {"X-API-Key": ""}, {"X-API-Key": "x" * 4000}, {"Authorization": "Basic eDp5"})
    for headers in foreign:
        assert homed.api.get("/api/v1/services", headers=headers).status == 200, headers
    wrong = ("hk_00000000_0", "hk_", "hk_\u00e9_1")
    for text in wrong:
        answer = homed.api.get("/api/v1/services", headers={"X-API-Key": text})
        assert (answer.status, answer.code) == (401, "UNAUTHORIZED"), text
    homed.tables["api"]["require_key"] = True
    homed.write_config()
    homed.restart()
    for headers in (*foreign, *({"X-API-Key": text} for text in wrong)):
        assert homed.api.get("/api/v1/services", headers=headers).status == 401, headers


def test_guessing_keys_is_limited_and_others_are_not(engine: DockerEngine, start: Start) -> None:
    homed = start(api={"require_key": True}, api__limits={"enabled": True, "failures": 5, "health": 1000})
    good, _ = homed.make_key("person", "read")
    answers = [homed.api.get("/api/v1/services", headers={"X-API-Key": f"hk_00000000_{i}"}).status for i in range(8)]
    assert answers[:5] == [401] * 5
    assert answers[5:] == [429] * 3
    assert homed.api.get("/health").status == 200
    assert homed.api.get("/api/v1/services", headers={"X-API-Key": good}).status == 429


# Tokens


def test_a_token_holds_what_it_says_and_ends_with_its_key(keyed: Homed) -> None:
    api, _, identity = holder(keyed, "person", "operate")
    issued = api.post("/api/v1/auth/token", {"scope": "read", "lifetime": 60})
    assert issued.status == 201
    assert (issued.json["token_type"], issued.json["expires_in"], issued.json["scope"]) == ("Bearer", 60, "read")
    bearer = {"Authorization": f"Bearer {issued.json['token']}"}
    assert keyed.api.get("/api/v1/services", headers=bearer).status == 200
    assert keyed.api.post("/api/v1/services", {"name": "no", "image": IMAGE}, headers=bearer).status == 403
    assert keyed.api.post("/api/v1/auth/token", {}, headers=bearer).status == 403
    assert api.post("/api/v1/auth/token", {"scope": "admin"}).status == 403
    head, payload, signature = issued.json["token"].split(".")
    for forged in (f"{head}.{payload}.{signature[::-1]}", f"eyJhbGciOiJub25lIn0.{payload}.", "a.b.c"):
        assert keyed.api.get("/api/v1/services", headers={"Authorization": f"Bearer {forged}"}).status == 401
    keyed.command("key", "revoke", identity)
    until(
        "the token to be refused",
        lambda: keyed.api.get("/api/v1/services", headers=bearer).status == 401,
        deadline=5,
    )


def test_a_token_needs_a_key(engine: DockerEngine, start: Start) -> None:
    refused = start().api.post("/api/v1/auth/token", {})
    assert (refused.status, refused.code) == (403, "FORBIDDEN")


# Listeners


def test_it_refuses_to_be_reached_from_elsewhere_without_a_key_and_says_how_to_make_one(
    engine: DockerEngine, start: Start
) -> None:
    homed = start(launch=False, api={"host": "0.0.0.0"})
    homed.launch()
    assert homed.wait() == 78
    assert "homed key create" in homed.log
    text, _ = homed.make_key("person", "admin")
    homed.start()
    assert homed.api.get("/api/v1/services").status == 401
    assert homed.api.with_key(text).get("/api/v1/services").status == 200


def test_a_change_that_would_open_it_without_a_key_is_refused(engine: DockerEngine, start: Start) -> None:
    homed = start()
    refused = homed.api.put("/api/v1/config", {"orchestrator": {"api": {"host": "0.0.0.0"}}})
    assert (refused.status, refused.code) == (400, "KEY_REQUIRED")
    assert homed.api.get("/api/v1/config").json["orchestrator"]["api"]["host"] == "127.0.0.1"
    assert not (homed.state / "config.json").exists()
    homed.restart()


def test_power_over_the_board_is_the_files_alone(engine: DockerEngine, start: Start) -> None:
    api = start().api
    for change in ({"allow_privileged": True}, {"engine": "tcp://198.18.0.1:2375"}, {"allow_docker_socket": True}):
        refused = api.put("/api/v1/config", {"orchestrator": {"containers": change}})
        assert (refused.status, refused.code) == (400, "CONFIG_ERROR"), change


def test_a_loopback_listener_beside_a_public_one_needs_no_key(engine: DockerEngine, start: Start) -> None:
    homed = start(launch=False, api={"host": "0.0.0.0"})
    homed.tables["api"]["listen"] = [f"unix:{homed.folder}/api.sock"]
    homed.write_config()
    homed.make_key("person", "admin")
    homed.start()
    local = Api(unix=f"{homed.folder}/api.sock")
    assert local.get("/api/v1/services").status == 200
    assert homed.api.get("/api/v1/services").status == 401
    assert os.stat(f"{homed.folder}/api.sock").st_mode & 0o007 == 0


def test_tls_with_a_certificate_of_its_own(engine: DockerEngine, start: Start) -> None:
    homed = start(launch=False, api__tls={"enabled": True})
    unchecked = ssl.create_default_context()
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    homed.api = Api(homed.port, tls=unchecked)
    homed.start()
    certificate = homed.state / "tls" / "certificate.pem"
    trusting = Api(homed.port, tls=ssl.create_default_context(cafile=str(certificate)))
    assert trusting.get("/health").status == 200
    assert (homed.state / "tls" / "key.pem").stat().st_mode & 0o077 == 0
    with pytest.raises(OSError, match="certificate"):
        Api(homed.port, tls=ssl.create_default_context()).get("/health")
    assert Api(homed.port).get("/health", timeout=5).status == 200, "on the board itself both are spoken"
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert Api(homed.port, tls=old).get("/health").status == 200
    before = certificate.read_bytes()
    homed.restart()
    assert certificate.read_bytes() == before
    with socket.create_connection(("127.0.0.1", homed.port)) as silent:
        assert homed.api.get("/health").status == 200
        silent.sendall(b"\x16\x03\x01")
        assert homed.api.get("/health").status == 200


# Pages of others


def test_a_host_that_is_not_this_boards_is_turned_away(engine: DockerEngine, start: Start) -> None:
    api = start(api={"hosts": ["board.example"]}).api
    name = socket.gethostname().lower()
    for good in (
        "127.0.0.1",
        f"127.0.0.1:{api.port}",
        "localhost",
        "[::1]:8080",
        name,
        "board.example",
        "BOARD.EXAMPLE",
    ):
        assert api.get("/health", headers={"Host": good}).status == 200, good
    for wrong in ("evil.example", "board.example.evil.example", "localhost.evil.example", "", "[", "a b"):
        answer = api.get("/health", headers={"Host": wrong})
        assert answer.status in (400, 421), wrong
        if answer.status == 421:
            assert answer.code == "HOST_NOT_ALLOWED"


def test_pages_of_other_origins_change_nothing_unless_they_are_listed(engine: DockerEngine, start: Start) -> None:
    api = start(api={"cors_origins": ["https://panel.example"]}).api
    wish = {"name": "app", "image": IMAGE, "command": IDLE}
    for foreign in ("https://evil.example", "null", f"https://127.0.0.1:{api.port}", "http://127.0.0.1:1"):
        answer = api.post("/api/v1/services", wish, headers={"Origin": foreign})
        assert (answer.status, answer.code) == (403, "ORIGIN_NOT_ALLOWED"), foreign
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-origin" not in api.get("/api/v1/services", headers={"Origin": foreign}).headers
    own = api.post("/api/v1/services", wish, headers={"Origin": f"http://127.0.0.1:{api.port}"})
    assert own.status == 201
    listed = api.get("/api/v1/services", headers={"Origin": "https://panel.example"})
    assert listed.headers["access-control-allow-origin"] == "https://panel.example"
    assert listed.headers["vary"] == "Origin"
    asked = {"Origin": "https://panel.example", "Access-Control-Request-Method": "PUT"}
    preflight = api.call("OPTIONS", "/api/v1/services/app", headers=asked)
    assert preflight.status == 204
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    refused = api.call("OPTIONS", "/api/v1/services/app", headers={**asked, "Origin": "https://evil.example"})
    assert "access-control-allow-methods" not in refused.headers


def test_a_page_cannot_send_a_change_without_being_asked(engine: DockerEngine, start: Start) -> None:
    """The types that a browser sends across origins without a preflight are not taken."""
    api = start().api
    body = b'{"name": "app", "image": "x"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = api.post("/api/v1/services", data=body, headers={"Content-Type": kind})
        assert (answer.status, answer.code) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert api.post("/api/v1/services", data=body).status == 415
    assert api.get("/api/v1/services").json == {"services": []}


# Secrets and the account of what was done


def everything_told(homed: Homed, api: Api, more: list[Answer]) -> str:
    """All that homed has written and answered."""
    paths = ("/api/v1/services", "/api/v1/services/secret", "/api/v1/audit", "/api/v1/keys", "/api/v1/config",
             "/metrics", "/api/v1/containers", "/api/v1/containers/secret", "/health")  # fmt: skip
    answers = [*more, *(api.get(path) for path in paths)]
    return "\n".join([homed.log, *(a.body.decode() for a in answers), *(str(a.headers) for a in answers)])


def test_secrets_are_never_told(keyed: Homed, engine: DockerEngine) -> None:
    password = "correct-horse-battery-staple"
    api, key, _ = holder(keyed, "person", "admin")
    account = {"username": "reader", "password": password}
    answers = [
        api.post("/api/v1/services", {"name": "secret", "image": IMAGE, "command": IDLE, "registry": account}),
        api.put("/api/v1/services/secret", {"registry": {**account, "more": 1}}),
        api.put("/api/v1/services/secret", {"registry": password}),
        api.put("/api/v1/services/secret", {"image": f"{engine.machine}:1/x:1"}),
        api.get(f"/api/v1/containers?status={key}"),
    ]
    api.await_reason("secret", "pull_failed")
    token = api.post("/api/v1/auth/token", {"scope": "admin"}).json["token"]
    answers.append(api.get(f"/ws/events?access_token={token}"))
    answers.append(api.get("/api/v1/nothing", headers={"X-Request-ID": key}))
    made = api.post("/api/v1/keys", {"name": "other", "scope": "read"}).json["key"]
    assert api.service("secret")["has_registry_credentials"] is True
    told = everything_told(keyed, api, [a for a in answers if key not in str(a.headers)])
    for secret in (password, token, made, made.split("_")[2]):
        assert secret not in told
    assert key.split("_")[2] not in keyed.log


def test_every_change_is_in_the_account(keyed: Homed) -> None:
    api, _, _ = holder(keyed, "person", "admin")
    asked = {"X-Request-ID": "asked-for-1"}
    api.post("/api/v1/services", {"name": "app", "image": IMAGE, "command": IDLE}, headers=asked)
    api.put("/api/v1/services/app", {"stop_timeout": 1})
    api.put("/api/v1/services/app", {"nonsense": 1})
    for verb in ("stop", "start", "restart", "disable", "enable"):
        api.act("app", verb)
    api.delete("/api/v1/services/app")
    api.delete("/api/v1/services/app")
    api.put("/api/v1/config", {"orchestrator": {"monitoring": {"health_check_interval": 60}}})
    made = api.post("/api/v1/keys", {"name": "other", "scope": "read"}).json
    api.with_key(made["key"]).delete("/api/v1/services/app")
    api.delete(f"/api/v1/keys/{made['id']}")
    api.post("/api/v1/auth/token", {})
    rows = list(reversed(api.get("/api/v1/audit").json["entries"]))
    assert [(row["action"], row["status"]) for row in rows] == [
        ("service.create", 201), ("service.update", 200), ("service.update", 400), ("service.stop", 200),
        ("service.start", 200), ("service.restart", 200), ("service.disable", 200), ("service.enable", 200),
        ("service.delete", 200), ("service.delete", 404), ("config.update", 200), ("key.create", 201),
        ("service.delete", 403), ("key.revoke", 200), ("token.issue", 201),
    ]  # fmt: skip
    assert rows[0]["actor"] == "key:person"
    assert rows[0]["request_id"] == "asked-for-1"
    assert rows[0]["origin"] == "127.0.0.1"
    assert rows[1]["target"] == "/api/v1/services/app"
    assert rows[2]["code"] == "VALIDATION_ERROR"
    assert rows[12]["actor"] == "key:other"
    page = api.get(f"/api/v1/audit?limit=2&before={rows[5]['id']}").json["entries"]
    assert [row["id"] for row in page] == [rows[4]["id"], rows[3]["id"]]
    keyed.stop()
    with sqlite3.connect(keyed.state / "homed.db") as database:
        assert database.execute("SELECT count(*) FROM audit").fetchone()[0] == len(rows)
    database.close()
