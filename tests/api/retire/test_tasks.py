"""`/api/v1/tasks` over HTTP: every field of the documented examples, all six types, filters, and what is refused."""

import re
from typing import Any

import pytest

from homed.api.retire.answers import priorities, priority
from tests.support.api import Answer, Api
from tests.support.wait import until

TASKS = "/api/v1/tasks"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_TERMINAL = ("success", "failed", "cancelled", "timeout")


def good(answer: Answer, status: int = 200) -> Any:
    """The data of an answer in the family's envelope."""
    assert answer.status == status, answer
    body = answer.json
    assert body["status"] == "success"
    assert body["request_id"] == answer.headers["x-request-id"]
    assert _TIME.fullmatch(body["timestamp"])
    assert body.keys() <= {"status", "data", "message", "timestamp", "request_id", "pagination"}
    return body["data"]


def refused(answer: Answer, status: int, code: str) -> Any:
    """The details of an error in the family's shape."""
    assert answer.status == status, answer
    body = answer.json
    assert body.keys() == {"status", "message", "error_code", "error_details", "timestamp", "request_id"}
    assert (body["status"], body["error_code"]) == ("error", code)
    assert body["message"] and _TIME.fullmatch(body["timestamp"])
    assert body["request_id"] == answer.headers["x-request-id"]
    return body["error_details"]


def submit(api: Api, task_type: str, payload: Any, **more: Any) -> str:
    data = good(api.post(TASKS, {"task_type": task_type, "payload": payload, **more}), 201)
    assert data["task"]["task_id"] == data["task_id"]
    return str(data["task_id"])


def status(api: Api, id: str) -> Any:
    return good(api.get(f"{TASKS}/{id}/status"))


def ended(api: Api, id: str) -> Any:
    """The result when it has ended."""
    until(f"task {id} to end", lambda: status(api, id)["is_terminal"], 60, every=0.02)
    return good(api.get(f"{TASKS}/{id}/result"))


def test_a_task_is_submitted_and_answered_as_documented(api: Api) -> None:
    body = {
        "task_type": "echo",
        "payload": {"message": "Hello World"},
        "priority": "normal",
        "requirements": {
            "min_cpu_cores": 1,
            "min_memory_gb": 0.1,
            "required_platform": "linux",
            "timeout_seconds": 300,
        },
        "metadata": {"created_by": "api_user"},
    }
    answer = api.post(TASKS, body)
    data = good(answer, 201)
    assert data["message"] == answer.json["message"]
    task = data["task"]
    assert data["submitted_at"] == task["created_at"] and task["assigned_device_id"] is None
    assert (task["task_type"], task["status"], task["priority"]) == ("echo", "queued", "normal")
    assert _TIME.fullmatch(task["created_at"])
    result = ended(api, data["task_id"])
    assert result["task_id"] == data["task_id"]
    assert (result["status"], result["result_data"]) == ("success", {"echo": {"message": "Hello World"}})
    assert result["execution_time_seconds"] >= 0
    assert result["worker_device_id"]
    assert _TIME.fullmatch(result["started_at"]) and _TIME.fullmatch(result["completed_at"])
    details = good(api.get(f"{TASKS}/{data['task_id']}"))
    assert (details["payload"], details["metadata"]) == (body["payload"], body["metadata"])
    assert details["requirements"] == {
        "min_cpu_cores": 1, "min_memory_gb": 0.1, "min_storage_gb": 0, "required_platform": "linux",
        "required_role": None, "required_tags": [], "gpu_required": False, "internet_required": False,
        "timeout_seconds": 300, "max_retries": 0,
    }  # fmt: skip
    assert details["result"] == result
    assert details["assigned_device_id"] == result["worker_device_id"]
    assert details["assigned_at"] == result["started_at"]
    found = status(api, data["task_id"])
    assert (found["assigned_device_id"], found["assigned_at"]) == (result["worker_device_id"], result["started_at"])
    assert (found["execution_time_seconds"], found["can_retry"]) == (result["execution_time_seconds"], False)
    assert (details["progress"], details["placement"], details["is_terminal"]) == (100, {}, True)
    assert status(api, data["task_id"])["progress"] == 100


