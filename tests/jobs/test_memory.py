"""A homed with megabytes in each of many jobs: how much memory it takes to start, to list, to run and to cancel."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.homed import Homed
from tests.support.stored_jobs import MEGABYTE, fill, peak
from tests.support.wait import until

LIMIT = 128 << 20
# What many large jobs may add to the peak of a homed that has none.
ADDED = 24 << 20
ROOM = 24 << 30
_ALL: Mapping[str, Mapping[str, Any]] = {
    "log": {"level": "info"},
    "jobs": {"queue": 100_000, "queue_bytes": 1 << 40},
    "jobs.keep": {"count": 1_000_000, "size": 1 << 40},
}
LISTS = (
    "/api/v1/tasks?page_size=100",
    "/api/v1/jobs?limit=100",
    "/api/v1/jobs?search=xxx&limit=100",
    "/api/jobs/create?limit=10000",
    "/api/v1/tasks/statistics",
)


def homed(folder: Path, tables: Mapping[str, Mapping[str, Any]] = _ALL) -> Homed:
    return Homed(folder, "unix:///run/no-engine-is-needed.sock", tables)


def started(one: Homed) -> Homed:
    """Much is read at the start where much was written."""
    one.launch()
    until("homed to answer", lambda: not one.runs or one.api.is_live(), deadline=900, every=0.05)
    assert one.runs, one.log[-3000:]
    return one


def lists(one: Homed) -> None:
    for path in LISTS:
        answer = one.api.get(path)
        assert answer.status == 200, answer
        assert len(answer.body) < 8 << 20


def task_states(one: Homed) -> Mapping[str, int]:
    found: Mapping[str, int] = one.api.get("/api/v1/tasks/statistics").json["data"]["queue_stats"]["by_status"]
    return found


def cancel_all(one: Homed, count: int) -> None:
    """All of those that wait; the ids are those that `fill` gives."""
    for number in range(count):
        if number % 7 in (3, 4):
            assert one.api.post(f"/api/v1/tasks/job-{number:06}/cancel").status in (200, 400)


@pytest.mark.thorough
def test_jobs_of_a_megabyte_are_not_held_in_memory(tmp_path: Path) -> None:
    with homed(tmp_path / "empty") as empty:
        lists(empty)
        idle = peak(empty.pid)
    (tmp_path / "full" / "state").mkdir(parents=True)
    count = 28
    fill(tmp_path / "full" / "state", count, runnable=False)
    full = started(homed(tmp_path / "full"))
    try:
        at_start = peak(full.pid)
        lists(full)
        cancel_all(full, count)
        assert task_states(full)["cancelled"] == 8
        shown = full.api.get("/api/v1/tasks/job-000001").json["data"]
        assert len(shown["result"]["result_data"]["echo"]) == MEGABYTE // 14
        print(f"idle {idle >> 20}, at the start {at_start >> 20}, then {peak(full.pid) >> 20} MiB")
        assert at_start - idle < ADDED
        assert peak(full.pid) - idle < 2 * ADDED
    finally:
        full.stop()


@pytest.mark.thorough
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [1000, 10_000])
def test_many_jobs_of_a_megabyte_start_run_and_end_within_a_bound(tmp_path: Path, count: int) -> None:
    if count > 1000 and shutil.disk_usage(tmp_path).free < ROOM:
        pytest.skip(f"there are no {ROOM >> 30} GiB free on the disk")
    state = tmp_path / "state"
    state.mkdir()
    began = time.monotonic()
    fill(state, count, runnable=True)
    filled = time.monotonic() - began
    began = time.monotonic()
    one = started(homed(tmp_path))
    try:
        took, at_start = time.monotonic() - began, peak(one.pid)
        print(f"{count} jobs: written in {filled:.0f} s, started in {took:.1f} s, {at_start >> 20} MiB")
        assert at_start < LIMIT
        lists(one)
        until("all that can to have run", lambda: _waits(one) == len(range(3, count, 7)), deadline=3000, every=1)
        lists(one)
        print(f"all run: {peak(one.pid) >> 20} MiB")
        cancel_all(one, count)
        assert task_states(one)["queued"] == 0
        print(f"cancelled: {peak(one.pid) >> 20} MiB")
        assert peak(one.pid) < LIMIT
        # Now far less is to be kept, and the disk is to have the rest back.
        one.stop()
        one.tables["jobs.keep"]["size"] = 20 * MEGABYTE
        one.write_config()
        started(one)
        until("the database to shrink", lambda: _size(state) < 100 << 20, deadline=3000, every=1)
        assert peak(one.pid) < LIMIT
    finally:
        one.stop()
        shutil.rmtree(state)


def _waits(one: Homed) -> int:
    """Tasks that wait, when nothing runs any more; -1 before."""
    states = task_states(one)
    jobs = one.api.get("/api/v1/jobs?limit=1&status=queued").json["pagination"]["total"]
    jobs += one.api.get("/api/v1/jobs?limit=1&status=running").json["pagination"]["total"]
    if jobs or states["running"] or states["assigned"]:
        return -1
    return states["queued"]


def _size(state: Path) -> int:
    return sum((state / name).stat().st_size for name in ("homed.db", "homed.db-wal") if (state / name).exists())


def test_what_waits_is_refused_with_the_time_to_come_again(tmp_path: Path) -> None:
    """S16: commands of a megabyte that wait for ever; and large ones that are allowed, up to the quota."""
    with homed(tmp_path, {"jobs": {"queue_bytes": 1 << 20}}) as one:
        long = {"command": "x" * 900_000, "fileUrl": "https://a.example/a.zip", "filename": "a.zip"}
        answer = one.api.post("/api/jobs/create", long)
        assert answer.status == 400
        assert b"131071 bytes" in answer.body
        body = {"task_type": "echo", "payload": {"a": "x" * 400_000}, "requirements": {"required_role": "nobody"}}
        answers = [one.api.post("/api/v1/tasks", body) for _ in range(3)]
        assert [answer.status for answer in answers] == [201, 201, 507]
        assert (answers[2].code, answers[2].headers["retry-after"]) == ("QUEUE_SPACE", "10")
        assert one.api.post("/api/v1/jobs", {"command": "true", "server_id": "local"}).status == 201
