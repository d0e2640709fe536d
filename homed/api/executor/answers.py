"""What this family's clients send and get, and how a job looks to them. Times are in milliseconds since the epoch."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from homed.jobs.claimants import Status
from homed.jobs.contents import rest
from homed.jobs.output.order import Stream
from homed.jobs.output.output import Output
from homed.jobs.records import Archive, Job, State

CANCELLED_EXIT, TIMED_OUT_EXIT = 130, 124
CANCELLED = "Job cancelled by user"
Id = Annotated[str, Meta(max_length=128)]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_JobId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]{1,48}$(?!\n)", description="up to 48 letters, digits and -")]
Figure = Annotated[float, Meta(ge=0, le=1e12)]


class _Camel(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is None was left out: then the answer says which fields are needed, in the words of this API."""


class Registering(_Camel, frozen=True, kw_only=True):
    worker_id: Id | None = None
    hostname: Id | None = None
    os: Annotated[str, Meta(max_length=64)] | None = None
    cpu_count: Annotated[int, Meta(ge=0, le=65_536)] | None = None
    version: Annotated[str, Meta(max_length=64)] | None = None


class Registered(_Camel, frozen=True, kw_only=True):
    success: bool = True
    worker_id: str
    message: str


class Beating(_Camel, frozen=True, kw_only=True):
    worker_id: Id | None = None
    cpu_usage: Figure | None = None
    ram_free_mb: Figure | None = None
    ram_total_mb: Figure | None = None


class Beaten(_Camel, frozen=True, kw_only=True):
    success: bool = True
    worker_id: str
    timestamp: int


class WorkerShown(_Camel, frozen=True, kw_only=True):
    worker_id: str
    hostname: str
    os: str
    cpu_count: int | None
    status: Status
    last_heartbeat: int
    version: str


class WorkerLine(WorkerShown, frozen=True, kw_only=True):
    current_job_id: str | None
    cpu_usage: float | None
    ram_free_mb: float | None
    ram_total_mb: float | None


class WorkersShown(_Camel, frozen=True, kw_only=True):
    workers: Sequence[WorkerShown]
    count: int


class WorkerList(_Camel, frozen=True, kw_only=True):
    workers: Sequence[WorkerLine]
    count: int
    total_workers: int
    idle_workers: int
    busy_workers: int
    offline_workers: int


class Creating(_Camel, frozen=True, kw_only=True):
    """`timeout` in seconds."""

    command: str | None = None
    file_url: Annotated[str, Meta(max_length=2048)] | None = None
    filename: Annotated[str, Meta(max_length=255)] | None = None
    timeout: Annotated[float, Meta(gt=0)] | None = None


class Answered(_Camel, frozen=True, kw_only=True):
    """What most calls on a job answer."""

    success: bool = True
    job_id: str
    message: str


class Polling(_Camel, frozen=True, kw_only=True):
    """`wait` is how many seconds an idle poll may be held open. `slots` is how many jobs the worker takes at once; with
    it, `holds` names every one that it has: what else it was given never arrived.
    """

    worker_id: Id | None = None
    wait: Annotated[float, Meta(ge=0, le=60)] | None = None
    slots: Annotated[int, Meta(ge=0, le=100)] | None = None
    # All of them fit into the longest address that is taken.
    holds: Annotated[tuple[_JobId, ...], Meta(max_length=100)] = ()


class ToRun(_Camel, frozen=True, kw_only=True):
    job_id: str
    command: str
    file_url: str
    filename: str


class Polled(_Camel, frozen=True, kw_only=True):
    success: bool
    message: str | msgspec.UnsetType = msgspec.UNSET
    job: ToRun | None


class JobQuery(_Camel, frozen=True, kw_only=True):
    job_id: Id | None = None


class CancelQuery(JobQuery, frozen=True, kw_only=True):
    """`worker_id`: who runs it. For another one it is cancelled, too."""

    worker_id: Id | None = None


class ListQuery(_Camel, frozen=True, kw_only=True):
    """Filters of the job list. A `limit` above 10000 is 10000."""

    limit: Annotated[int, Meta(ge=1)] = 1000
    offset: Annotated[int, Meta(ge=0, le=10_000_000)] = 0


class ExecutorJob(_Camel, frozen=True, kw_only=True):
    job_id: str
    status: Literal["pending", "running", "completed", "failed"]
    worker_id: str | None
    command: str
    filename: str
    stdout: str
    stderr: str
    exit_code: int | None
    error_message: str | None
    created_at: int
    started_at: int | None
    completed_at: int | None


