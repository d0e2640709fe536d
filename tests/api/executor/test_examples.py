"""Every call of the executor's documentation over HTTP, its answer field by field."""

import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.executor import board, ended, form, status, zipped
from tests.support.wait import until

WORKER = {"workerId": "worker-abc123", "hostname": "my-pc", "os": "win32", "cpuCount": 4, "version": "1.0.0"}
JOB = {"command": "npm install && npm test", "fileUrl": "/uploads/project-123456.zip", "filename": "project.zip"}
ID = re.compile(r"job-[0-9]{13}-[0-9a-z]+")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with board(tmp_path) as homed:
        yield homed.api


def now() -> float:
    return time.time() * 1000


def register(api: Api, id: str = "worker-abc123") -> None:
    assert api.post("/api/workers/register", WORKER | {"workerId": id}).status == 200


def create(api: Api, **changes: Any) -> str:
    answer = api.post("/api/jobs/create", JOB | changes)
    assert answer.status == 200, answer
    return str(answer.json["jobId"])


def take(api: Api, query: str = "") -> Any:
    return api.get(f"/api/jobs/get-job{query}").json["job"]


def report(api: Api, job: str, worker: str = "worker-abc123", **more: Any) -> Any:
    return api.post("/api/jobs/submit-result", {"jobId": job, "workerId": worker, "exitCode": 0, **more})


def test_a_worker_registers_beats_and_is_listed(api: Api) -> None:
    before = now()
    answer = api.post("/api/workers/register", WORKER)
    assert answer.status == 200
    assert answer.json == {
        "success": True, "workerId": "worker-abc123", "message": "Worker worker-abc123 registered successfully",
    }  # fmt: skip
    beat = api.post("/api/workers/heartbeat", {"workerId": "worker-abc123"})
    assert beat.status == 200 and beat.json.keys() == {"success", "workerId", "timestamp"}
    assert before - 1 <= beat.json["timestamp"] <= now() and isinstance(beat.json["timestamp"], int)
    listed = api.get("/api/workers/register")
    assert listed.json["count"] == 1
    (worker,) = listed.json["workers"]
    assert worker == {
        "workerId": "worker-abc123", "hostname": "my-pc", "os": "win32", "cpuCount": 4, "status": "idle",
        "lastHeartbeat": beat.json["timestamp"], "version": "1.0.0",
    }  # fmt: skip
    assert b'"workers":[{"workerId":"worker-abc123"' in listed.body


def test_only_an_id_and_a_hostname_are_needed(api: Api) -> None:
    assert api.post("/api/workers/register", {"workerId": "w", "hostname": "h"}).status == 200
    (worker,) = api.get("/api/workers/register").json["workers"]
    assert (worker["os"], worker["cpuCount"], worker["version"]) == ("", None, "")


def test_newer_workers_tell_how_busy_they_are(api: Api) -> None:
    register(api)
    api.post(
        "/api/workers/heartbeat", {"workerId": "worker-abc123", "cpuUsage": 12.5, "ramFreeMb": 512, "ramTotalMb": 1024}
    )
    found = api.get("/api/workers/list").json
    assert (found["totalWorkers"], found["idleWorkers"], found["busyWorkers"]) == (1, 1, 0)
    assert found["workers"][0]["cpuUsage"] == 12.5 and found["workers"][0]["ramTotalMb"] == 1024
    assert found["workers"][0]["currentJobId"] is None
    job = create(api)
    assert take(api)["jobId"] == job
    found = api.get("/api/workers/list").json
    assert (found["totalWorkers"], found["idleWorkers"], found["busyWorkers"]) == (1, 0, 1)
    assert found["workers"][0]["currentJobId"] == job


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("POST", "/api/workers/register", {"workerId": "w"}, "workerId and hostname are required"),
        ("POST", "/api/workers/register", {}, "workerId and hostname are required"),
        ("POST", "/api/workers/heartbeat", {}, "workerId is required"),
        ("POST", "/api/jobs/create", {"command": "ls"}, "command, fileUrl, and filename are required"),
        ("POST", "/api/jobs/create", JOB | {"command": ""}, "command, fileUrl, and filename are required"),
        ("GET", "/api/jobs/status", None, "jobId is required"),
        ("POST", "/api/jobs/submit-result", {"jobId": "j"}, "jobId, workerId, and exitCode are required"),
        ("PUT", "/api/jobs/submit-result", {"jobId": "j"}, "jobId and workerId are required"),
        ("POST", "/api/jobs/stream-output", {"jobId": "j"}, "jobId and data are required"),
        ("GET", "/api/jobs/check-cancel", None, "jobId is required"),
        ("POST", "/api/jobs/cancel", {}, "jobId is required"),
        ("DELETE", "/api/execute", {}, "execId is required"),
    ],
)
def test_what_is_missing_is_said_as_documented(api: Api, method: str, path: str, body: Any, said: str) -> None:
    answer = api.call(method, path, body)
    assert answer.status == 400
    assert answer.json == {"error": said, "statusCode": 400}


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("POST", "/api/workers/heartbeat", {"workerId": "nobody"}, "Worker not found"),
        ("GET", "/api/jobs/get-job?workerId=nobody", None, "Worker not found"),
        ("GET", "/api/jobs/status?jobId=none", None, "Job not found"),
        ("POST", "/api/jobs/submit-result", {"jobId": "n", "workerId": "w", "exitCode": 0}, "Job not found"),
        ("PUT", "/api/jobs/submit-result", {"jobId": "n", "workerId": "w"}, "Job not found"),
        ("POST", "/api/jobs/stream-output", {"jobId": "n", "data": "x", "type": "stdout"}, "Job not found"),
        ("GET", "/api/jobs/check-cancel?jobId=none", None, "Job not found"),
        ("POST", "/api/jobs/cancel", {"jobId": "none"}, "Job not found"),
        ("DELETE", "/api/execute", {"execId": "none"}, "Job not found"),
        ("GET", "/uploads/1-none.zip", None, "Upload not found"),
    ],
)
def test_what_is_not_there_is_said_as_documented(api: Api, method: str, path: str, body: Any, said: str) -> None:
    answer = api.call(method, path, body)
    assert answer.status == 404
    assert answer.json == {"error": said, "statusCode": 404}


