"""`/api/v1/jobs` over HTTP: every field of the documented examples, filters and pages, and the end of jobs."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.api import Answer, Api
from tests.support.job_api import JOBS, await_running, ended, job, refused, run, submit

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_SHOWN = {
    "id", "command", "args", "status", "server_id", "server", "created_at", "started_at", "finished_at", "exit_code",
    "timeout", "priority", "error", "original_script", "updated_at", "duration",
}  # fmt: skip


_SERVER = {"id", "name", "hostname", "port", "user"}
_SEARCHED = re.compile(r'"(id|status|job_id|server_id)":"([^"]*)"')


def found_once(answer: Answer) -> dict[str, list[str]]:
    """What a shell client's `grep -o '"id":"[^"]*"'` finds in an answer, by the name of the field."""
    found: dict[str, list[str]] = {}
    for name, value in _SEARCHED.findall(answer.body.decode()):
        found.setdefault(name, []).append(value)
    assert len(found.get("id", [])) == len(set(found.get("id", [])))
    return found


def enveloped(body: Any) -> Any:
    """The data, which stands at the top too."""
    assert body["success"] is True
    assert body["error"] is None
    assert _TIME.fullmatch(body["timestamp"])
    assert {name: body[name] for name in body["data"] if name not in ("error", "timestamp")} == {
        name: value for name, value in body["data"].items() if name not in ("error", "timestamp")
    }
    return body["data"]


def test_a_submitted_command_is_answered_as_documented(api: Api) -> None:
    answer = api.post(JOBS, {"command": "ls", "args": "-la /var/log", "server_id": "local", "timeout": 300})
    assert answer.status == 201
    body = answer.json
    expected = {"status": "queued", "command": "ls", "args": "-la /var/log", "server_id": "local", "timeout": 300}
    assert expected.items() <= body.items()
    assert body["id"] and _TIME.fullmatch(body["created_at"])
    data = enveloped(body)
    assert data.keys() == body.keys() - {"success", "data", "timestamp"}
    assert data.keys() >= _SHOWN - {"server"} and "server" not in data
    assert b'"timeout":300,' in answer.body, "a number of seconds without a fraction"
    assert b'": ' not in answer.body.partition(b'"data":')[0], "compact, as scripts search it"
    assert found_once(answer) == {"id": [body["id"]], "status": ["queued"], "server_id": ["local"]}


def test_a_finished_job_has_its_output_times_and_exit_code(api: Api) -> None:
    done = run(api, "printf 'a\\nb\\n'; printf oops >&2; exit 3")
    data = enveloped(done)
    assert data.keys() >= _SHOWN | {"output", "stdout", "stderr"}
    assert (done["status"], done["exit_code"], done["stdout"], done["stderr"]) == ("failed", 3, "a\nb\n", "oops")
    assert sorted(done["output"]) == sorted("a\nb\noops")
    assert data["error"] and data["error_code"] == "EXIT"
    assert not (done["stdout_truncated"] or done["stderr_truncated"] or done["output_truncated"])
    for name in ("created_at", "started_at", "finished_at", "updated_at"):
        assert _TIME.fullmatch(done[name]), name
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    assert done["duration"] >= 0
    assert isinstance(done["duration"], int), "nanoseconds"
    took = datetime.fromisoformat(done["finished_at"]) - datetime.fromisoformat(done["started_at"])
    assert abs(took.total_seconds() * 1e9 - done["duration"]) < 2e6
    assert done["server"].keys() == _SERVER
    assert found_once(api.get(f"{JOBS}/{done['id']}")) == {
        "id": [done["id"]], "status": ["failed"], "server_id": ["local"],
    }  # fmt: skip


def test_what_has_not_ended_by_its_deadline_has_timed_out(api: Api) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
    made = submit(api, "sleep", "60", deadline=soon)
    assert made["deadline"] is not None
    done = ended(api, made["id"])
    assert (done["status"], done["error_code"]) == ("failed", "TIMEOUT")
    assert api.post(JOBS, {"command": "true", "server_id": "local", "deadline": "2026-01-02T03:04:05"}).status == 400


