"""Who may have jobs run, hosts changed and tasks done, how often, and what is written down of it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.homed import Homed
from tests.support.wait import until

_READ = [
    ("GET", "/api/v1/servers"), ("GET", "/api/v1/servers/x"), ("GET", "/api/v1/servers/x/status"),
    ("GET", "/api/v1/servers/status/all"), ("GET", "/api/v1/system/enhanced"), ("GET", "/api/v1/tasks/types"),
    ("GET", "/api/v1/tasks/statistics"),
]  # fmt: skip
_OPERATE = [
    ("GET", "/api/v1/jobs"), ("POST", "/api/v1/jobs"), ("POST", "/api/v1/jobs/script"), ("GET", "/api/v1/jobs/x"),
    ("POST", "/api/v1/jobs/x/cancel"), ("POST", "/api/v1/jobs/x/duplicate"), ("GET", "/api/v1/jobs/x/stream"),
    ("GET", "/api/v1/jobs/x/logs"), ("GET", "/api/v1/jobs/x/stdout"), ("GET", "/api/v1/jobs/x/stderr"),
    ("POST", "/api/v1/servers"), ("PUT", "/api/v1/servers/x"), ("DELETE", "/api/v1/servers/x"),
    ("POST", "/api/v1/servers/x/test"), ("POST", "/api/v1/servers/x/forget-key"),
    ("POST", "/api/v1/servers/check-status"),
    ("POST", "/api/v1/servers/upload-pem"), ("POST", "/api/v1/pem-files/upload"), ("POST", "/api/v1/tasks"),
    ("GET", "/api/v1/tasks"), ("GET", "/api/v1/tasks/x"), ("GET", "/api/v1/tasks/x/status"),
    ("GET", "/api/v1/tasks/x/result"), ("POST", "/api/v1/tasks/x/cancel"), ("POST", "/api/v1/tasks/x/retry"),
]  # fmt: skip


@pytest.fixture(scope="module")
def homed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homed]:
    """One that needs a key of everybody."""
    folder: Path = tmp_path_factory.mktemp("homed")
    with Homed(folder, f"unix://{folder}/no-engine.sock", {"api": {"require_key": True}}) as homed:
        yield homed
        homed.stop()


@pytest.fixture(scope="module")
def keys(homed: Homed) -> dict[str, Api]:
    return {scope: homed.api.with_key(homed.make_key(scope, scope)[0]) for scope in ("read", "operate")}


def status(api: Api, method: str, path: str) -> int:
    return api.call(method, path, {} if method in ("POST", "PUT") else None).status


@pytest.mark.parametrize(("method", "path"), [*_READ, *_OPERATE])
def test_nothing_is_told_or_done_without_a_key(homed: Homed, method: str, path: str) -> None:
    assert status(homed.api, method, path) == 401
    wrong = homed.api.with_key("hk_0000000000000000_wrong")
    assert status(wrong, method, path) == 401


@pytest.mark.parametrize(("method", "path"), _OPERATE)
def test_to_look_is_not_to_run(keys: dict[str, Api], method: str, path: str) -> None:
    answer = keys["read"].call(method, path, {} if method in ("POST", "PUT") else None)
    assert answer.status == 403
    body = answer.json
    assert body.get("code", body.get("error_code")) == "FORBIDDEN"
    assert status(keys["operate"], method, path) not in (401, 403, 500)


@pytest.mark.parametrize(("method", "path"), _READ)
def test_numbers_and_hosts_may_be_looked_at(keys: dict[str, Api], method: str, path: str) -> None:
    assert status(keys["read"], method, path) in (200, 404)


def test_what_changes_something_is_written_down_with_who_did_it(homed: Homed, keys: dict[str, Api]) -> None:
    api = keys["operate"]
    made = api.post("/api/v1/jobs", {"command": "echo secret-argument", "server_id": "local"})
    task = api.post("/api/v1/tasks", {"task_type": "echo", "payload": {}})
    api.post(f"/api/v1/jobs/{made.json['id']}/duplicate")
    api.post("/api/v1/jobs/no-such/cancel")
    admin = homed.api.with_key(homed.make_key("auditor", "admin")[0])
    entries = admin.get("/api/v1/audit?limit=50").json["entries"]
    found = [(entry["action"], entry["target"], entry["status"], entry["code"]) for entry in entries]
    assert ("job.submit", "/api/v1/jobs", 201, "") in found
    assert ("task.submit", "/api/v1/tasks", 201, "") in found
    assert ("job.duplicate", f"/api/v1/jobs/{made.json['id']}/duplicate", 201, "") in found
    assert ("job.cancel", "/api/v1/jobs/no-such/cancel", 404, "JOB_NOT_FOUND") in found
    assert task.status == 201
    assert "secret-argument" not in str(entries)


def test_the_documented_limits_hold(tmp_path: Path) -> None:
    limits: dict[str, dict[str, Any]] = {"api.limits": {"enabled": True}}
    with Homed(tmp_path, f"unix://{tmp_path}/no-engine.sock", limits) as homed:
        first = homed.api.get("/api/v1/tasks/types")
        assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == ("60", "59")
        statuses = [homed.api.get("/api/v1/jobs").status for _ in range(110)]
        assert statuses[:100] == [200] * 100
        assert 429 in statuses[100:]
        refusal = homed.api.post("/api/v1/jobs", {"command": "true", "server_id": "local"})
        if refusal.status == 429:  # a minute gives back one every 0.6 s
            assert refusal.json["code"] == "RATE_LIMIT_EXCEEDED" and refusal.headers["retry-after"]
        assert homed.api.get("/health").status == 200
        homed.stop()


def test_a_board_that_runs_no_jobs_says_so(tmp_path: Path) -> None:
    with Homed(tmp_path, f"unix://{tmp_path}/no-engine.sock", {"jobs": {"enabled": False}}) as homed:
        refusal = homed.api.post("/api/v1/jobs", {"command": "true", "server_id": "local"})
        assert (refusal.status, refusal.json["code"]) == (403, "JOBS_DISABLED")
        task = homed.api.post("/api/v1/tasks", {"task_type": "echo", "payload": {}})
        assert (task.status, task.json["error_code"]) == (403, "JOBS_DISABLED")
        assert homed.api.get("/api/v1/jobs").json["jobs"] == []
        homed.stop()


def test_task_types_that_are_not_taken_are_refused_and_not_listed(tmp_path: Path) -> None:
    with Homed(tmp_path, f"unix://{tmp_path}/no-engine.sock", {"jobs": {"task_types": ["echo"]}}) as homed:
        assert homed.api.get("/api/v1/tasks/types").json["data"]["supported_types"] == ["echo"]
        refusal = homed.api.post("/api/v1/tasks", {"task_type": "command", "payload": {"command": "id"}})
        assert (refusal.status, refusal.json["error_code"]) == (400, "VALIDATION_ERROR")
        assert homed.api.post("/api/v1/tasks", {"task_type": "echo", "payload": {}}).status == 201
        homed.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="without root a job is of homed's own user")
def test_a_job_is_no_way_to_what_the_loopback_is_trusted_with(tmp_path: Path) -> None:
    with Homed(tmp_path, f"unix://{tmp_path}/no-engine.sock", {}) as homed:
        url = f"{homed.api.url}/api/v1/keys"
        ask = f"curl -s -o /dev/null -w '%{{http_code}}' {url}"
        job = homed.api.post("/api/v1/jobs", {"command": ask, "server_id": "local"}).json
        until("its end", lambda: homed.api.get(f"/api/v1/jobs/{job['id']}").json["finished_at"])
        assert homed.api.get(f"/api/v1/jobs/{job['id']}").json["stdout"] == "401"
        assert homed.api.get("/api/v1/keys").status == 200
        homed.stop()
