"""The states of a job: the table, and what an attempt's result makes of it."""

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest

from homed.errors import JobConflictError
from homed.jobs import transitions
from homed.jobs.records import ENDED, Command, Job, Origin, Result, State, decode, encode
from homed.jobs.transitions import TRANSITIONS, advance, concluded

AT = datetime(2026, 1, 2, tzinfo=UTC)
LATER = AT + timedelta(seconds=5)


def job(state: State = State.RUNNING, **more: Any) -> Job:
    given: dict[str, Any] = {"attempt": 1, "node": "board", "token": 7, "started_at": AT}
    return Job(
        id="j", origin=Origin.NEWREMORA, work=Command("true"), state=state, created_at=AT, updated_at=AT,
        **(given | more),
    )  # fmt: skip


@pytest.mark.parametrize(("before", "after"), list(product(State, State)))
def test_only_what_the_table_allows_may_follow(before: State, after: State) -> None:
    if after in TRANSITIONS[before]:
        assert advance(job(before), after, LATER).state is after
    else:
        with pytest.raises(JobConflictError):
            advance(job(before), after, LATER)


def test_every_state_has_its_row_and_a_job_that_succeeded_stays_so() -> None:
    assert TRANSITIONS.keys() == set(State)
    assert TRANSITIONS[State.SUCCEEDED] == frozenset()
    assert all(TRANSITIONS[state] <= {State.QUEUED} for state in ENDED)


@pytest.mark.parametrize(
    ("result", "state", "code"),
    [
        (Result(exit_code=0), State.SUCCEEDED, ""),
        (Result(data={"echo": 1}), State.SUCCEEDED, ""),
        (Result(exit_code=3), State.FAILED, "EXIT"),
        (Result(signal="SIGKILL"), State.FAILED, "SIGNAL"),
        (Result(code="SSH_LOST", error="lost"), State.FAILED, "SSH_LOST"),
        (Result(timed_out=True), State.TIMED_OUT, "TIMEOUT"),
    ],
)
def test_a_result_decides_on_the_state(result: Result, state: State, code: str) -> None:
    ended = concluded(job(), result, LATER, size=9, delay=1)
    assert (ended.state, ended.finished_at, ended.size) == (state, LATER, 9)
    assert ended.result is not None
    assert ended.result.code == code
    assert bool(ended.result.error) is bool(code)


@pytest.mark.parametrize("asked", [State.CANCELLED, State.TIMED_OUT])
def test_what_was_asked_for_goes_before_what_happened(asked: State) -> None:
    ended = concluded(job(asked_to_end=asked, max_retries=3), Result(exit_code=0), LATER, size=0, delay=1)
    assert ended.state is asked


def test_a_failed_attempt_is_tried_again_after_a_pause_that_doubles() -> None:
    one = concluded(job(max_retries=2), Result(exit_code=1), LATER, size=0, delay=2)
    assert (one.state, one.not_before, one.node, one.token) == (State.PENDING, LATER + timedelta(seconds=2), None, 0)
    two = advance(advance(advance(one, State.QUEUED, LATER), State.ASSIGNED, LATER), State.RUNNING, LATER)
    again = concluded(two, Result(exit_code=1), LATER, size=0, delay=2)
    assert again.not_before == LATER + timedelta(seconds=4)
    three = advance(advance(advance(again, State.QUEUED, LATER), State.ASSIGNED, LATER), State.RUNNING, LATER)
    assert concluded(three, Result(exit_code=1), LATER, size=0, delay=2).state is State.FAILED


def test_no_pause_is_longer_than_five_minutes() -> None:
    assert transitions.backoff(1000, 2) == timedelta(minutes=5)


@pytest.mark.parametrize(
    ("seconds", "due"), [(None, True), (-1, True), (0, True), (1, False), (300, False), (301, True), (86_400, True)]
)
def test_a_pause_is_over_in_time_and_where_the_clock_was_set_back(seconds: int | None, due: bool) -> None:
    moment = None if seconds is None else AT + timedelta(seconds=seconds)
    assert transitions.is_due(job(State.PENDING, not_before=moment), AT) is due


def test_an_attempt_that_was_given_back_is_no_try() -> None:
    back = concluded(job(max_retries=0), None, LATER, size=0, delay=1)
    assert (back.state, back.tries, back.attempt) == (State.QUEUED, 0, 1)


def test_nothing_is_tried_again_after_the_deadline() -> None:
    ended = concluded(job(max_retries=5, deadline=LATER), Result(exit_code=1), LATER, size=0, delay=1)
    assert ended.state is State.FAILED


def test_a_retry_by_hand_begins_with_all_its_tries() -> None:
    failed = concluded(job(), Result(exit_code=1), LATER, size=0, delay=1)
    again = advance(failed, State.QUEUED, LATER)
    assert (again.tries, again.result, again.finished_at, again.started_at) == (0, None, None, None)


def test_a_record_is_read_as_it_was_written() -> None:
    made = job(metadata={"created_by": "api"}, result=Result(exit_code=0, data={"x": [1]}))
    assert decode(encode(made)) == made


def test_a_job_that_was_to_end_and_runs_on_says_so() -> None:
    result = Result(code="JOB_NOT_ENDED", error="2 of its processes run on at its host")
    ended = concluded(
        job(asked_to_end=State.CANCELLED, why="it was cancelled by an admin"),
        result,
        datetime.now(UTC),
        size=0,
        delay=1,
    )
    assert ended.state is State.CANCELLED
    assert ended.result is not None
    assert ended.result.error == "it was cancelled by an admin; 2 of its processes run on at its host"