def test_a_command_that_succeeds_is_completed(api: Api) -> None:
    done = run(api, "echo", "'hello world' $((1 + 1))")
    assert (done["status"], done["exit_code"], done["stdout"]) == ("completed", 0, "hello world 2\n")
    assert done["data"]["error"] is None and done["error_code"] is None


def test_the_default_timeout_is_five_minutes_and_the_default_priority_five(api: Api) -> None:
    made = submit(api, "true")
    assert (made["timeout"], made["priority"]) == (300, 5)


def test_a_job_that_takes_too_long_failed_with_124(api: Api) -> None:
    done = run(api, "sleep", "60", timeout=0.3)
    assert (done["status"], done["exit_code"], done["error_code"]) == ("failed", 124, "TIMEOUT")
    assert done["timeout"] == 0.3


def test_a_script_runs_in_the_shell_that_is_asked_for(api: Api) -> None:
    script = "#!/bin/bash\necho 'Starting backup...'\nx=(1 2 3)\necho ${#x[@]}\n"
    answer = api.post(f"{JOBS}/script", {"script": script, "server_id": "local", "timeout": 1800, "shell": "/bin/bash"})
    assert answer.status == 201
    assert (answer.json["original_script"], answer.json["shell"], answer.json["timeout"]) == (script, "/bin/bash", 1800)
    assert ended(api, answer.json["id"])["stdout"] == "Starting backup...\n3\n"
    default = api.post(f"{JOBS}/script", {"script": "echo $BASH", "server_id": "local"}).json
    assert "bash" in ended(api, default["id"])["stdout"]
    python = api.post(f"{JOBS}/script", {"script": "print(6 * 7)", "server_id": "local", "shell": "python3"}).json
    assert ended(api, python["id"])["stdout"] == "42\n"


def test_a_shell_that_is_not_there_is_said(api: Api) -> None:
    made = api.post(f"{JOBS}/script", {"script": "echo", "server_id": "local", "shell": "/bin/no-such-shell"}).json
    done = ended(api, made["id"])
    assert (done["status"], done["error_code"]) == ("failed", "SHELL_NOT_FOUND")
    assert "no-such-shell" in done["data"]["error"]


def test_the_list_is_answered_as_documented_with_filters_search_order_and_pages(api: Api) -> None:
    made = [run(api, "echo", f"listed-{i}")["id"] for i in range(5)]
    failed = run(api, "echo listed-failed; false")["id"]
    body = api.get(f"{JOBS}?search=LISTED-&limit=2&sort_by=created_at&sort_order=asc").json
    enveloped(body)
    assert [one["id"] for one in body["jobs"]] == made[:2]
    assert body["pagination"] == {
        "page": 1, "limit": 2, "total": 6, "total_pages": 3, "has_next": True, "has_prev": False,
    }  # fmt: skip
    for one in body["jobs"]:
        assert one.keys() >= _SHOWN
        assert one["server"].keys() == _SERVER
        assert one["stdout"] == one["output"] == f"listed-{made.index(one['id'])}\n" and one["stderr"] == ""
    answer = api.get(f"{JOBS}?search=listed-&sort_order=asc")
    assert found_once(answer)["id"] == [*made, failed]
    last = api.get(f"{JOBS}?search=listed-&limit=2&page=3&sort_order=asc").json
    assert [one["id"] for one in last["jobs"]] == [made[4], failed]
    assert (last["pagination"]["has_next"], last["pagination"]["has_prev"]) == (False, True)
    newest = api.get(f"{JOBS}?search=listed-").json
    assert [one["id"] for one in newest["jobs"]] == [failed, *reversed(made)]
    only = api.get(f"{JOBS}?search=listed-&status=failed&server_id=local").json
    assert [one["id"] for one in only["jobs"]] == [failed]
    empty = api.get(f"{JOBS}?search=nothing-has-this&status=&server_id=&sort_by=&sort_order=")
    assert empty.json["jobs"] == [] and b'"jobs":[]' in empty.body
    assert empty.json["pagination"]["total"] == 0
    assert api.get(f"{JOBS}?limit=1000").json["pagination"]["limit"] == 100
    assert api.get(f"{JOBS}?page=1000000000").json["jobs"] == []
    assert api.get(f"{JOBS}?server_id=no-such").json["jobs"] == []