def test_a_task_needs_no_more_than_its_type_and_payload(api: Api) -> None:
    details = good(api.get(f"{TASKS}/{submit(api, 'echo', {})}"))
    assert (details["priority"], details["metadata"], details["requirements"]["max_retries"]) == ("normal", {}, 0)


def test_sleep_sleeps_and_tells_how_far_it_is(api: Api) -> None:
    id = submit(api, "sleep", {"duration": 1.5})
    until("it to be on its way", lambda: 0 < status(api, id)["progress"] <= 100, every=0.02)
    assert ended(api, id)["status"] == "success"


def test_system_info_tells_of_the_board(api: Api) -> None:
    result = ended(api, submit(api, "system_info", {}))
    assert result["status"] == "success"
    assert result["result_data"]


def test_python_eval_evaluates(api: Api) -> None:
    result = ended(api, submit(api, "python_eval", {"expression": "sum(x * x for x in range(10))"}))
    assert (result["status"], result["result_data"]) == (
        "success", {"result": 285, "expression": "sum(x * x for x in range(10))"},
    )  # fmt: skip


def test_a_command_answers_what_it_printed(api: Api) -> None:
    result = ended(api, submit(api, "command", {"command": "echo out; echo err >&2; exit 3"}))
    assert (result["status"], result["error_code"]) == ("failed", "EXIT")
    assert result["error_message"]
    assert {"exit_code": 3, "stdout": "out\n", "stderr": "err\n"}.items() <= result["result_data"].items()


def test_a_request_to_this_board_itself_is_refused(api: Api) -> None:
    result = ended(api, submit(api, "http_request", {"url": f"{api.url}/health"}))
    assert (result["status"], result["error_code"]) == ("failed", "ADDRESS_NOT_ALLOWED")


def test_a_task_that_takes_too_long_has_timed_out(api: Api) -> None:
    result = ended(api, submit(api, "sleep", {"duration": 600}, requirements={"timeout_seconds": 0.3}))
    assert (result["status"], result["error_code"], result["result_data"]) == ("timeout", "TIMEOUT", None)
    assert status(api, result["task_id"])["can_retry"] is True


def test_what_no_node_can_take_waits_and_says_each_reason(api: Api) -> None:
    id = submit(api, "echo", {}, requirements={"min_cpu_cores": 9999, "required_platform": "windows"})
    found = status(api, id)
    assert (found["status"], found["is_terminal"], found["worker_device_id"]) == ("queued", False, None)
    assert len(found["placement"]) == 1
    assert all(found["placement"].values())
    assert good(api.get(f"{TASKS}/{id}"))["placement"] == found["placement"]
    details = refused(api.get(f"{TASKS}/{id}/result"), 404, "NO_TASK_RESULT")
    assert details == {"status": "queued"}
    cancelled = api.post(f"{TASKS}/{id}/cancel")
    assert good(cancelled)["status"] == "cancelled" and cancelled.json["message"]
    refused(api.post(f"{TASKS}/{id}/cancel"), 400, "CANNOT_CANCEL_TASK")


def test_a_running_task_is_cancelled_and_tried_again(api: Api) -> None:
    id = submit(api, "command", {"command": "sleep 600"})
    until("it to run", lambda: status(api, id)["status"] == "running")
    refused(api.post(f"{TASKS}/{id}/retry"), 400, "CANNOT_RETRY_TASK")
    assert good(api.post(f"{TASKS}/{id}/cancel"))["status"] == "cancelled"
    assert status(api, id)["is_terminal"]
    again = api.post(f"{TASKS}/{id}/retry")
    assert good(again)["task_id"] == id and again.json["message"]
    until("it to run again", lambda: status(api, id)["status"] == "running")
    assert good(api.post(f"{TASKS}/{id}/cancel"))["status"] == "cancelled"


def test_what_succeeded_is_not_tried_again(api: Api) -> None:
    id = submit(api, "echo", {})
    ended(api, id)
    refused(api.post(f"{TASKS}/{id}/retry"), 400, "CANNOT_RETRY_TASK")


def test_a_failing_task_is_tried_as_often_as_it_may(api: Api) -> None:
    id = submit(api, "command", {"command": "exit 1"}, requirements={"max_retries": 1})
    assert ended(api, id)["status"] == "failed"
    assert status(api, id)["retry_count"] == 1


