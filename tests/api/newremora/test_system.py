"""What is added to the answers that families share, and the numbers of jobs and servers."""

import pytest

from homed.api.newremora.system import counted
from homed.jobs.records import State
from tests.support.api import Api
from tests.support.job_api import await_running, run, submit


def test_health_tells_of_the_queue_beside_the_other_families_fields(api: Api) -> None:
    body = api.get("/health").json
    assert (body["database"], body["queue"]) == ("connected", "connected")
    assert {"status", "timestamp", "version", "components"} <= body.keys()


def test_the_totals_stand_beside_the_boards_facts(api: Api) -> None:
    before = api.get("/api/v1/system/info").json
    run(api, "true")
    run(api, "false")
    after = api.get("/api/v1/system/info").json
    for name, more in (("total_jobs", 2), ("completed_jobs", 1), ("failed_jobs", 1), ("running_jobs", 0),
                       ("queued_jobs", 0), ("total_servers", 0)):  # fmt: skip
        assert after[name] - before[name] == more, name
    assert 0 < after["success_rate"] < 100
    assert after["timestamp"]
    assert after["hostname"]


def test_the_enhanced_numbers_are_as_documented(api: Api) -> None:
    run(api, "true")
    id = submit(api, "sleep", "600")["id"]
    await_running(api, id)
    body = api.get("/api/v1/system/enhanced").json
    assert body["success"] is True
    assert (body["connected_servers"], body["disconnected_servers"]) == (0, 0)
    assert body["average_job_duration"] >= 0
    assert body["jobs_per_hour"] >= 1
    assert body["worker_status"] == {"active_workers": 1, "total_capacity": 32} == body["data"]["worker_status"]
    assert api.post(f"/api/v1/jobs/{id}/cancel").status == 200


@pytest.mark.parametrize(
    ("by_state", "rate"),
    [({}, 0.0), ({State.RUNNING: 3}, 0.0), ({State.SUCCEEDED: 1200, State.FAILED: 40, State.TIMED_OUT: 7}, 96.2),
     ({State.SUCCEEDED: 1, State.CANCELLED: 5}, 100.0)],
)  # fmt: skip
def test_the_success_rate_is_of_those_that_ended_by_themselves(by_state: dict[State, int], rate: float) -> None:
    assert counted(by_state, 0).success_rate == rate


def test_what_waits_is_queued_and_what_timed_out_has_failed() -> None:
    found = counted(dict(zip(State, (1, 2, 4, 8, 16, 32, 64, 128), strict=True)), 3)
    assert (found.total_jobs, found.queued_jobs, found.running_jobs) == (255, 7, 8)
    assert (found.completed_jobs, found.failed_jobs, found.total_servers) == (16, 32 + 128, 3)
