"""`/api/v1/tasks`: typed tasks, how far they are, and what came of them."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from homed.access.scopes import Scope
from homed.api.idempotency import HEADERS, idempotency_key
from homed.api.retire import Pagination, Reply, Success
from homed.api.retire.answers import (
    STATUSES,
    Load,
    Performance,
    QueueStats,
    ResultShown,
    StatisticsShown,
    StatusShown,
    Submitted,
    TaskDetails,
    TaskSubmitted,
    TypesShown,
    details,
    priorities,
    priority,
    result,
    status,
    status_of,
    submitted,
    types,
)
from homed.api.routes import Call, Handler, Route
from homed.config.jobs import Jobs as Config
from homed.errors import FieldError, HomedError, JobConflictError, NotFoundError, ValidationError
from homed.jobs.jobs import Jobs
from homed.jobs.records import ENDED, PRIORITIES, Job, Origin, Requirements, State, Task
from homed.jobs.submission import NewJob, Query

PATH = "/api/v1/tasks"
_MOST = 100
_DEEPEST = 64
_CANCEL_WAIT = 4.0
_Word = Annotated[str, Meta(min_length=1, max_length=64)]
_Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
_Size = Annotated[float, Meta(ge=0, le=1_000_000_000)]


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What the node must have (memory and storage in GiB), how long it may take, and how often it is tried again."""

    min_cpu_cores: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    min_memory_gb: _Size = 0
    min_storage_gb: _Size = 0
    required_platform: _Word | None = None
    required_role: _Word | None = None
    required_tags: Annotated[tuple[_Word, ...], Meta(max_length=64)] = ()
    gpu_required: bool = False
    internet_required: bool = False
    timeout_seconds: Annotated[float, Meta(gt=0, le=31_536_000)] | None = None
    max_retries: Annotated[int, Meta(ge=0, le=100)] = 0


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """`payload` is of the type's own shape: see `/api/v1/tasks/types`."""

    task_type: _Word
    payload: dict[str, Any] = {}
    priority: Literal["low", "normal", "high", "urgent"] = "normal"
    requirements: Needs | None = None
    metadata: dict[str, Any] | None = None


class Listing(msgspec.Struct, frozen=True):
    """What is empty is not asked for. `page_size` above 100 is 100."""

    page: _Count = 1
    page_size: Annotated[int, Meta(ge=1)] = 20
    status: Literal[
        "", "all", "pending", "queued", "assigned", "running", "success", "failed", "cancelled", "timeout"
    ] = ""
    task_type: Annotated[str, Meta(max_length=64)] = ""
    priority: Literal["", "low", "normal", "high", "urgent"] = ""
    device_id: Annotated[str, Meta(max_length=255)] = ""


class CannotRetryError(HomedError):
    """It has not ended, or there is nothing to be made better."""

    code = "CANNOT_RETRY_TASK"
    status = 400
    grpc = "FAILED_PRECONDITION"


class CannotCancelError(HomedError):
    """It has ended."""

    code = "CANNOT_CANCEL_TASK"
    status = 400
    grpc = "FAILED_PRECONDITION"


def routes(jobs: Jobs, config: Callable[[], Config]) -> list[Route]:
    resource = _Resource(jobs, config)

    def route(method: str, path: str, handler: Handler, summary: str, response: Any, **more: Any) -> Route:
        # A client polls several tasks at once; the limit on submissions is lower.
        more = {"scope": Scope.OPERATE, "hourly": "tasks_hour", "burst": "tasks_poll_burst", **more}
        return Route(method, f"{PATH}{path}", handler, summary, "Tasks", "tasks", response=Success[response], **more)

    one: dict[str, Any] = {"params": {"task_id": "The task's id."}}
    return [
        route("POST", "", resource.submit, "Submit a task", Submitted, body=NewTask, status=201, headers=HEADERS,
              errors=(409, 503, 507), change="task.submit", burst="tasks_burst"),
        route("GET", "", resource.list, "List tasks", list[TaskSubmitted], query=Listing, errors=(400,)),
        route("GET", "/statistics", resource.statistics, "Numbers of tasks", StatisticsShown, scope=Scope.READ),
        route("GET", "/types", resource.types, "List the types of tasks", TypesShown, scope=Scope.READ),
        route("GET", "/{task_id}", resource.get, "Get a task", TaskDetails, errors=(404,), **one),
        route("GET", "/{task_id}/status", resource.status, "How far a task is", StatusShown, errors=(404,), **one),
        route("GET", "/{task_id}/result", resource.result, "What came of a task", ResultShown, errors=(404,), **one),
        route("POST", "/{task_id}/cancel", resource.cancel, "Cancel a task", TaskSubmitted, statuses=(202,),
              errors=(400, 404), change="task.cancel", **one),
        route("POST", "/{task_id}/retry", resource.retry, "Try a task again", TaskSubmitted, change="task.retry",
              errors=(400, 404, 503, 507), burst="tasks_burst", **one),
    ]  # fmt: skip


