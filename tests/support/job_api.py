"""Jobs over HTTP, as clients of the NewRemora API have them."""

from typing import Any

from tests.support.api import Answer, Api
from tests.support.wait import until

JOBS, SERVERS = "/api/v1/jobs", "/api/v1/servers"
ENDED = ("completed", "failed", "canceled")


def submit(api: Api, command: str, args: str = "", **more: Any) -> Any:
    """The job, as it is shown at first."""
    body = {"command": command, "args": args, "server_id": "local", **more}
    answer = api.post(JOBS, body)
    assert answer.status == 201, answer
    return answer.json


def job(api: Api, id: str) -> Any:
    answer = api.get(f"{JOBS}/{id}")
    assert answer.status == 200, answer
    return answer.json


def ended(api: Api, id: str, deadline: float = 60) -> Any:
    """The job when it has ended."""
    until(f"job {id} to end", lambda: job(api, id)["status"] in ENDED, deadline, every=0.02)
    return job(api, id)


def run(api: Api, command: str, args: str = "", **more: Any) -> Any:
    return ended(api, submit(api, command, args, **more)["id"])


def await_running(api: Api, id: str) -> None:
    until(f"job {id} to run", lambda: job(api, id)["status"] == "running", 60, every=0.02)


def refused(answer: Answer, status: int, code: str) -> Any:
    """An error in the family's shape; its JSON."""
    assert answer.status == status, answer
    body = answer.json
    assert body.keys() - {"jobs"} == {"success", "data", "error", "code", "details", "request_id", "timestamp"}
    assert (body["success"], body["data"], body["code"]) == (False, None, code)
    assert body["error"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return body