def test_the_complete_workflow(api: Api) -> None:
    register(api)
    before = now()
    answer = api.post("/api/jobs/create", JOB)
    assert answer.status == 200 and answer.json.keys() == {"success", "jobId", "message"}
    assert answer.json["success"] is True and answer.json["message"] == "Job created successfully"
    job = answer.json["jobId"]
    assert ID.fullmatch(job) and answer.headers["x-job-id"] == job

    pending = status(api, job)
    assert pending == {
        "jobId": job, "status": "pending", "workerId": None, "command": "npm install && npm test",
        "filename": "project.zip", "stdout": "", "stderr": "", "exitCode": None, "errorMessage": None,
        "createdAt": pending["createdAt"], "startedAt": None, "completedAt": None,
    }  # fmt: skip
    assert before - 1 <= pending["createdAt"] <= now() and isinstance(pending["createdAt"], int)

    given = api.get("/api/jobs/get-job")
    assert given.status == 200
    assert given.json == {"success": True, "job": {"jobId": job, **JOB}}
    running = status(api, job)
    assert running["status"] == "running" and running["workerId"] == "worker-abc123"
    assert isinstance(running["startedAt"], int) and running["completedAt"] is None and running["exitCode"] is None
    assert api.get("/api/workers/register").json["workers"][0]["status"] == "busy"

    answer = report(api, job, stdout="added 100 packages...\n✓ All tests passed", stderr="")
    assert answer.status == 200
    assert answer.json == {"success": True, "jobId": job, "message": "Job result submitted successfully"}
    done = status(api, job)
    assert done == running | {
        "status": "completed", "stdout": "added 100 packages...\n✓ All tests passed", "exitCode": 0,
        "completedAt": done["completedAt"],
    }  # fmt: skip
    assert running["startedAt"] <= done["completedAt"]
    assert api.get("/api/workers/register").json["workers"][0]["status"] == "idle"
    # A worker that did not get the answer says it once more.
    assert report(api, job, stdout="added 100 packages...\n✓ All tests passed").status == 200
    assert status(api, job) == done


def test_a_reported_failure_is_failed_and_a_reported_exit_code_is_completed(api: Api) -> None:
    register(api)
    failing, ending = create(api), create(api)
    assert take(api)["jobId"] == failing
    answer = api.put(
        "/api/jobs/submit-result",
        {"jobId": failing, "workerId": "worker-abc123", "errorMessage": "File download failed"},
    )
    assert answer.status == 200
    assert answer.json == {"success": True, "jobId": failing, "message": "Job failure recorded successfully"}
    found = status(api, failing)
    assert (found["status"], found["errorMessage"], found["exitCode"]) == ("failed", "File download failed", None)
    assert take(api)["jobId"] == ending
    assert report(api, ending, exitCode=2, stderr="no").status == 200
    found = status(api, ending)
    assert (found["status"], found["exitCode"], found["stderr"]) == ("completed", 2, "no")
    assert found["errorMessage"] is None