@pytest.mark.parametrize("sort", ["created_at", "started_at", "finished_at", "updated_at", "priority"])
def test_each_order_goes_both_ways(api: Api, sort: str) -> None:
    run(api, "true", priority=1)
    run(api, "true", priority=9)
    for order in ("asc", "desc"):
        jobs = api.get(f"{JOBS}?status=completed&sort_by={sort}&sort_order={order}&limit=100").json["jobs"]
        values = [one[sort] for one in jobs]
        assert values == sorted(values, reverse=order == "desc")


@pytest.mark.parametrize(
    "query", ["page=0", "page=x", "limit=0", "limit=-1", "status=lost", "sort_by=id", "sort_order=up", "page=",
              "page=99999999999999999999", "search=" + "a" * 500],
)  # fmt: skip
def test_a_wrong_filter_is_named(api: Api, query: str) -> None:
    body = refused(api.get(f"{JOBS}?{query}"), 400, "VALIDATION_ERROR")
    assert body["details"]["errors"][0]["field"] == query.partition("=")[0]


def test_a_running_job_is_cancelled_and_told_so(api: Api) -> None:
    id = submit(api, "sleep", "600")["id"]
    await_running(api, id)
    answer = api.post(f"{JOBS}/{id}/cancel")
    assert answer.status == 200
    body = answer.json
    enveloped(body)
    assert (body["id"], body["status"]) == (id, "canceled")
    assert _TIME.fullmatch(body["canceled_at"]) and body["message"]
    assert body["job"]["id"] == id and body["job"]["status"] == "canceled"
    assert found_once(answer) == {"id": [id], "status": ["canceled"]}
    assert job(api, id)["canceled_at"] == body["canceled_at"]
    again = refused(api.post(f"{JOBS}/{id}/cancel"), 400, "JOB_ENDED")
    assert "ended" in again["error"]
    assert id in [one["id"] for one in api.get(f"{JOBS}?status=canceled").json["jobs"]]


def test_a_finished_job_cannot_be_cancelled(api: Api) -> None:
    refused(api.post(f"{JOBS}/{run(api, 'true')['id']}/cancel"), 400, "JOB_ENDED")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/logs"), ("GET", "/stdout"), ("GET", "/stderr"), ("POST", "/cancel"), ("POST", "/duplicate"),
     ("GET", "/stream")],
)  # fmt: skip
def test_a_job_that_is_not_there_is_404(api: Api, method: str, path: str) -> None:
    assert refused(api.call(method, f"{JOBS}/no-such-job{path}"), 404, "JOB_NOT_FOUND")["error"] == "Job not found"