def test_tasks_are_listed_with_filters_and_pages(api: Api) -> None:
    made = [submit(api, "python_eval", {"expression": str(i)}, priority="low") for i in range(3)]
    for id in made:
        ended(api, id)
    answer = api.get(f"{TASKS}?task_type=python_eval&priority=low&status=success&page_size=2")
    assert [one["task_id"] for one in good(answer)] == made[:0:-1]
    assert answer.json["pagination"] == {
        "page": 1, "page_size": 2, "total_items": 3, "total_pages": 2, "has_next": True, "has_previous": False,
    }  # fmt: skip
    last = api.get(f"{TASKS}?task_type=python_eval&priority=low&page_size=2&page=2")
    assert [one["task_id"] for one in good(last)] == made[:1]
    assert (last.json["pagination"]["has_next"], last.json["pagination"]["has_previous"]) == (False, True)
    device = status(api, made[0])["worker_device_id"]
    assert len(good(api.get(f"{TASKS}?device_id={device}&priority=low"))) == 3
    empty = api.get(f"{TASKS}?device_id=nobody")
    assert good(empty) == [] and b'"data":[]' in empty.body
    assert good(api.get(f"{TASKS}?priority=urgent")) == []
    assert api.get(f"{TASKS}?page_size=5000&status=&task_type=").json["pagination"]["page_size"] == 100


@pytest.mark.parametrize("query", ["page=0", "page_size=x", "status=lost", "priority=5", "page=-1", "page="])
def test_a_wrong_filter_is_named(api: Api, query: str) -> None:
    details = refused(api.get(f"{TASKS}?{query}"), 400, "VALIDATION_ERROR")
    assert details["field"] == query.partition("=")[0] and details["reason"]


def test_statistics_count_by_status_and_priority(api: Api) -> None:
    before = good(api.get(f"{TASKS}/statistics"))["queue_stats"]
    ended(api, submit(api, "echo", {}, priority="urgent"))
    data = good(api.get(f"{TASKS}/statistics"))
    after = data["queue_stats"]
    assert after["total_tasks"] == before["total_tasks"] + 1
    assert after["by_status"].keys() == {"pending", "queued", "assigned", "running", *_TERMINAL}
    assert after["by_status"]["success"] == before["by_status"]["success"] + 1
    assert after["by_priority"].keys() == {"low", "normal", "high", "urgent"}
    assert after["by_priority"]["urgent"] == before["by_priority"]["urgent"] + 1
    assert data["performance"]["completed_last_hour"] >= 1
    assert data["performance"]["average_execution_seconds"] >= 0
    assert data["performance_metrics"] == data["performance"]
    load = data["current_load"]
    assert (load["running_tasks"], load["waiting_tasks"], load["online_devices"]) == (0, 0, 1) and load["capacity"] > 0


def test_the_types_are_listed_with_what_each_takes(api: Api) -> None:
    data = good(api.get(f"{TASKS}/types"))
    names = ["echo", "sleep", "system_info", "http_request", "command", "python_eval"]
    assert sorted(data["supported_types"]) == sorted(names)
    assert (data["builtin_types"], data["total_count"]) == (data["supported_types"], 6)
    assert data["online_devices"] == 1
    sleep = next(one for one in data["types"] if one["name"] == "sleep")
    assert sleep["description"]
    assert [(field["name"], field["required"]) for field in sleep["payload"]] == [("duration", True)]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"payload": {}}, "task_type"),
        ({"task_type": "no_such", "payload": {}}, "task_type"),
        ({"task_type": "echo", "payload": []}, "payload"),
        ({"task_type": "echo", "payload": None}, "payload"),
        ({"task_type": "sleep", "payload": {}}, "payload.duration"),
        ({"task_type": "sleep", "payload": {"duration": "long"}}, "payload.duration"),
        ({"task_type": "sleep", "payload": {"duration": -1}}, "payload.duration"),
        ({"task_type": "command", "payload": {"command": "a\0"}}, "payload.command"),
        ({"task_type": "python_eval", "payload": {"expression": ""}}, "payload.expression"),
        ({"task_type": "http_request", "payload": {"url": "file:///etc/passwd"}}, "payload.url"),
        ({"task_type": "echo", "payload": {}, "priority": "most"}, "priority"),
        ({"task_type": "echo", "payload": {}, "priority": 5}, "priority"),
        ({"task_type": "echo", "payload": {}, "requirements": {"timeout_seconds": 0}}, "requirements.timeout_seconds"),
        ({"task_type": "echo", "payload": {}, "requirements": {"max_retries": 101}}, "requirements.max_retries"),
        ({"task_type": "echo", "payload": {}, "requirements": {"required_tags": "a"}}, "requirements.required_tags"),
        ({"task_type": "echo", "payload": {}, "requirements": {"min_cpu_cores": -1}}, "requirements.min_cpu_cores"),
        ({"task_type": "echo", "payload": {}, "metadata": "x"}, "metadata"),
    ],
)
def test_what_cannot_be_meant_is_named(api: Api, body: Any, field: str) -> None:
    details = refused(api.post(TASKS, body), 400, "VALIDATION_ERROR")
    assert (details["field"], bool(details["reason"])) == (field, True)
    assert details["errors"][0]["field"] == field