def test_nothing_to_do_is_202(api: Api) -> None:
    answer = api.get("/api/jobs/get-job")
    assert answer.status == 202
    assert answer.json == {"success": False, "message": "No idle workers available", "job": None}
    register(api)
    answer = api.get("/api/jobs/get-job")
    assert (answer.status, answer.json) == (202, {"success": False, "message": "No pending jobs", "job": None})
    answer = api.get("/api/jobs/get-job?workerId=worker-abc123&wait=0")
    assert (answer.status, answer.json["message"]) == (202, "No pending jobs")


def test_all_jobs_are_listed_the_oldest_first(api: Api) -> None:
    assert api.get("/api/jobs/create").body == b'{"jobs":[],"count":0,"total":0,"limit":1000}'
    assert api.get("/api/jobs/create?limit=1000000").json["limit"] == 10_000
    register(api)
    first, second = create(api), create(api, filename="another-project.zip")
    assert take(api)["jobId"] == first
    report(api, first, stdout="done")
    found = api.get("/api/jobs/create").json
    assert (found["count"], found["total"]) == (2, 2)
    assert [one["jobId"] for one in found["jobs"]] == [first, second]
    assert found["jobs"][0] == status(api, first)
    assert found["jobs"][1] == status(api, second)


def test_a_job_is_reported_on_by_its_worker_only(api: Api) -> None:
    register(api, "a")
    register(api, "b")
    job = create(api)
    assert take(api, "?workerId=a")["jobId"] == job
    for answer in (
        report(api, job, "b"),
        report(api, job, "unregistered"),
        api.put("/api/jobs/submit-result", {"jobId": job, "workerId": "b", "errorMessage": "x"}),
        api.post("/api/jobs/stream-output", {"jobId": job, "workerId": "b", "data": "x", "type": "stdout"}),
    ):
        assert answer.status == 403
        assert answer.json == {"error": "Worker is not assigned to this job", "statusCode": 403}
    assert report(api, job, "a").status == 200
    assert report(api, job, "b").status == 403
    waiting = create(api)
    assert report(api, waiting, "a").status == 403
    assert status(api, waiting)["status"] == "pending"


def test_workers_that_name_nobody_work_side_by_side(api: Api) -> None:
    """The original gave each to the first idle worker of its list: five of six failed with 403."""
    for id in ("first", "second"):
        register(api, id)
    jobs = [create(api) for _ in range(6)]
    done = []
    for _ in range(3):
        one, two = take(api), take(api)
        assert take(api) is None  # both are busy now
        # The second reports first.
        done += [report(api, two["jobId"], "second").status, report(api, one["jobId"], "first").status]
    assert done == [200] * 6
    owners = {status(api, job)["workerId"] for job in jobs}
    assert owners == {"first", "second"}


def test_a_worker_that_is_silent_is_offline_and_its_job_waits_again(tmp_path: Path) -> None:
    with board(tmp_path / "short", offline_after=1) as homed:
        api = homed.api
        register(api)
        job = create(api)
        assert take(api)["jobId"] == job
        until("it to be offline", lambda: api.get("/api/workers/register").json["workers"][0]["status"] == "offline")
        until("its job to wait", lambda: status(api, job)["status"] == "pending")
        assert status(api, job)["workerId"] is None
        register(api, "another")
        assert take(api, "?workerId=another")["jobId"] == job
        assert report(api, job).status == 403, "what comes late changes nothing"
        assert report(api, job, "another", stdout="done").status == 200
        assert api.post("/api/workers/heartbeat", {"workerId": "worker-abc123"}).status == 200
        assert api.get("/api/workers/register").json["workers"][0]["status"] == "idle"


def test_output_is_seen_while_it_comes_and_the_end_loses_nothing(api: Api) -> None:
    register(api)
    job = create(api)
    take(api)
    for text, kind in (("one\n", "stdout"), ("oops\n", "stderr"), ("tw", "stdout")):
        answer = api.post("/api/jobs/stream-output", {"jobId": job, "data": text, "type": kind})
        assert answer.status == 200 and answer.json["success"] is True
    assert status(api, job)["stdout"] == "one\ntw"
    assert status(api, job)["stderr"] == "oops\n"
    # The final text goes on from what was streamed; of the other stream nothing is said at the end.
    report(api, job, stdout="one\ntwo\n")
    found = status(api, job)
    assert (found["stdout"], found["stderr"]) == ("one\ntwo\n", "oops\n")
    late = api.post("/api/jobs/stream-output", {"jobId": job, "data": "late", "type": "stdout"})
    assert late.status == 409