def test_the_stream_is_answered_as_documented(api: Api) -> None:
    id = submit(api, "sleep 1; echo 'Starting process...'; exit 2")["id"]
    await_running(api, id)
    answer = api.get(f"{JOBS}/{id}/stream", timeout=60)
    assert answer.status == 200
    assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
    assert (answer.headers["cache-control"], answer.headers["connection"]) == ("no-cache", "keep-alive")
    events = [
        dict(line.split(": ", 1) for line in text.splitlines())
        for text in answer.body.decode().split("\n\n")
        if text and not text.startswith(":")
    ]
    assert [(event["event"], json.loads(event["data"]).get("status")) for event in events] == [
        ("status", "running"), ("output", None), ("status", "failed"), ("complete", "failed"),
    ]  # fmt: skip
    assert len({event["id"] for event in events}) == 4
    running, printed, ended_now, complete = (json.loads(event["data"]) for event in events)
    whole = job(api, id)
    for state in (running, ended_now, complete):
        assert state.keys() >= _SHOWN | {"job_id"} and state["id"] == state["job_id"] == id
        assert (state["server"], state["command"]) == (whole["server"], whole["command"])
    assert "stdout" not in running and "stdout" not in ended_now
    for name in ("output", "stdout", "stderr", "finished_at", "duration", "exit_code"):
        assert complete[name] == whole[name], name
    assert _TIME.fullmatch(running["started_at"])
    assert (printed["type"], printed["content"]) == ("stdout", "Starting process...\n")
    assert complete["exit_code"] == 2 and complete["error"]
    again = api.get(f"{JOBS}/{id}/stream", headers={"Last-Event-ID": events[1]["id"]})
    assert again.body.decode().count("event: ") == 2


def test_a_copy_is_the_same_but_for_what_is_given(api: Api) -> None:
    original = run(api, "echo", "again", timeout=30, priority=7)
    answer = api.post(f"{JOBS}/{original['id']}/duplicate")
    assert answer.status == 201
    body = answer.json
    enveloped(body)
    assert (body["original_job"]["id"], body["original_job"]["command"]) == (original["id"], "echo")
    copy = body["new_job"]
    assert "server" not in copy and "server" not in body["original_job"]
    assert found_once(answer)["id"] == [original["id"], copy["id"]]
    assert copy["id"] != original["id"]
    expected = {"command": "echo", "args": "again", "server_id": "local", "timeout": 30, "priority": 7}
    assert (expected | {"status": "queued", "copied_from": original["id"]}).items() <= copy.items()
    assert ended(api, copy["id"])["stdout"] == "again\n"
    changed = api.post(f"{JOBS}/{original['id']}/duplicate", {"timeout": 600, "args": "other"}).json["new_job"]
    assert (changed["timeout"], changed["args"]) == (600, "other")
    assert ended(api, changed["id"])["stdout"] == "other\n"
    missing = api.post(f"{JOBS}/{original['id']}/duplicate", {"server_id": "no-such"})
    assert refused(missing, 404, "HOST_NOT_FOUND")["error"] == "Server not found"
    refused(api.post(f"{JOBS}/{original['id']}/duplicate", {"script": "echo"}), 400, "VALIDATION_ERROR")


def test_a_copy_of_a_script_may_have_another_text(api: Api) -> None:
    made = api.post(f"{JOBS}/script", {"script": "echo one", "server_id": "local", "shell": "sh"}).json
    copy = api.post(f"{JOBS}/{made['id']}/duplicate", {"script": "echo two"}).json["new_job"]
    assert (copy["original_script"], copy["shell"]) == ("echo two", "sh")
    assert ended(api, copy["id"])["stdout"] == "two\n"


