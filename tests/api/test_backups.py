"""`/api/v1/backups` over a real socket, with backups that do as the test says: what is asked, answered and refused."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from homed.access.scopes import Scope
from homed.backups.records import Failure, Type
from homed.backups.wishes import RestoreWish, Wish
from homed.backups.worker.messages import Unlock
from homed.config import Limits
from homed.errors import BackupConflictError
from tests.support.backup_api import PATH, Place, serve_backups
from tests.support.fake_backups import FULL, SEALED, SNAPSHOT
from tests.support.front import config, raw

PASSPHRASE, IDENTITY = "correct-horse-battery", "AGE-SECRET-KEY-1QYQSZQGPQYQSZQGP"


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with serve_backups(tmp_path) as made:
        yield made


@pytest.fixture
async def exposed(tmp_path: Path) -> AsyncIterator[Place]:
    """A listener that others reach: who calls has to say so."""
    async with serve_backups(tmp_path, trusted=False) as made:
        yield made


async def test_the_list_holds_what_homei_documents(place: Place) -> None:
    status, body = await place.call("GET")
    assert status == 200
    first = body["backups"][0]
    documented = {"name": FULL, "created_at": "2024-01-15T10:00:00Z", "size": 1073741824, "type": "full"}
    assert {name: first[name] for name in documented} == documented
    assert [one["type"] for one in body["backups"]] == ["full", "full", "incremental"]
    assert "sections" not in first and first["services"] == ["postgres"]


async def test_a_backup_is_shown_with_what_is_in_it(place: Place) -> None:
    status, body = await place.call("GET", f"/{FULL}")
    assert status == 200
    assert body["sections"][0]["name"] == "data" and body["sections"][0]["users"] == ["postgres"]
    assert not {"repository", "offset"} & {*body, *body["sections"][0]}, "inner matters; an address may hold a password"


async def test_a_backup_is_made_as_homei_documents(place: Place) -> None:
    place.backups.warnings = ("data: 2 files changed while they were read",)
    wanted = {"name": "manual-backup", "type": "full", "include_data": True}
    assert await place.call("POST", json=wanted) == (
        201,
        {
            "name": "manual-backup-20240115-103000.tar.gz",
            "status": "created",
            "message": "Backup created successfully",
            "operation_id": "op1",
            "warnings": ["data: 2 files changed while they were read"],
        },
    )
    assert place.backups.asked == [Wish("manual-backup", Type.FULL, True)]
    assert await place.audited() == [("backup.create", 201)]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"data": b""},
        {"data": b"", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        {"json": {}},
    ],
)
async def test_nothing_need_be_said_to_make_verify_restore_or_prune(place: Place, more: dict[str, Any]) -> None:
    for path, done in (("", "created"), (f"/{FULL}/verify", "verified"), (f"/{FULL}/restore", "restored")):
        status, body = await place.call("POST", path, **more)
        assert (status, body["status"]) == (201 if done == "created" else 200, done)
    status, body = await place.call("POST", "/prune", **more)
    assert (status, body["dry_run"]) == (200, False)
    assert place.backups.asked == [Wish(), None, RestoreWish(), False]


async def test_a_body_that_is_there_must_be_json(place: Place) -> None:
    headers = {"Content-Type": "text/plain"}
    assert await place.refused("POST", data=b"{}", headers=headers) == (415, "UNSUPPORTED_MEDIA_TYPE")
    headers = {"Content-Type": "application/json"}
    assert await place.refused("POST", data=b"{", headers=headers) == (400, "VALIDATION_ERROR")
    assert place.backups.asked == []


async def test_a_copy_needs_its_target(place: Place) -> None:
    headers = {"Content-Type": "application/json"}
    assert await place.refused("POST", f"/{FULL}/copy", data=b"", headers=headers) == (400, "VALIDATION_ERROR")
    assert await place.refused("POST", f"/{FULL}/copy", json={}) == (400, "VALIDATION_ERROR")
    status, body = await place.call("POST", f"/{FULL}/copy", json={"target": "nas"})
    assert (status, body["status"], place.backups.asked) == (200, "copied", ["nas"])


async def test_who_does_not_wait_is_answered_at_once(place: Place) -> None:
    place.backups.go_on.clear()
    assert await place.call("POST", "?wait=false") == (
        202,
        {
            "name": "backup-20240115-103000.tar.gz",
            "status": "creating",
            "message": "Backup is being created",
            "operation_id": "op1",
            "warnings": [],
        },
    )
    for verb, status in (("restore", "restoring"), ("verify", "verifying")):
        code, body = await place.call("POST", f"/{FULL}/{verb}?wait=false")
        assert (code, body["status"]) == (202, status)
    code, body = await place.call("POST", f"/{FULL}/copy?wait=false", json={"target": "nas"})
    assert (code, body["status"], body["operation_id"]) == (202, "copying", "op4")
    assert place.backups.waited == 0


async def test_a_wrong_wait_is_named(place: Place) -> None:
    assert await place.refused("POST", "?wait=perhaps") == (400, "VALIDATION_ERROR")
    assert place.backups.asked == []


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""}, {"name": "a/b"}, {"name": "../x"}, {"name": ".hidden"}, {"name": "a b"}, {"name": "x" * 65},
        {"name": "a\n"}, {"name": "ä"}, {"name": None}, {"type": "differential"}, {"type": "FULL"},
        {"include_data": "yes"}, {"names": "x"}, [], "x",
    ],
)  # fmt: skip
async def test_a_wish_that_cannot_be_meant_is_refused(place: Place, body: object) -> None:
    assert await place.refused("POST", json=body) == (400, "VALIDATION_ERROR")
    assert place.backups.asked == []


async def test_a_part_of_a_backup_is_restored(place: Place) -> None:
    place.backups.result = {"restored": {"volumes": ["data"]}, "not_running": []}
    body = {"services": ["web"], "volumes": ["data", "/srv/www"], "config": False, "keys": True, "passphrase": "x"}
    assert await place.call("POST", f"/{FULL}/restore", json=body) == (
        200,
        {
            "status": "restored",
            "message": "Backup restored successfully",
            "operation_id": "op1",
            "warnings": [],
            "result": {"restored": {"volumes": ["data"]}, "not_running": []},
        },
    )
    (wish,) = place.backups.asked
    assert wish == RestoreWish(("web",), ("data", "/srv/www"), False, True, unlock=Unlock("x", None))
    assert await place.audited() == [("backup.restore", 200)]


@pytest.mark.parametrize("dry_run", [False, True])
async def test_the_owners_file_is_not_restored_over_the_api(place: Place, dry_run: bool) -> None:
    body = {"file_settings": True, "dry_run": dry_run}
    assert await place.refused("POST", f"/{FULL}/restore", json=body) == (403, "FORBIDDEN")
    assert place.backups.asked == []


async def test_the_repository_is_unlocked(place: Place) -> None:
    place.backups.result = {"removed": [{"hostname": "nas"}]}
    status, body = await place.call("POST", "/unlock", json={"force": True})
    assert (status, body["status"], body["result"]) == (200, "unlocked", {"removed": [{"hostname": "nas"}]})
    assert place.backups.asked == [True]
    assert await place.audited() == [("backup.unlock", 200)]


async def test_what_a_restore_would_change_is_told(place: Place) -> None:
    place.backups.result = {"plan": {"stop": ["web"]}}
    status, body = await place.call("POST", f"/{FULL}/restore", json={"dry_run": True})
    assert (status, body["status"], body["plan"]) == (200, "planned", {"stop": ["web"]})
    assert "result" not in body


@pytest.mark.parametrize(
    "body",
    [
        {"services": []}, {"services": "web"}, {"services": [1]}, {"volumes": [""]}, {"config": None},
        {"services": False, "volumes": False, "config": False}, {"passphrase": ""}, {"passphrase": 1},
        {"passphrase": "a", "identity": "b"}, {"everything": True},
    ],
)  # fmt: skip
async def test_a_restore_that_cannot_be_meant_is_refused(place: Place, body: dict[str, Any]) -> None:
    assert await place.refused("POST", f"/{FULL}/restore", json=body) == (400, "VALIDATION_ERROR")
    assert place.backups.asked == []


async def test_a_backup_is_deleted_as_homei_documents(place: Place) -> None:
    assert await place.call("DELETE", f"/{FULL}") == (
        200,
        {"status": "deleted", "message": "Backup deleted successfully"},
    )
    assert await place.refused("DELETE", f"/{FULL}") == (404, "BACKUP_NOT_FOUND")


async def test_prune_says_what_goes_and_why(place: Place) -> None:
    assert await place.call("POST", "/prune", json={"dry_run": True}) == (
        200,
        {
            "kept": [{"name": FULL, "reason": "made by hand"}],
            "removed": [{"name": SNAPSHOT, "reason": "no generation keeps it"}],
            "dry_run": True,
        },
    )
    assert place.backups.asked == [True]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("BACKUP_ERROR", 500), ("BACKUP_BUSY", 409), ("BACKUP_NOT_FOUND", 404), ("BACKUP_EXISTS", 409),
        ("BACKUP_DAMAGED", 422), ("BACKUP_UNSAFE", 422), ("BACKUP_VERSION", 422), ("BACKUP_KEY_WRONG", 422),
        ("BACKUP_KEY_MISSING", 422), ("BACKUP_NO_SPACE", 507), ("BACKUP_CANCELLED", 409), ("BACKUP_REMOTE", 502),
        ("BACKUP_HOOK_FAILED", 500), ("BACKUP_IN_USE", 409), ("NO_REPOSITORY", 409), ("TARGET_NOT_FOUND", 404),
        ("INTERNAL_ERROR", 500), ("OF_THE_FUTURE", 500),
    ],
)  # fmt: skip
async def test_what_failed_is_the_answer(place: Place, code: str, status: int) -> None:
    place.backups.failure = Failure(code, "why", {"member": "a"})
    for path in ("", f"/{FULL}/restore", f"/{FULL}/verify"):
        answered, body = await place.call("POST", path)
        assert (answered, body["error"]["code"], body["error"]["message"]) == (status, code, "why")
        assert body["error"]["details"]["member"] == "a"
        assert body["error"]["details"]["operation_id"].startswith("op")
    assert {status for _, status in await place.audited()} == {status}


async def test_what_is_refused_at_once_is_the_answer_also_where_nobody_waits(place: Place) -> None:
    place.backups.refusal = BackupConflictError("a create is under way", details={"operation_id": "other"})
    for query in ("", "?wait=false"):
        status, body = await place.call("POST", query)
        assert (status, body["error"]["code"]) == (409, "BACKUP_BUSY")
        assert body["error"]["details"]["operation_id"] == "other"


@pytest.mark.parametrize(
    "name",
    [
        "a%2Fb-20240115-100000.tar.gz", "..%2F..%2Fetc%2Fpasswd", "%2e%2e%2f" + FULL, f"{FULL}%00", f"{FULL}%0A",
        "nothing", f"%20{FULL}", ".hidden-20240115-100000.tar.gz", "backup-20249915-100000.tar.gz", f"{FULL}.json",
        "%ff%fe", "x" * 4000, "operation", ".partial-ab12",
    ],
)  # fmt: skip
async def test_a_name_is_never_a_path(place: Place, name: str) -> None:
    (place.backups.folder / "b-20240115-100000.tar.gz").write_bytes(b"secret")
    answered = []
    for method, after in (
        ("GET", ""), ("DELETE", ""), ("PUT", ""), ("GET", "/download"), ("POST", "/restore"), ("POST", "/verify"),
    ):  # fmt: skip
        request = f"{method} {PATH}/{name}{after} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        answered.append(await raw(place.server.port, request.encode() + b"Content-Length: 0\r\n\r\n"))
    for answer in answered:
        assert answer.startswith(b"HTTP/1.1 404 "), answer
        assert b'"BACKUP_NOT_FOUND"' in answer
    assert place.backups.asked == []


async def test_dots_in_a_path_lead_nowhere(place: Place) -> None:
    for path in (f"{PATH}/..", f"{PATH}/%2e%2e", f"{PATH}/../../../etc/passwd", f"{PATH}/../x/download", f"{PATH}//"):
        answer = await raw(
            place.server.port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        assert answer.startswith(b"HTTP/1.1 404 "), path


async def test_operations_are_listed_shown_and_cancelled(place: Place) -> None:
    place.backups.go_on.clear()
    await place.call("POST", "?wait=false")
    _, body = await place.call("GET", "/operations")
    (one,) = body["operations"]
    assert one == (await place.call("GET", "/operations/op1"))[1]
    assert (one["id"], one["kind"], one["state"], one["failure"]) == ("op1", "create", "running", None)
    assert set(one["progress"]) == {
        "phase", "bytes", "bytes_total", "files", "service", "percent", "remaining",
    }  # fmt: skip
    status, body = await place.call("POST", "/operations/op1/cancel")
    assert (status, body["status"], body["operation_id"]) == (200, "cancelling", "op1")
    for task in place.backups.tasks:
        await task
    assert (await place.call("GET", "/operations/op1"))[1]["state"] == "cancelled"
    assert await place.refused("POST", "/operations/op1/cancel") == (409, "OPERATION_ENDED")
    for path in ("/operations/other", "/operations/%2e%2e%2fx"):
        assert await place.refused("GET", path) == (404, "OPERATION_NOT_FOUND")


async def test_who_waits_for_what_is_cancelled_is_told(place: Place) -> None:
    place.backups.go_on.clear()
    waiting = asyncio.create_task(place.refused("POST"))
    while not place.backups.waited:
        await asyncio.sleep(0.01)
    await place.call("POST", "/operations/op1/cancel")
    assert await waiting == (409, "BACKUP_CANCELLED")


async def test_schedules_are_shown_with_what_came_of_them(place: Place) -> None:
    status, body = await place.call("POST", "/schedules/nightly/run")
    assert (status, body["status"], body["name"], body["operation_id"]) == (200, "created", SNAPSHOT, "op1")
    _, body = await place.call("GET", "/schedules")
    (one,) = body["schedules"]
    assert (one["name"], one["calendar"], one["next_run"]) == ("nightly", "*-*-* 02:00:00", "2024-01-15T10:00:00Z")
    assert (one["last_run"], one["problem"], one["last_operation"]["state"]) == (None, None, "succeeded")


async def test_a_schedule_is_run_without_waiting_or_is_not_there_or_has_nothing_to_do(place: Place) -> None:
    status, body = await place.call("POST", "/schedules/nightly/run?wait=false")
    assert (status, body["status"]) == (202, "creating")
    assert await place.refused("POST", "/schedules/weekly/run") == (404, "SCHEDULE_NOT_FOUND")
    place.backups.nothing_to_do = True
    status, body = await place.call("POST", "/schedules/nightly/run")
    assert (status, body["status"]) == (200, "nothing") and "operation_id" not in body


async def test_an_operation_goes_on_where_its_client_goes_away(place: Place) -> None:
    place.backups.go_on.clear()
    waiting = asyncio.create_task(place.call("POST"))
    while not place.backups.waited:
        await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.sleep(0.05)
    place.backups.go_on.set()
    while not await place.audited():
        await asyncio.sleep(0.01)
    assert await place.audited() == [("backup.create", 201)]
    assert (await place.call("GET", "/operations/op1"))[1]["state"] == "succeeded"


async def test_who_waits_is_told_that_homed_stops(place: Place) -> None:
    place.backups.go_on.clear()
    waiting = asyncio.create_task(place.call("POST"))
    while not place.backups.waited:
        await asyncio.sleep(0.01)
    place.stopping.set()
    status, body = await waiting
    assert (status, body["error"]["code"]) == (503, "STOPPING")
    assert body["error"]["details"]["operation_id"] == "op1"


async def test_each_act_needs_its_scope(exposed: Place) -> None:
    exposed.backups.archive(b"archive")
    keys = {scope: (await exposed.server.keys.create(str(scope), scope)).text for scope in Scope}
    needed = {
        Scope.READ: [("GET", ""), ("GET", f"/{FULL}"), ("GET", "/operations"), ("GET", "/schedules")],
        Scope.OPERATE: [
            ("POST", ""), ("POST", "/prune"), ("POST", f"/{FULL}/verify"), ("POST", "/schedules/nightly/run"),
        ],
        Scope.ADMIN: [
            ("GET", f"/{FULL}/download"), ("PUT", "/new-20240115-100000.tar.gz"), ("POST", f"/{FULL}/restore"),
        ],
    }  # fmt: skip
    order = list(needed)
    for scope, calls in needed.items():
        for method, path in calls:
            async with exposed.server.request(method, f"{PATH}{path}") as answer:
                assert answer.status == 401, path
            for held, key in keys.items():
                enough = order.index(held) >= order.index(scope)
                async with exposed.server.request(method, f"{PATH}{path}", headers={"X-API-Key": key}) as answer:
                    assert (answer.status != 403) == enough, (method, path, held)


async def test_changes_are_limited_and_looking_is_not(place: Place) -> None:
    place.server.set_config(config(limits=Limits()))
    for _ in range(10):
        assert (await place.call("POST"))[0] == 201
    assert await place.refused("POST") == (429, "RATE_LIMIT_EXCEEDED")
    assert (await place.call("GET", "/operations/op1"))[0] == 200


@pytest.mark.parametrize("body", [{"passphrase": PASSPHRASE}, {"identity": IDENTITY}])
async def test_secrets_stand_in_no_log_account_answer_or_error(
    place: Place, caplog: pytest.LogCaptureFixture, body: dict[str, str]
) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    headers = {f"X-Backup-{name}": value for name, value in body.items()}
    for failure in (None, Failure("BACKUP_KEY_WRONG", "it does not open it")):
        place.backups.failure = failure
        for path in (f"/{SEALED}/restore", f"/{SEALED}/verify", f"/{SNAPSHOT}/restore"):
            said.append(await place.call("POST", path, json=body))
        for wrong in ({**body, "other": 1}, {**body, "passphrase": [PASSPHRASE]}, {"identity": {IDENTITY: PASSPHRASE}}):
            said.append(await place.call("POST", f"/{SEALED}/restore", json=wrong))
        said.append(await place.call("PUT", "/new-20240115-100000.age.tar", data=b"x", headers=headers))
        said.append(await place.call("PUT", f"/{SEALED}", data=b"x", headers=headers))
    broken = json.dumps(body).encode()[:-1]
    said.append(
        await place.call("POST", f"/{SEALED}/verify", data=broken, headers={"Content-Type": "application/json"})
    )
    said.append(await place.call("GET", "/operations"))
    written = [repr(record.__dict__) for record in caplog.records]
    written += [repr(entry) for entry in await place.server.store.entries(100, None)]
    assert len(written) > 20
    for secret in (PASSPHRASE, IDENTITY):
        assert not [text for text in written if secret in text]
        assert secret not in json.dumps(said)
