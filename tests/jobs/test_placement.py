"""Where a job may run: decided from values alone."""

from datetime import UTC, datetime
from typing import Any

import pytest

from homed.jobs.placement import Node, need, place
from homed.jobs.records import Archive, Command, Job, Origin, Requirements, Script, Task

AT = datetime(2026, 1, 2, tzinfo=UTC)
ROOM = {"local": 4, "ssh": 10, "builtin": 100}


TRUE = Command("true")


def job(work: Any = TRUE, **more: Any) -> Job:
    return Job(id="j", origin=Origin.RETIRE, work=work, created_at=AT, updated_at=AT, **more)


def node(id: str = "board", **more: Any) -> Node:
    given: dict[str, Any] = {
        "online": True, "platform": "linux", "role": "worker", "cpu_cores": 4, "memory_gb": 4.0, "storage_gb": 32.0,
        "room": ROOM, "tags": frozenset({"shed"}),
    }  # fmt: skip
    return Node(id=id, **(given | more))


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (job(), "local"),
        (job(Script("true")), "local"),
        (job(host="h"), "ssh"),
        (job(Script("true"), host="h"), "ssh"),
        (job(Archive("make", "/uploads/1-a.zip", "a.zip"), metadata={"mode": "distributed"}), "worker"),
        (job(Archive("make", "/uploads/1-a.zip", "a.zip"), metadata={"mode": "direct"}), "local"),
        (job(Task("echo")), "builtin"),
        (job(Task("http_request")), "builtin"),
        (job(Task("command")), "local"),
        (job(Task("python_eval")), "local"),
    ],
)
def test_what_a_job_is_tells_what_a_node_must_be_able_to_do(made: Job, wanted: str) -> None:
    assert need(made) == wanted


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (Requirements(min_cpu_cores=8), "it has 4 cores, and 8 are required"),
        (Requirements(min_memory_gb=4.5), "it has 4 GiB of memory, and 4.5 are required"),
        (Requirements(min_storage_gb=64), "it has 32 GiB of storage, and 64 are required"),
        (Requirements(required_platform="android"), "its platform is linux, and android is required"),
        (Requirements(required_role="storage"), "its role is worker, and storage is required"),
        (Requirements(required_tags=("shed", "dry")), "it lacks the tags dry"),
        (Requirements(gpu_required=True), "it has no GPU"),
    ],
)
def test_a_node_that_lacks_something_says_what(wanted: Requirements, reason: str) -> None:
    placed = place(job(requirements=wanted), [node()])
    assert placed.node is None
    assert placed.refusals == {"board": reason}


def test_a_node_that_has_just_what_is_required_takes_it() -> None:
    wanted = Requirements(
        min_cpu_cores=4, min_memory_gb=4, min_storage_gb=32, required_platform="Linux", required_role="worker",
        required_tags=("shed",), internet_required=True,
    )  # fmt: skip
    assert place(job(requirements=wanted), [node()]).node == "board"


def test_the_node_with_most_room_is_taken_and_ties_go_by_name() -> None:
    nodes = [node("c", room={"local": 2}), node("b", room={"local": 3}), node("a", room={"local": 3})]
    assert place(job(), nodes).node == "a"


def test_every_node_says_why_it_refuses() -> None:
    nodes = [
        node("away", online=False),
        node("full", room={"local": 0}),
        node("agent", room={"worker": 1}),
        node("cut-off", internet=False),
    ]
    assert place(job(requirements=Requirements(internet_required=True)), nodes).refusals == {
        "away": "it is offline",
        "full": "it is busy",
        "agent": "it does not run commands itself",
        "cut-off": "it has no way to the internet",
    }


def test_windows_has_two_names() -> None:
    made = job(requirements=Requirements(required_platform="windows"))
    assert place(made, [node(platform="win32")]).node == "board"