class ExecutorJobs(_Camel, frozen=True, kw_only=True):
    """The newest jobs, oldest first; `total` is the number of all jobs, `limit` the maximum number returned."""

    jobs: Sequence[ExecutorJob]
    count: int
    total: int
    limit: int


class Reporting(_Camel, frozen=True, kw_only=True):
    job_id: Id | None = None
    worker_id: Id | None = None
    stdout: str | None = None
    stderr: str | None = None
    exit_code: Annotated[int, Meta(ge=-(1 << 31), le=(1 << 32) - 1)] | msgspec.UnsetType | None = msgspec.UNSET


class Failing(_Camel, frozen=True, kw_only=True):
    job_id: Id | None = None
    worker_id: Id | None = None
    error_message: Annotated[str, Meta(max_length=65_536)] | None = None


class Sending(_Camel, frozen=True, kw_only=True):
    """`offset`: how many bytes of this stream (in UTF-8) went before."""

    job_id: Id | None = None
    worker_id: Id | None = None
    data: str | None = None
    type: Literal["stdout", "stderr"] = "stdout"
    offset: Annotated[int, Meta(ge=0, le=1 << 60)] | None = None


class Sent(_Camel, frozen=True, kw_only=True):
    """`received`: bytes of this stream until now. Where `success` is false, what was sent did not begin there."""

    success: bool
    job_id: str
    received: int


class Checked(_Camel, frozen=True, kw_only=True):
    """A result under both field names, because agents read one or the other."""

    success: bool = True
    job_id: str
    cancelled: bool
    cancel_requested: bool


class Naming(_Camel, frozen=True, kw_only=True):
    job_id: Id | None = None


class ExecuteForm(msgspec.Struct, frozen=True):
    """`commands` are run line by line; `timeout` in seconds."""

    file: Annotated[str, Meta(extra_json_schema={"format": "binary"})]
    commands: str
    mode: Literal["direct", "distributed"] = "direct"
    timeout: float | None = None


class Stopping(_Camel, frozen=True, kw_only=True):
    exec_id: Id | None = None


class Stopped(_Camel, frozen=True, kw_only=True):
    stopped: bool


class Distributed(_Camel, frozen=True, kw_only=True):
    success: bool = True
    job_id: str
    mode: Literal["distributed"] = "distributed"
    message: str
    check_status_url: str


def milliseconds(moment: datetime) -> int:
    """Return the milliseconds since 1970, rounded down so that no time lies in the future."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def status(job: Job) -> Literal["pending", "running", "completed", "failed"]:
    """What a worker reported itself is completed, whatever its exit code."""
    match job.state:
        case State.PENDING | State.QUEUED | State.ASSIGNED:
            return "pending"
        case State.RUNNING:
            return "running"
        case State.SUCCEEDED:
            return "completed"
        case State.FAILED if job.result is not None and job.result.reported:
            return "completed"
        case _:
            return "failed"


def exit_code(job: Job) -> int | None:
    if not job.ended or job.result is None:
        return None
    if job.state is State.TIMED_OUT:
        return TIMED_OUT_EXIT
    if job.state is State.CANCELLED:
        return CANCELLED_EXIT if job.attempt else None
    return job.result.exit_code


def shown(job: Job, worker: str | None, output: Output | None, most: int) -> ExecutorJob:
    """Blocking: the output is read, about `most` bytes of each stream."""
    said, work = status(job), job.work
    assert isinstance(work, Archive)
    error = job.result.error or None if said == "failed" and job.result is not None else None
    return ExecutorJob(
        job_id=job.id,
        status=said,
        worker_id=worker,
        command=work.command + rest(job),
        filename=work.filename,
        stdout=output.excerpt(Stream.STDOUT, most) if output is not None else "",
        stderr=output.excerpt(Stream.STDERR, most) if output is not None else "",
        exit_code=exit_code(job),
        error_message=error,
        created_at=milliseconds(job.created_at),
        started_at=None if job.started_at is None or said == "pending" else milliseconds(job.started_at),
        completed_at=None if job.finished_at is None else milliseconds(job.finished_at),
    )


def in_list(job: Job, worker: str | None, output: Output | None, most: int) -> ExecutorJob:
    """Return the job as `shown` does, with its command and its error each shortened to about `most` characters."""
    whole = shown(job, worker, output, most)
    message = whole.error_message
    return msgspec.structs.replace(
        whole, command=_beginning(whole.command, most), error_message=message and _beginning(message, most)
    )


def _beginning(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\n[{len(text) - most} more]"