class _Resource:
    def __init__(self, jobs: Jobs, config: Callable[[], Config]):
        self._jobs = jobs
        self._config = config

    async def submit(self, call: Call) -> Reply:
        job = await self._jobs.submit(new_job(call.body, call.principal.id, idempotency_key(call)))
        said = "Task submitted successfully"
        return Reply(data=Submitted(job.id, submitted(job), said, job.created_at), message=said)

    async def list(self, call: Call) -> Reply:
        query = wanted(call.query)
        found = await self._jobs.page(query)
        page, pages = call.query.page, -(-found.total // query.limit)
        return Reply(
            data=[submitted(job) for job in found.jobs],
            pagination=Pagination(
                page=page,
                page_size=query.limit,
                total_items=found.total,
                total_pages=pages,
                has_next=page < pages,
                has_previous=page > 1 and found.total > 0,
            ),
        )

    async def get(self, call: Call) -> TaskDetails:
        job = await self._jobs.whole(await self._task(call))
        return details(job, self._jobs.progress(job), self._jobs.refusals(job))

    async def status(self, call: Call) -> StatusShown:
        job = await self._task(call)
        return status_of(job, self._jobs.progress(job), self._jobs.refusals(job))

    async def result(self, call: Call) -> ResultShown:
        job = await self._jobs.whole(await self._task(call))
        found = result(job)
        if found is None:
            state = status(job.state)
            raise NotFoundError(
                f"the task is {state}: it has no result", code="NO_TASK_RESULT", details={"status": state}
            )
        return found

    async def cancel(self, call: Call) -> object:
        id = (await self._task(call)).id
        try:
            await self._jobs.cancel(id)
        except JobConflictError as error:
            raise CannotCancelError(error.message, details=error.details) from error
        job = await self._jobs.ended(id, _CANCEL_WAIT)
        if not job.ended:
            return 202, Reply(data=submitted(job), message="Task is being cancelled")
        return Reply(data=submitted(job), message="Task cancelled successfully")

    async def retry(self, call: Call) -> Reply:
        id = (await self._task(call)).id
        try:
            job = await self._jobs.retry(id)
        except JobConflictError as error:
            raise CannotRetryError(error.message, details=error.details) from error
        return Reply(data=submitted(job), message="Task queued for retry")

    async def statistics(self, call: Call) -> StatisticsShown:
        found = await self._jobs.listing.statistics(Origin.RETIRE)
        by_priority = dict.fromkeys(PRIORITIES, 0)
        for value, count in found.by_priority.items():
            by_priority[priority(value)] += count
        by_status = {status(state): count for state, count in found.by_state.items()}
        active = {state: found.by_state.get(state, 0) for state in State if state not in ENDED}
        good = found.by_state.get(State.SUCCEEDED, 0)
        ended = good + found.by_state.get(State.FAILED, 0) + found.by_state.get(State.TIMED_OUT, 0)
        performance = Performance(
            average_execution_seconds=round(found.average_duration, 3),
            completed_last_hour=found.ended,
            success_rate=round(100 * good / ended, 1) if ended else 0.0,
        )
        running = active[State.RUNNING] + active[State.ASSIGNED]
        load = Load(
            running_tasks=running,
            waiting_tasks=sum(active.values()) - running,
            online_devices=self._jobs.nodes.online(),
            capacity=self._config().slots,
        )
        return StatisticsShown(QueueStats(found.total, by_status, by_priority), performance, performance, load)

    async def types(self, call: Call) -> TypesShown:
        return types(self._config().task_types, self._jobs.nodes.online())

    async def _task(self, call: Call) -> Job:
        job = await self._jobs.look(call.path["task_id"])
        if not isinstance(job.work, Task):
            raise NotFoundError("Task not found", code="TASK_NOT_FOUND")
        return job


def new_job(given: NewTask, submitted_by: str, key: str) -> NewJob:
    """ValidationError where the payload or the metadata is nested too deep."""
    needs = given.requirements or Needs()
    metadata = given.metadata or {}
    _check_depth(payload=given.payload, metadata=metadata)
    return NewJob(
        origin=Origin.RETIRE,
        work=Task(given.task_type, given.payload),
        priority=PRIORITIES[given.priority],
        timeout=needs.timeout_seconds,
        max_retries=needs.max_retries,
        requirements=Requirements(**{name: getattr(needs, name) for name in Requirements.__struct_fields__}),
        metadata=metadata,
        key=key,
        submitted_by=submitted_by,
    )


def wanted(given: Listing) -> Query:
    """The tasks that are asked for."""
    size = min(given.page_size, _MOST)
    return Query(
        origin=Origin.RETIRE,
        states=(STATUSES[given.status],) if given.status in STATUSES else (),
        task_type=given.task_type or None,
        priorities=priorities(given.priority) if given.priority else None,
        node=given.device_id or None,
        offset=(given.page - 1) * size,
        limit=size,
    )


def _check_depth(**values: object) -> None:
    """What is nested too deep could be read once, and not again from within a record."""
    errors = [
        FieldError(name, f"is nested more than {_DEEPEST} deep")
        for name, value in values.items()
        if _is_deeper(value, _DEEPEST)
    ]
    if errors:
        raise ValidationError(errors)


def _is_deeper(value: object, than: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return than == 0 or any(_is_deeper(one, than - 1) for one in inside)
