"""Tasks as this API shows them: its own words for states and priorities."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from homed.jobs.records import PRIORITIES, Job, State, Task
from homed.jobs.tasks.types import TYPES
from homed.jobs.transitions import TRANSITIONS

_STATUSES: Mapping[State, str] = {State.SUCCEEDED: "success", State.TIMED_OUT: "timeout"}


class TaskSubmitted(msgspec.Struct, frozen=True, kw_only=True):
    """A brief task; times that have not occurred are null. `assigned_device_id` equals `worker_device_id`."""

    task_id: str
    task_type: str
    status: str
    priority: str
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    worker_device_id: str | None
    assigned_device_id: str | None
    assigned_at: datetime | None
    retry_count: int
    is_terminal: bool


class Submitted(msgspec.Struct, frozen=True):
    task_id: str
    task: TaskSubmitted
    message: str
    submitted_at: datetime


class RequirementsShown(msgspec.Struct, frozen=True, kw_only=True):
    """Memory and storage in GiB, the time-out in seconds."""

    min_cpu_cores: int
    min_memory_gb: float
    min_storage_gb: float
    required_platform: str | None
    required_role: str | None
    required_tags: Sequence[str]
    gpu_required: bool
    internet_required: bool
    timeout_seconds: int | float | None
    max_retries: int


class ResultShown(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the last attempt. `result_data` is of the type's own shape, and null where there is none."""

    task_id: str
    status: str
    result_data: Any
    error_message: str | None
    error_code: str | None
    execution_time_seconds: float | None
    worker_device_id: str | None
    started_at: datetime | None
    completed_at: datetime | None


class TaskDetails(TaskSubmitted, frozen=True, kw_only=True):
    """`placement` says of each node why the task does not run there yet."""

    payload: Mapping[str, Any]
    requirements: RequirementsShown
    metadata: Mapping[str, Any]
    updated_at: datetime
    queued_at: datetime | None
    progress: float | None
    placement: Mapping[str, str]
    result: ResultShown | None


class StatusShown(msgspec.Struct, frozen=True, kw_only=True):
    """`progress` in percent, where anybody knows."""

    task_id: str
    status: str
    is_terminal: bool
    progress: float | None
    worker_device_id: str | None
    assigned_device_id: str | None
    assigned_at: datetime | None
    execution_time_seconds: float | None
    can_retry: bool
    retry_count: int
    placement: Mapping[str, str]
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime


class QueueStats(msgspec.Struct, frozen=True):
    total_tasks: int
    by_status: Mapping[str, int]
    by_priority: Mapping[str, int]


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """`success_rate` in percent of those that ended by themselves."""

    average_execution_seconds: float
    completed_last_hour: int
    success_rate: float


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The load of this board; `capacity` is the maximum number of concurrent tasks."""

    running_tasks: int
    waiting_tasks: int
    online_devices: int
    capacity: int


class StatisticsShown(msgspec.Struct, frozen=True):
    """Statistics of tasks; `performance_metrics` equals `performance`, under the name that other clients read."""

    queue_stats: QueueStats
    performance: Performance
    performance_metrics: Performance
    current_load: Load


class FieldShown(msgspec.Struct, frozen=True):
    name: str
    type: str
    required: bool
    description: str


class TypeShown(msgspec.Struct, frozen=True):
    """`payload` are the fields that it reads."""

    name: str
    description: str
    payload: Sequence[FieldShown]


class TypesShown(msgspec.Struct, frozen=True):
    """The task types that this board accepts, with a description of each. All are built in."""

    supported_types: Sequence[str]
    builtin_types: Sequence[str]
    total_count: int
    online_devices: int
    types: Sequence[TypeShown]


def status(state: State) -> str:
    return _STATUSES.get(state, str(state))


STATUSES: Mapping[str, State] = {status(state): state for state in State}


def priority(value: int) -> str:
    """The highest named one that it comes up to, or the lowest."""
    names = [name for name, least in PRIORITIES.items() if value >= least]
    return names[-1] if names else next(iter(PRIORITIES))


def priorities(name: str) -> tuple[int, int]:
    """The first and the last that are called so."""
    found = [value for value in range(1, 11) if priority(value) == name]
    return found[0], found[-1]


def retry_count(job: Job) -> int:
    """How many tries there were after the first."""
    return max(0, job.tries - 1)


def assigned_at(job: Job) -> datetime | None:
    """Return when the task was assigned to a device: its start time, because it starts immediately."""
    if job.started_at is None and job.state is State.ASSIGNED:
        return job.updated_at
    return job.started_at


def submitted(job: Job) -> TaskSubmitted:
    return TaskSubmitted(
        task_id=job.id,
        task_type=_task(job).type,
        status=status(job.state),
        priority=priority(job.priority),
        created_at=job.created_at,
        started_at=job.started_at,
        completed_at=job.finished_at,
        worker_device_id=job.node,
        assigned_device_id=job.node,
        assigned_at=assigned_at(job),
        retry_count=retry_count(job),
        is_terminal=job.ended,
    )


def details(job: Job, progress: float | None, placement: Mapping[str, str]) -> TaskDetails:
    return TaskDetails(
        **msgspec.structs.asdict(submitted(job)),
        payload=_task(job).payload,
        requirements=_requirements(job),
        metadata=job.metadata,
        updated_at=job.updated_at,
        queued_at=job.queued_at,
        progress=percent(progress),
        placement=placement,
        result=result(job),
    )


def status_of(job: Job, progress: float | None, placement: Mapping[str, str]) -> StatusShown:
    return StatusShown(
        task_id=job.id,
        status=status(job.state),
        is_terminal=job.ended,
        progress=percent(progress),
        worker_device_id=job.node,
        assigned_device_id=job.node,
        assigned_at=assigned_at(job),
        execution_time_seconds=job.duration,
        can_retry=job.ended and State.QUEUED in TRANSITIONS[job.state],
        retry_count=retry_count(job),
        placement=placement,
        created_at=job.created_at,
        started_at=job.started_at,
        completed_at=job.finished_at,
        updated_at=job.updated_at,
    )


def result(job: Job) -> ResultShown | None:
    """None where it has not ended, or never began."""
    found = job.result
    if found is None or not job.ended:
        return None
    return ResultShown(
        task_id=job.id,
        status=status(job.state),
        result_data=found.data,
        error_message=found.error or None,
        error_code=found.code or None,
        execution_time_seconds=job.duration,
        worker_device_id=job.node,
        started_at=job.started_at,
        completed_at=job.finished_at,
    )


def types(taken: Sequence[str], online: int) -> TypesShown:
    known = [one for name, one in TYPES.items() if name in taken]
    shown = [TypeShown(one.name, one.description, [FieldShown(*field) for field in one.fields]) for one in known]
    names = [one.name for one in known]
    return TypesShown(names, names, len(names), online, shown)


def percent(progress: float | None) -> float | None:
    return None if progress is None else round(100 * progress, 1)


def _requirements(job: Job) -> RequirementsShown:
    return RequirementsShown(
        **{name: getattr(job.requirements, name) for name in job.requirements.__struct_fields__},
        timeout_seconds=_whole(job.timeout),
        max_retries=job.max_retries,
    )


def _whole(seconds: float | None) -> int | float | None:
    """Whole ones without a fraction, as they were sent."""
    return int(seconds) if seconds is not None and seconds == int(seconds) else seconds


def _task(job: Job) -> Task:
    assert isinstance(job.work, Task), "this API makes tasks only"
    return job.work