def test_a_report_may_hold_all_of_a_long_output(api: Api) -> None:
    register(api)
    job = create(api)
    take(api)
    text = "é" * 300_000 + "end\n"
    assert report(api, job, stdout=text, stderr="\x01" * 600_000).status == 200
    found = status(api, job)
    assert found["stdout"] == text and found["stderr"] == "\x01" * 600_000
    body = {"jobId": job, "workerId": "worker-abc123", "exitCode": 0, "stdout": "x" * (17 << 20)}
    assert api.post("/api/jobs/submit-result", body).status == 413


def test_output_that_is_sent_again_is_taken_once(api: Api) -> None:
    register(api)
    job = create(api)
    take(api, "?workerId=worker-abc123")

    def send(data: str, offset: int) -> Any:
        body = {"jobId": job, "workerId": "worker-abc123", "type": "stdout", "data": data, "offset": offset}
        return api.post("/api/jobs/stream-output", body)

    assert send("añ", 0).json["received"] == 3
    assert send("añ", 0).json["received"] == 3
    assert send("añb", 0).json["received"] == 4
    gap = send("z", 9)
    assert (gap.status, gap.json["received"]) == (409, 4)
    assert status(api, job)["stdout"] == "añb"


def test_a_pending_job_that_is_cancelled_has_failed(api: Api) -> None:
    job = create(api)
    answer = api.post("/api/jobs/cancel", {"jobId": job})
    assert (answer.status, answer.json["success"], answer.json["jobId"]) == (200, True, job)
    found = status(api, job)
    assert (found["status"], found["errorMessage"], found["exitCode"]) == ("failed", "Job cancelled by user", None)
    again = api.post("/api/jobs/cancel", {"jobId": job})
    assert (again.status, again.json["success"], again.json["jobId"]) == (200, True, job)
    assert status(api, job) == found


def test_a_running_job_that_is_cancelled_ends_with_130(api: Api) -> None:
    register(api)
    job = create(api)
    take(api)
    asked = api.get(f"/api/jobs/check-cancel?jobId={job}").json
    assert (asked["cancelled"], asked["cancelRequested"]) == (False, False)
    api.post("/api/jobs/cancel", {"jobId": job})
    asked = api.get(f"/api/jobs/check-cancel?jobId={job}").json
    assert (asked["cancelled"], asked["cancelRequested"]) == (True, True)
    assert status(api, job)["workerId"] == "worker-abc123"
    assert report(api, job, exitCode=137, stdout="so far").status == 200
    found = status(api, job)
    assert (found["status"], found["exitCode"], found["stdout"]) == ("failed", 130, "so far")
    assert (found["errorMessage"], found["workerId"]) == ("Job cancelled by user", "worker-abc123")


def test_a_cancelled_job_whose_worker_is_gone_keeps_its_worker(tmp_path: Path) -> None:
    with board(tmp_path / "short", offline_after=1) as homed:
        register(homed.api)
        job = create(homed.api)
        take(homed.api)
        homed.api.post("/api/jobs/cancel", {"jobId": job})
        found = ended(homed.api, job)
        assert (found["status"], found["workerId"]) == ("failed", "worker-abc123")


def test_what_a_worker_submits_at_the_end_is_the_output_whatever_it_streamed(api: Api) -> None:
    """As agents do it: each piece, then the whole of each command once more, then all of it."""
    register(api)
    job = create(api)
    take(api)
    for text in ("inst", "alled\n", "installed\n", "tested\n", "tested\n"):
        assert api.post("/api/jobs/stream-output", {"jobId": job, "data": text, "type": "stdout"}).status == 200
    api.post("/api/jobs/stream-output", {"jobId": job, "data": "warning\n", "type": "stderr"})
    report(api, job, stdout="installed\ntested\n", stderr="")
    found = status(api, job)
    assert (found["stdout"], found["stderr"]) == ("installed\ntested\n", "warning\n")
    shown = api.get(f"/api/v1/jobs/{job}").json
    assert (shown["stdout"], shown["stderr"]) == ("installed\ntested\n", "warning\n")
    assert shown["output"] == "installed\ntested\nwarning\n"
    assert api.get(f"/api/v1/jobs/{job}/stdout").body == b"installed\ntested\n"
    assert api.get(f"/api/v1/jobs/{job}/logs").json["logs"] == shown["output"]
    events = api.get(f"/api/v1/jobs/{job}/stream").body.decode()
    assert events.count('"content":"inst') == 1, "who follows has read what was streamed"
    assert events.count("event: complete") == 1


