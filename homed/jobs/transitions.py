"""The states of a job: which may follow which, in one place. Every write of a state goes through `advance`."""

from datetime import datetime, timedelta
from typing import Any

import msgspec

from homed.errors import JobConflictError
from homed.jobs.contents import bounded
from homed.jobs.records import ENDED, Job, Result, State

_S = State
TRANSITIONS: dict[State, frozenset[State]] = {
    _S.PENDING: frozenset({_S.QUEUED, _S.CANCELLED, _S.TIMED_OUT, _S.FAILED}),
    _S.QUEUED: frozenset({_S.ASSIGNED, _S.CANCELLED, _S.TIMED_OUT, _S.FAILED}),
    # Back to the queue where the node went away, or never began; ended where it never came to run.
    _S.ASSIGNED: frozenset({_S.RUNNING, _S.QUEUED, _S.PENDING, *ENDED}),
    _S.RUNNING: frozenset({_S.QUEUED, _S.PENDING, *ENDED}),
    # By hand: a retry of what has ended.
    _S.FAILED: frozenset({_S.QUEUED}),
    _S.TIMED_OUT: frozenset({_S.QUEUED}),
    _S.CANCELLED: frozenset({_S.QUEUED}),
    _S.SUCCEEDED: frozenset(),
}
_LONGEST_BACKOFF = 300.0


def advance(job: Job, state: State, at: datetime, **changes: Any) -> Job:
    """The job in its next state, its times kept. JobConflictError where that state may not follow."""
    if state not in TRANSITIONS[job.state]:
        raise JobConflictError(f"the job is {job.state}: it cannot become {state}", details={"state": str(job.state)})
    times: dict[str, Any] = {"updated_at": at}
    match state:
        case State.QUEUED:
            times |= {"queued_at": at, "not_before": None, "node": None, "handle": None, "token": 0}
            if job.state in ENDED:
                times |= {"result": None, "finished_at": None, "started_at": None, "asked_to_end": None, "why": ""}
                times |= {"given_back": job.attempt}
        case State.PENDING:
            times |= {"node": None, "handle": None, "token": 0}
        case State.ASSIGNED:
            times |= {"attempt": job.attempt + 1, "started_at": None, "result": None}
        case State.RUNNING:
            times |= {"started_at": at}
        case _:
            times |= {"finished_at": at, "not_before": None}
    return msgspec.structs.replace(job, state=state, **(times | changes))


def outcome(job: Job, result: Result) -> State:
    """The state in which an attempt's result leaves its job: what was asked for goes before what happened."""
    if job.asked_to_end is not None:
        return job.asked_to_end
    if result.timed_out:
        return State.TIMED_OUT
    return State.SUCCEEDED if result.good else State.FAILED


def retries(job: Job, state: State, at: datetime) -> bool:
    """Whether an attempt that ended so is followed by another: failed or timed out, not asked to end, tries left."""
    wanted = state in (State.FAILED, State.TIMED_OUT) and job.asked_to_end is None
    return wanted and job.tries <= job.max_retries and (job.deadline is None or at < job.deadline)


def given_back(job: Job, at: datetime) -> Job:
    """To the queue again: the node that had it never began, or went away. That is no try."""
    return advance(job, State.QUEUED, at, given_back=job.given_back + 1)


def is_due(job: Job, at: datetime) -> bool:
    """Whether its backoff is over; also where it would last longer than any does: the clock was set back."""
    return job.not_before is None or not timedelta() < job.not_before - at <= timedelta(seconds=_LONGEST_BACKOFF)


def backoff(tries: int, first: float) -> timedelta:
    """How long to wait after this many tries: twice as long each time, five minutes at most."""
    return timedelta(seconds=min(_LONGEST_BACKOFF, first * 2 ** min(30, max(0, tries - 1))))


def concluded(job: Job, result: Result | None, at: datetime, *, size: int, delay: float) -> Job:
    """The job after an attempt of it: ended, or to be tried again after a pause (`delay` seconds for the first); with
    no result it never began, and waits again. `size` is that of its output, in bytes.
    """
    if result is None and job.asked_to_end is None:
        return given_back(job, at)
    result = bounded(result or Result())
    state = outcome(job, result)
    if retries(job, state, at):
        later = at + backoff(job.tries, delay)
        return advance(job, State.PENDING, at, not_before=later, result=_explained(job, state, result), size=size)
    return advance(job, state, at, result=_explained(job, state, result), size=size)


def _explained(job: Job, state: State, result: Result) -> Result:
    """With a code and a sentence, where the attempt gave none."""
    if state is State.SUCCEEDED:
        return result
    if state in (State.CANCELLED, State.TIMED_OUT):
        code = "CANCELLED" if state is State.CANCELLED else "TIMEOUT"
        said = job.why or result.error or ("it was cancelled" if state is State.CANCELLED else "it took too long")
        if job.why and result.code == "JOB_NOT_ENDED":
            said = f"{job.why}; {result.error}"
        return msgspec.structs.replace(result, code=code, error=said)
    if result.code:
        return result
    if result.signal:
        return msgspec.structs.replace(result, code="SIGNAL", error=f"it was ended by {result.signal}")
    return msgspec.structs.replace(result, code="EXIT", error=result.error or f"it ended with {result.exit_code}")
