"""The order of jobs, against a model that knows only what was promised."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from homed.jobs.queue import Queue, lane, rank
from homed.jobs.records import PRIORITIES, Command, Job, Origin, Requirements

AT = datetime(2026, 1, 2, tzinfo=UTC)
AGEING = 120.0


def job(id: str, *, priority: int = 5, at: datetime = AT, **more: Any) -> Job:
    return Job(
        id=id, origin=Origin.NEWREMORA, work=Command("true"), priority=priority, created_at=AT, updated_at=AT,
        queued_at=at, **more,
    )  # fmt: skip


def drain(queue: Queue) -> list[str]:
    taken = []
    while lanes := queue.lanes():
        first = queue.first(lanes[0])
        assert first is not None
        queue.remove(first)
        taken.append(first)
    return taken


def test_what_is_more_urgent_goes_first_and_what_came_first_among_equals() -> None:
    queue = Queue()
    for name, priority in (("a", "low"), ("b", "normal"), ("c", "urgent"), ("d", "high"), ("e", "normal")):
        queue.add(job(name, priority=PRIORITIES[priority]), AGEING)
    assert drain(queue) == ["c", "d", "b", "e", "a"]


def test_low_is_not_starved_by_a_stream_of_urgent_jobs() -> None:
    """It has waited long enough when nothing that comes now can be ahead of it any more."""
    waiting = job("low", priority=PRIORITIES["low"])
    steps = PRIORITIES["urgent"] - PRIORITIES["low"]
    later = AT + timedelta(seconds=steps * AGEING + 1)
    assert rank(job("new", priority=PRIORITIES["urgent"], at=later), AGEING) > rank(waiting, AGEING)
    just_before = AT + timedelta(seconds=steps * AGEING - 1)
    assert rank(job("new", priority=PRIORITIES["urgent"], at=just_before), AGEING) < rank(waiting, AGEING)


def test_a_lane_that_cannot_move_holds_up_no_other() -> None:
    queue = Queue()
    stuck = job("stuck", priority=10, requirements=Requirements(gpu_required=True))
    queue.add(stuck, AGEING)
    queue.add(job("free"), AGEING)
    assert [queue.first(one) for one in queue.lanes()] == ["stuck", "free"]
    assert lane(stuck) != lane(job("free"))


class Model(RuleBasedStateMachine):
    """A dictionary with the rank of each; the queue must agree with it after any acts."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue()
        self.waiting: dict[str, tuple[float, int, Job]] = {}
        self.count = 0

    @rule(
        id=st.sampled_from("abcdefgh"),
        priority=st.integers(1, 10),
        seconds=st.integers(0, 2000),
        host=st.sampled_from([None, "h1", "h2"]),
    )
    def add(self, id: str, priority: int, seconds: int, host: str | None) -> None:
        made = job(id, priority=priority, at=AT + timedelta(seconds=seconds), host=host)
        self.queue.add(made, AGEING)
        if id not in self.waiting:
            self.count += 1
            self.waiting[id] = (rank(made, AGEING), self.count, made)

    @rule(id=st.sampled_from("abcdefgh"))
    def remove(self, id: str) -> None:
        self.queue.remove(id)
        self.waiting.pop(id, None)

    @rule()
    def take_first(self) -> None:
        lanes = self.queue.lanes()
        first = self.queue.first(lanes[0]) if lanes else None
        assert first == min(self.waiting, key=lambda id: self.waiting[id][:2], default=None)
        if first is not None:
            self.remove(first)

    @invariant()
    def same_jobs_in_the_same_order(self) -> None:
        assert len(self.queue) == len(self.waiting)
        for one in self.queue.lanes():
            mine = sorted((entry for entry in self.waiting.values() if lane(entry[2]) == one), key=lambda e: e[:2])
            assert [entry[2].id for entry in mine] == list(self.queue.waiting(one))
            assert self.queue.first(one) == mine[0][2].id
        assert {lane(entry[2]) for entry in self.waiting.values()} == set(self.queue.lanes())
        assert all(id in self.queue for id in self.waiting)


TestQueueAgainstItsModel = Model.TestCase
TestQueueAgainstItsModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