@pytest.mark.parametrize("where", ["payload", "metadata"])
def test_what_is_nested_too_deep_is_refused(api: Api, where: str) -> None:
    def nested(depth: int) -> Any:
        return {"a": nested(depth - 1)} if depth else 1

    for depth in (65, 300, 900):
        body = {"task_type": "echo", "payload": {}, where: nested(depth)}
        assert refused(api.post(TASKS, body), 400, "VALIDATION_ERROR")["field"] in (where, "")
    id = submit(api, "echo", nested(50))
    assert ended(api, id)["result_data"] == {"echo": nested(50)}


def test_numbers_of_any_size_are_echoed_or_refused(api: Api) -> None:
    for number in (2**63, 2**64, -(2**63), 10**40, 1.5e300, 0.1):
        answer = api.post(TASKS, {"task_type": "echo", "payload": {"number": number}})
        if answer.status == 201:
            assert ended(api, answer.json["data"]["task_id"])["result_data"]["echo"]["number"] == number
        else:
            refused(answer, 400, "VALIDATION_ERROR")
    for text in (b"1e999", b"9" * 5000, b"NaN"):
        data = b'{"task_type":"echo","payload":{"a":' + text + b"}}"
        refused(api.post(TASKS, data=data, headers={"Content-Type": "application/json"}), 400, "VALIDATION_ERROR")


@pytest.mark.parametrize("path", ["", "/status", "/result"])
def test_a_task_that_is_not_there_is_404(api: Api, path: str) -> None:
    for id in ("550e8400-e29b-41d4-a716-446655440000", "%00", "%ff", "a" * 3000):
        answer = api.get(f"{TASKS}/{id}{path}")
        refused(answer, 404, "TASK_NOT_FOUND")
        assert answer.json["message"] == "Task not found"
    for verb in ("cancel", "retry"):
        refused(api.post(f"{TASKS}/no-such/{verb}"), 404, "TASK_NOT_FOUND")


def test_a_job_of_another_api_is_no_task(api: Api) -> None:
    made = api.post("/api/v1/jobs", {"command": "true", "server_id": "local"}).json
    refused(api.get(f"{TASKS}/{made['id']}"), 404, "TASK_NOT_FOUND")
    refused(api.post(f"{TASKS}/{made['id']}/cancel"), 404, "TASK_NOT_FOUND")
    assert made["id"] not in [one["task_id"] for one in good(api.get(f"{TASKS}?page_size=100"))]


def test_the_same_task_with_one_key_is_one(api: Api) -> None:
    body = {"task_type": "echo", "payload": {"a": 1}}
    made = [good(api.post(TASKS, body, headers={"Idempotency-Key": "k"}), 201)["task_id"] for _ in range(2)]
    assert made[0] == made[1]
    refused(api.post(TASKS, {**body, "payload": {}}, headers={"Idempotency-Key": "k"}), 409, "KEY_REUSED")


def test_every_priority_has_a_name_and_every_name_its_priorities() -> None:
    assert [priority(value) for value in range(1, 11)] == ["low"] * 4 + ["normal"] * 3 + ["high"] * 2 + ["urgent"]
    for name in ("low", "normal", "high", "urgent"):
        first, last = priorities(name)
        assert all(priority(value) == name for value in range(first, last + 1))