def test_a_job_that_takes_too_long_ends_with_124(api: Api) -> None:
    register(api)
    job = create(api, timeout=0.2)
    take(api)
    until("the time-out", lambda: api.get(f"/api/jobs/check-cancel?jobId={job}").json["cancelled"])
    report(api, job, exitCode=143)
    found = status(api, job)
    assert (found["status"], found["exitCode"]) == ("failed", 124)


@pytest.mark.parametrize(
    "url",
    [
        "../etc/passwd",
        "/etc/passwd",
        "/uploads/",
        "/uploads/../x",
        "/uploads/a/b",
        "file:///etc/passwd",
        "http://",
        "x",
    ],
)
def test_only_uploads_and_web_addresses_can_be_named(api: Api, url: str) -> None:
    answer = api.post("/api/jobs/create", JOB | {"fileUrl": url})
    assert answer.status == 400 and answer.json["error"].startswith("fileUrl: must be")


def test_a_key_makes_a_submission_one_job(api: Api) -> None:
    made = [api.post("/api/jobs/create", JOB, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert made[0].json == made[1].json
    assert api.get("/api/jobs/create").json["count"] == 1


def test_a_page_of_another_site_takes_no_job(api: Api) -> None:
    register(api)
    create(api)
    assert api.get("/api/jobs/get-job", headers={"Sec-Fetch-Site": "cross-site"}).status == 403
    assert api.call("HEAD", "/api/jobs/get-job").status == 405
    assert take(api) is not None


def test_the_documented_curl_commands_work(api: Api, tmp_path: Path) -> None:
    """As a person types them: the shell sends `\\n` in a form as two characters."""
    (tmp_path / "project.zip").write_bytes(zipped({"a.txt": "hello\n"}))
    register(api)
    sent = f'curl -sS -X POST {api.url}/api/execute -F "file=@project.zip" -F "commands=cat a.txt\\necho done"'

    def curl(line: str) -> str:
        return subprocess.run(
            shlex.split(line), cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    made = curl(f'{sent} -F "mode=distributed"')
    job = str(re.findall(r'"jobId":"([^"]+)"', made)[0])
    assert take(api)["command"] == "cat a.txt\necho done"
    assert report(api, job).status == 200
    direct = curl(f'{sent} -F "mode=direct"')
    assert direct == (
        f"> cat a.txt\n{'-' * 80}\nhello\n> echo done\n{'-' * 80}\ndone\n\n{'=' * 80}\nExecution completed!\n"
    )  # fmt: skip


def test_distributed_mode_answers_as_documented(api: Api) -> None:
    archive = zipped({"a.txt": "a"})
    # The fields come in any order.
    data, headers = form(("mode", "distributed"), ("commands", "ls"), ("file", archive, "my project (1).zip"))
    answer = api.call("POST", "/api/execute", data=data, headers=headers)
    job = answer.json["jobId"]
    assert answer.status == 200 and answer.headers["x-job-id"] == job
    assert answer.json == {
        "success": True, "jobId": job, "mode": "distributed",
        "message": "Job created. Waiting for idle worker to pick it up.",
        "checkStatusUrl": f"/api/jobs/status?jobId={job}",
    }  # fmt: skip
    assert api.get(answer.json["checkStatusUrl"]).json["status"] == "pending"
    register(api)
    given = take(api)
    assert re.fullmatch(r"/uploads/[0-9]{13}-my_project_1_.zip", given["fileUrl"])
    sent = api.get(given["fileUrl"])
    assert (sent.status, sent.body, sent.headers["content-type"]) == (200, archive, "application/zip")
    part = api.get(given["fileUrl"], headers={"Range": "bytes=4-"})
    assert (part.status, part.body) == (206, archive[4:])
    assert api.get(given["fileUrl"], headers={"If-None-Match": sent.headers["etag"]}).status == 304


def test_direct_mode_shows_what_happens(api: Api) -> None:
    data, headers = form(
        ("file", zipped({"run.sh": "echo out; echo err >&2; exit 3\n"}), "p.zip"), ("commands", "sh run.sh")
    )
    answer = api.call("POST", "/api/execute", data=data, headers=headers)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream"
    job = answer.headers["x-exec-id"]
    text = answer.body.decode()
    assert text == f"> sh run.sh\n{'-' * 80}\nout\nerr\n\n{'=' * 80}\nExecution completed!\n"
    found = ended(api, job)
    assert (found["exitCode"], found["status"]) == (3, "failed")
    assert found["stdout"].endswith("\nout\nerr\n") and found["stderr"] == ""
    assert api.delete("/api/execute", body={"execId": job}).json == {"stopped": False}