def test_the_same_submission_with_one_key_is_one_job(api: Api) -> None:
    key = {"Idempotency-Key": "backup of Tuesday é"}
    body = {"command": "echo", "server_id": "local"}
    first, second = (api.post(JOBS, body, headers=key) for _ in range(2))
    assert first.json["id"] == second.json["id"]
    other = api.post(JOBS, body, headers={"Idempotency-Key": "another"})
    assert other.json["id"] != first.json["id"]
    refused(api.post(JOBS, {**body, "command": "ls"}, headers={"Idempotency-Key": "another"}), 409, "KEY_REUSED")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("", {"server_id": "local"}, "command"),
        ("", {"command": "ls"}, "server_id"),
        ("", {"command": "", "server_id": "local"}, "command"),
        ("", {"command": "   ", "server_id": "local"}, "command"),
        ("", {"command": "a\0b", "server_id": "local"}, "command"),
        ("", {"command": "a", "args": "\0", "server_id": "local"}, "args"),
        ("", {"command": "a", "args": ["b"], "server_id": "local"}, "args"),
        ("", {"command": "a" * 20_000, "server_id": "local"}, "command"),
        ("", {"command": "a", "server_id": "local", "timeout": 0}, "timeout"),
        ("", {"command": "a", "server_id": "local", "timeout": -1}, "timeout"),
        ("", {"command": "a", "server_id": "local", "timeout": "5"}, "timeout"),
        ("", {"command": "a", "server_id": "local", "timeout": 1e30}, "timeout"),
        ("", {"command": "a", "server_id": "local", "timeout": 1_000_000}, "timeout"),
        ("", {"command": "a", "server_id": "local", "priority": 11}, "priority"),
        ("", {"command": "a", "server_id": "local", "priority": 0}, "priority"),
        ("", {"command": "a", "server_id": "local", "user": "root"}, "user"),
        ("", {"command": "a", "server_id": 5}, "server_id"),
        ("/script", {"server_id": "local"}, "script"),
        ("/script", {"script": "\0", "server_id": "local"}, "script"),
        ("/script", {"script": "a" * 300_000, "server_id": "local"}, "script"),
        ("/script", {"script": "a", "server_id": "local", "shell": ""}, "shell"),
        ("/script", {"script": "a", "server_id": "local", "shell": "a\0"}, "shell"),
    ],
)
def test_what_cannot_be_meant_is_named(api: Api, path: str, body: Any, field: str) -> None:
    answer = refused(api.post(f"{JOBS}{path}", body), 400, "VALIDATION_ERROR")
    assert [one["field"] for one in answer["details"]["errors"]] == [field]


def test_a_server_that_is_not_there_is_404_in_the_documents_words(api: Api) -> None:
    body = refused(api.post(JOBS, {"command": "ls", "server_id": "uuid-here"}), 404, "HOST_NOT_FOUND")
    assert body["error"] == "Server not found"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'"x"', b'{"command":"\\ud800","server_id":"local"}', b"[" * 100_000,
             b'{"command":"a","server_id":"local","timeout":1e999}', b"\xff\xfe"],
)  # fmt: skip
def test_a_body_that_is_none_is_refused(api: Api, data: bytes) -> None:
    for path in ("", "/script"):
        refused(
            api.post(f"{JOBS}{path}", data=data, headers={"Content-Type": "application/json"}), 400, "VALIDATION_ERROR"
        )


def test_another_media_type_is_refused(api: Api) -> None:
    refused(api.post(JOBS, data=b"{}", headers={"Content-Type": "text/plain"}), 415, "UNSUPPORTED_MEDIA_TYPE")


def test_a_path_that_is_none_is_refused_in_the_familys_shape(api: Api) -> None:
    refused(api.get(f"{JOBS}/a/b/c"), 404, "NOT_FOUND")
    refused(api.delete(f"{JOBS}/a"), 405, "METHOD_NOT_ALLOWED")
    for path in ("%00", "%ff", "..%2f..%2fetc%2fpasswd", "a" * 4000):
        refused(api.get(f"{JOBS}/{path}"), 404, "JOB_NOT_FOUND")


def test_no_answer_shows_what_it_must_not(api: Api) -> None:
    text = json.dumps(run(api, "true")["data"])
    for word in ("token", "handle", "submitted_by"):
        assert f'"{word}"' not in text


def test_a_page_of_jobs_that_print_much_stays_small(api: Api) -> None:
    made = [submit(api, "head -c 300000 /dev/zero | tr '\\0' x", "# much") for _ in range(10)]
    for one in made:
        ended(api, one["id"])
    body = api.get(f"{JOBS}?search=much&limit=10").body
    assert b"bytes are not shown here" in body
    assert len(body) < 300_000
