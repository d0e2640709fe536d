"""`/api/v1/servers` over HTTP, with Debian's sshd at the other end: hosts, whether they answer, and jobs on them."""

import getpass
import json
import re
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.api.newremora.test_jobs import enveloped
from tests.support.api import Answer, Api
from tests.support.homed import Homed, free_port
from tests.support.hostile_keys import hostile_keys
from tests.support.job_api import JOBS, SERVERS, await_running, ended, refused, run, submit
from tests.support.sshd import ACCOUNT, PASSWORD, Sshd, keypair, sshd

_SHOWN = {"id", "name", "hostname", "port", "user", "auth_type", "is_active", "created_at", "updated_at"}
_SECRET = "never to be shown"
DOCUMENTED = {
    "name": "production-web-01", "hostname": "192.168.1.100", "port": 22, "user": "ubuntu", "auth_type": "password",
    "password": _SECRET, "is_active": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd"), passwords=True) as host:
        yield host


@pytest.fixture(autouse=True)
def clean(api: Api) -> Iterator[None]:
    yield
    for one in api.get(SERVERS).json["servers"]:
        assert api.delete(f"{SERVERS}/{one['id']}?force=true").status == 200


def create(api: Api, **fields: Any) -> Any:
    answer = api.post(SERVERS, fields)
    assert answer.status == 201, answer
    return answer.json


def by_key(api: Api, host: Sshd, **more: Any) -> Any:
    return create(
        api, **{"name": "by key", "hostname": "127.0.0.1", "port": host.port, "user": getpass.getuser(),
                "auth_type": "key", "private_key": host.key, **more},
    )  # fmt: skip


def nobody(api: Api, **more: Any) -> Any:
    """A host where nobody listens."""
    return create(api, **{**DOCUMENTED, "name": "nobody", "hostname": "127.0.0.1", "port": free_port(), **more})


def upload(api: Api, data: bytes, name: str = "uploaded-key.pem", path: str = f"{SERVERS}/upload-pem") -> Answer:
    body = (
        b'--B\r\nContent-Disposition: form-data; name="pem_file"; filename="' + name.encode()
        + b'"\r\nContent-Type: application/x-pem-file\r\n\r\n' + data + b"\r\n--B--\r\n"
    )  # fmt: skip
    return api.post(path, data=body, headers={"Content-Type": "multipart/form-data; boundary=B"})


def test_a_server_is_added_listed_shown_changed_and_deleted_as_documented(api: Api) -> None:
    answer = api.post(SERVERS, DOCUMENTED)
    assert answer.status == 201
    made = enveloped(answer.json)
    assert made.keys() >= _SHOWN
    expected = {name: value for name, value in DOCUMENTED.items() if name != "password"}
    assert expected.items() <= made.items()
    listed = api.get(SERVERS).json
    assert enveloped(listed)["servers"] == [made]
    assert enveloped(api.get(f"{SERVERS}/{made['id']}").json) == made
    change = {"name": "updated-server-name", "hostname": "new.hostname.com", "port": 2222, "is_active": False}
    changed = api.put(f"{SERVERS}/{made['id']}", change)
    assert changed.status == 200
    assert (change | {"id": made["id"], "user": "ubuntu"}).items() <= enveloped(changed.json).items()
    assert changed.json["created_at"] == made["created_at"] < changed.json["updated_at"]
    gone = api.delete(f"{SERVERS}/{made['id']}")
    assert gone.status == 200
    assert enveloped(gone.json) == {
        "id": made["id"], "status": "deleted", "message": gone.json["message"], "deleted_jobs": 0, "cancelled_jobs": 0,
    }  # fmt: skip
    empty = api.get(SERVERS)
    assert empty.json["servers"] == [] and b'"servers":[]' in empty.body


def test_port_22_and_active_are_what_is_not_said(api: Api) -> None:
    made = create(api, name="web", hostname="db.example.com", user="admin", auth_type="password", password="x")
    assert (made["port"], made["is_active"], made["status"], made["host_key"]) == (22, True, "unknown", None)


def test_broken_algorithms_are_allowed_for_one_server(api: Api) -> None:
    made = create(api, **DOCUMENTED)
    assert made["legacy_algorithms"] is False
    changed = api.put(f"{SERVERS}/{made['id']}", {"legacy_algorithms": True})
    assert (changed.status, changed.json["legacy_algorithms"]) == (200, True)
    assert create(api, **{**DOCUMENTED, "name": "old", "legacy_algorithms": True})["legacy_algorithms"] is True


def test_a_key_that_would_cost_minutes_is_refused_at_once(homed: Homed, api: Api) -> None:
    """RSA of 16,384 bits: OpenSSL would compute for a minute, with the event loop stopped."""
    hostile = hostile_keys()
    upload(api, hostile["even"].encode())  # what reads keys is loaded
    before = sum(psutil.Process(homed.pid).cpu_times()[:2])
    for text in hostile.values():
        refused(upload(api, text.encode()), 400, "VALIDATION_ERROR")
        refused(api.post(SERVERS, {**_BY_KEY, "private_key": text}), 400, "VALIDATION_ERROR")
    assert sum(psutil.Process(homed.pid).cpu_times()[:2]) - before < 2


_BY_KEY = {"name": "k", "hostname": "h", "user": "u", "auth_type": "key"}


def test_only_active_servers_are_listed_where_that_is_asked(api: Api) -> None:
    active = create(api, **DOCUMENTED)
    create(api, **{**DOCUMENTED, "name": "other", "is_active": False})
    assert len(api.get(SERVERS).json["servers"]) == 2
    for query in ("active_only=true", "active=true"):
        assert [one["id"] for one in api.get(f"{SERVERS}?{query}").json["servers"]] == [active["id"]]
    assert len(api.get(f"{SERVERS}?active_only=false").json["servers"]) == 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": None}, "name"), ({"name": ""}, "name"), ({"name": "a\nb"}, "name"), ({"hostname": None}, "hostname"),
        ({"hostname": "a b"}, "hostname"), ({"hostname": "-oProxyCommand=x"}, "hostname"), ({"port": 0}, "port"),
        ({"port": 65536}, "port"), ({"user": None}, "user"), ({"user": "-l"}, "user"), ({"user": ""}, "user"),
        ({"auth_type": "magic"}, "auth_type"), ({"auth_type": None}, "auth_type"), ({"password": None}, "password"),
        ({"auth_type": "key", "password": None}, "private_key"),
        ({"auth_type": "key", "password": None, "private_key": "no key"}, "private_key"),
        ({"auth_type": "key", "password": None, "pem_file_url": "/pem-files/no-such.pem"}, "pem_file_url"),
        ({"auth_type": "key", "password": None, "pem_file_url": "/pem-files/../../etc/shadow"}, "pem_file_url"),
        ({"is_active": "yes"}, "is_active"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(api: Api, change: Any, field: str) -> None:
    body = {name: value for name, value in {**DOCUMENTED, **change}.items() if value is not None}
    answer = api.post(SERVERS, body)
    assert [one["field"] for one in refused(answer, 400, "VALIDATION_ERROR")["details"]["errors"]] == [field]
    assert api.get(SERVERS).json["servers"] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/test"), ("GET", "/status"), ("POST", "/forget-key")],
)
def test_a_server_that_is_not_there_is_404(api: Api, method: str, path: str) -> None:
    for id in ("uuid-here", "local", "%00", "a" * 3000):
        answer = api.call(method, f"{SERVERS}/{id}{path}", {} if method == "PUT" else None)
        assert refused(answer, 404, "HOST_NOT_FOUND")["error"] == "Server not found"


def test_a_test_logs_in_and_says_what_it_found(api: Api, host: Sshd) -> None:
    made = by_key(api, host)
    tested = enveloped(api.post(f"{SERVERS}/{made['id']}/test").json)
    assert tested["timestamp"]
    del tested["timestamp"]
    assert tested.pop("response_time_ms") >= 0
    assert tested == {
        "server_id": made["id"], "status": "connected", "test_command": "echo 'test'", "test_output": "test",
        "message": "Connection successful",
    }  # fmt: skip
    shown = api.get(f"{SERVERS}/{made['id']}").json
    assert shown["status"] == "connected" and shown["last_checked_at"]
    assert shown["host_key"].startswith("SHA256:")
    status = enveloped(api.get(f"{SERVERS}/{made['id']}/status").json)
    assert (status["server_name"], status["port"]) == ("by key", host.port) and status["checked_at"]
    assert (status["server_id"], status["status"]) == (made["id"], "connected")
    forgotten = api.post(f"{SERVERS}/{made['id']}/forget-key")
    assert (forgotten.status, forgotten.json["host_key"]) == (200, None)


def test_a_password_logs_in_too_and_a_wrong_one_does_not(api: Api, host: Sshd) -> None:
    where = {"hostname": "127.0.0.1", "port": host.port, "user": ACCOUNT, "auth_type": "password"}
    right = create(api, name="right", password=PASSWORD, **where)
    wrong = create(api, name="wrong", password="wrong horse", **where)
    assert api.post(f"{SERVERS}/{right['id']}/test").json["status"] == "connected"
    found = api.post(f"{SERVERS}/{wrong['id']}/test")
    assert (found.status, found.json["status"], found.json["response_time_ms"]) == (503, "disconnected", None)
    assert (found.json["success"], found.json["error"]) == (False, found.json["message"])
    assert found.json.keys() >= {"server_id", "test_command", "test_output", "timestamp", "data"}
    assert "horse" not in found.body.decode()
    assert api.put(f"{SERVERS}/{wrong['id']}", {"password": PASSWORD}).status == 200
    assert api.post(f"{SERVERS}/{wrong['id']}/test").json["status"] == "connected"


def test_what_was_never_checked_is_checked_when_its_status_is_asked_for(api: Api, host: Sshd) -> None:
    up, down = by_key(api, host), nobody(api)
    assert enveloped(api.get(f"{SERVERS}/{up['id']}/status").json)["status"] == "connected"
    body = enveloped(api.get(f"{SERVERS}/status/all?active=true").json)
    assert (body["total_servers"], body["connected"], body["disconnected"]) == (2, 1, 1)
    found = {one["server_id"]: one for one in body["servers"]}
    assert (found[up["id"]]["status"], found[down["id"]]["status"]) == ("connected", "disconnected")
    assert all(one["server_name"] and one["port"] and one["checked_at"] for one in found.values())
    assert api.get(f"{SERVERS}/{down['id']}").json["status"] == "disconnected", "it is remembered"


def test_a_key_is_taken_by_either_name(api: Api, host: Sshd) -> None:
    made = by_key(api, host, private_key=None, pem_file=host.key)
    assert api.post(f"{SERVERS}/{made['id']}/test").json["status"] == "connected"
    other = create(api, **DOCUMENTED)
    login = {"auth_type": "key", "pem_file": host.key, "port": host.port, "hostname": "127.0.0.1"}
    changed = api.put(f"{SERVERS}/{other['id']}", login | {"user": getpass.getuser()})
    assert changed.status == 200 and b"PRIVATE KEY" not in changed.body
    assert api.post(f"{SERVERS}/{other['id']}/test").json["status"] == "connected"
    wrong = {**DOCUMENTED, "password": None, "auth_type": "key", "private_key": host.key, "pem_file": "another"}
    found = refused(api.post(SERVERS, wrong), 400, "VALIDATION_ERROR")
    assert [one["field"] for one in found["details"]["errors"]] == ["pem_file"]


def test_all_servers_are_checked_and_counted(api: Api, host: Sshd) -> None:
    up, down = by_key(api, host), nobody(api)
    inactive = nobody(api, name="inactive", is_active=False)
    body = enveloped(api.post(f"{SERVERS}/check-status").json)
    found = {one["server_id"]: one for one in body["servers"]}
    assert found.keys() == {up["id"], down["id"], inactive["id"]}
    assert found[up["id"]]["status"] == "connected" and found[up["id"]]["response_time_ms"] >= 0
    assert found[up["id"]]["message"] == "Connection successful"
    assert found[down["id"]]["status"] == "disconnected" and found[down["id"]]["response_time_ms"] is None
    assert found[down["id"]]["message"]
    summary = body["summary"]
    assert summary.pop("check_duration_ms") >= 0
    assert summary == {"total_checked": 3, "connected": 1, "disconnected": 2}
    assert (body["total_servers"], body["connected"], body["disconnected"]) == (3, 1, 2)
    active = api.post(f"{SERVERS}/check-status?active_only=true").json
    assert active["summary"]["total_checked"] == 2
    last = api.get(f"{SERVERS}/status/all?active=true").json
    assert {one["server_id"]: one["status"] for one in last["servers"]} == {
        up["id"]: "connected", down["id"]: "disconnected",
    }  # fmt: skip
    numbers = api.get("/api/v1/system/enhanced").json
    assert (numbers["connected_servers"], numbers["disconnected_servers"]) == (1, 2)
    assert api.get("/api/v1/system/info").json["total_servers"] == 3


def test_jobs_run_on_a_server_and_show_it(api: Api, host: Sshd) -> None:
    made = by_key(api, host)
    done = run(api, "echo", "far away; echo trouble >&2; exit 4", server_id=made["id"])
    assert (done["status"], done["exit_code"], done["stdout"], done["stderr"]) == (
        "failed",
        4,
        "far away\n",
        "trouble\n",
    )
    assert done["server"] == {
        "id": made["id"], "name": "by key", "hostname": "127.0.0.1", "port": host.port, "user": getpass.getuser(),
    }  # fmt: skip
    assert done["server_id"] == made["id"]
    script = api.post(f"{JOBS}/script", {"script": "x=(1 2)\necho ${#x[@]}", "server_id": made["id"]})
    assert ended(api, script.json["id"])["stdout"] == "2\n"
    listed = api.get(f"{JOBS}?server_id={made['id']}").json
    assert listed["pagination"]["total"] == 2
    copy = api.post(f"{JOBS}/{done['id']}/duplicate", {"server_id": "local"}).json["new_job"]
    assert ended(api, copy["id"])["server_id"] == "local"


def test_a_server_that_is_not_active_takes_no_jobs(api: Api) -> None:
    made = nobody(api, is_active=False)
    refused(api.post(JOBS, {"command": "ls", "server_id": made["id"]}), 400, "HOST_INACTIVE")
    refused(api.post(f"{JOBS}/script", {"script": "ls", "server_id": made["id"]}), 400, "HOST_INACTIVE")


def test_a_server_with_running_jobs_is_not_deleted_even_by_force(api: Api, host: Sshd) -> None:
    made = by_key(api, host)
    id = submit(api, "sleep", "600", server_id=made["id"])["id"]
    await_running(api, id)
    for query in ("", "?force=true"):
        found = refused(api.delete(f"{SERVERS}/{made['id']}{query}"), 409, "HOST_BUSY")
        assert found["error"] == "Cannot delete server with active jobs"
        assert found["details"].startswith("Cannot delete server with active jobs: 1 job runs on it")
        assert found["jobs"] == [id]
    assert api.post(f"{JOBS}/{id}/cancel").status == 200
    found = refused(api.delete(f"{SERVERS}/{made['id']}"), 409, "HOST_BUSY")
    assert found["error"] in found["details"] and found["error"] == "Server has associated job history"
    assert api.delete(f"{SERVERS}/{made['id']}?force=true").status == 200
    kept = api.get(f"{JOBS}/{id}").json
    assert (kept["status"], kept["server_id"], kept["server"]) == ("canceled", made["id"], None)


def test_an_uploaded_key_logs_in(api: Api, host: Sshd) -> None:
    for path in (f"{SERVERS}/upload-pem", "/api/v1/pem-files/upload"):
        answer = upload(api, host.key.encode(), path=path)
        assert answer.status == 201
        body = enveloped(answer.json)
        assert body["url"] == body["pem_file_url"] == f"/pem-files/{body['filename']}"
        assert body["message"]
        assert re.fullmatch(r"uploaded-key(-\d+)?\.pem", body["filename"])
        assert body["size"] == len(host.key) and body["uploaded_at"]
        made = by_key(api, host, private_key=None, pem_file_url=body["url"], name=path)
        assert made["pem_file_url"] == body["url"]
        assert api.post(f"{SERVERS}/{made['id']}/test").json["status"] == "connected"
        assert api.get(body["url"]).status == 404, "a key is never served"


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/shadow", "..", "a\\b", "é" * 300, ""])
def test_an_uploads_name_leads_nowhere(api: Api, host: Sshd, name: str) -> None:
    body = upload(api, host.key.encode(), name=name).json
    assert "/" not in body["filename"] and ".." not in body["filename"] and len(body["filename"]) < 200


def test_what_is_no_key_is_not_taken(api: Api) -> None:
    for data in (
        b"",
        b"no key",
        b"\xff" * 100,
        b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----",
    ):
        found = refused(upload(api, data), 400, "VALIDATION_ERROR")
        assert [one["field"] for one in found["details"]["errors"]] == ["pem_file"]
    refused(upload(api, b"a" * 300_000), 413, "PAYLOAD_TOO_LARGE")
    refused(api.post(f"{SERVERS}/upload-pem", {"pem_file": "x"}), 415, "UNSUPPORTED_MEDIA_TYPE")
    empty = api.post(f"{SERVERS}/upload-pem", data=b"", headers={"Content-Type": "multipart/form-data; boundary=B"})
    refused(empty, 400, "VALIDATION_ERROR")


def test_no_secret_is_in_any_answer_or_in_the_log(homed: Homed, host: Sshd, tmp_path_factory: Any) -> None:
    api = homed.api
    key, _ = keypair(tmp_path_factory.mktemp("keys"), "other")
    inner = key.splitlines()[2]
    answers = [api.post(SERVERS, DOCUMENTED), upload(api, key.encode())]
    made = answers[0].json["id"]
    answers.append(api.put(f"{SERVERS}/{made}", {"auth_type": "key", "private_key": key}))
    answers.append(api.put(f"{SERVERS}/{made}", {"auth_type": "password", "password": _SECRET, "port": 1}))
    answers.append(api.post(SERVERS, {**DOCUMENTED, "port": 0}))
    answers.append(api.post(f"{SERVERS}/{made}/test"))
    answers += [api.get(path) for path in (SERVERS, f"{SERVERS}/{made}", f"{SERVERS}/status/all", "/api/v1/audit")]
    answers.append(api.post(JOBS, {"command": "true", "server_id": made}))
    ended(api, answers[-1].json["id"])
    answers.append(api.get(f"{JOBS}/{answers[-1].json['id']}"))
    for answer in answers:
        assert _SECRET not in answer.body.decode() and inner not in answer.body.decode(), answer
    assert _SECRET not in homed.log and inner not in homed.log
    database = b"".join(path.read_bytes() for path in homed.state.glob("homed.db*"))
    assert _SECRET.encode() not in database and inner.encode() not in database
    assert json.loads(answers[0].body)["auth_type"] == "password"
