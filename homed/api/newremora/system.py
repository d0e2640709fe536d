"""`/api/v1/system/enhanced`, and what this API adds to `/health` and `/api/v1/system/info`."""

from collections.abc import Callable, Mapping
from datetime import datetime

import msgspec

from homed.api.homei.board import Extra
from homed.api.newremora import answer
from homed.api.routes import Call, Route
from homed.clock import now
from homed.health import Health, Level
from homed.jobs.hosts import Hosts
from homed.jobs.jobs import Jobs
from homed.jobs.records import State


class WorkerStatus(msgspec.Struct, frozen=True):
    """How many jobs run, and how many can at once on this board."""

    active_workers: int
    total_capacity: int


class Enhanced(msgspec.Struct, frozen=True, kw_only=True):
    """The hosts as the last checks found them, those never checked being neither; `average_job_duration` in seconds,
    `jobs_per_hour` as many as ended in the last one.
    """

    connected_servers: int
    disconnected_servers: int
    average_job_duration: float
    jobs_per_hour: int
    worker_status: WorkerStatus


def routes(jobs: Jobs, hosts: Hosts, slots: Callable[[], int]) -> list[Route]:
    async def enhanced(call: Call) -> Enhanced:
        found = await jobs.listing.statistics()
        statuses = [host.status for host in hosts.all()]
        running = found.by_state.get(State.RUNNING, 0)
        return Enhanced(
            connected_servers=statuses.count("connected"),
            disconnected_servers=statuses.count("disconnected"),
            average_job_duration=round(found.average_duration, 3),
            jobs_per_hour=found.ended,
            worker_status=WorkerStatus(running, slots()),
        )

    return [
        Route("GET", "/api/v1/system/enhanced", enhanced, "Numbers of jobs and servers", "System", "jobs",
              response=answer(Enhanced)),
    ]  # fmt: skip


class Queue(msgspec.Struct, frozen=True):
    queue: str


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Of all jobs, whichever API they came by. `success_rate` is in percent of those that ended by themselves."""

    total_servers: int
    total_jobs: int
    running_jobs: int
    completed_jobs: int
    failed_jobs: int
    queued_jobs: int
    success_rate: float
    timestamp: datetime


def queue(health: Health, enabled: Callable[[], bool]) -> Extra:
    """For `/health`: the queue is in the store."""

    async def tell(call: Call) -> Queue:
        store = health.components().get("store")
        there = enabled() and store is not None and store.status is Level.HEALTHY
        return Queue("connected" if there else "disconnected")

    return Extra(Queue, tell)


def totals(jobs: Jobs, hosts: Hosts) -> Extra:
    """For `/api/v1/system/info`."""

    async def tell(call: Call) -> Totals:
        return counted(await jobs.listing.totals(), len(hosts.all()))

    return Extra(Totals, tell)


def counted(by_state: Mapping[State, int], servers: int) -> Totals:
    completed = by_state.get(State.SUCCEEDED, 0)
    failed = by_state.get(State.FAILED, 0) + by_state.get(State.TIMED_OUT, 0)
    return Totals(
        total_servers=servers,
        total_jobs=sum(by_state.values()),
        running_jobs=by_state.get(State.RUNNING, 0),
        completed_jobs=completed,
        failed_jobs=failed,
        queued_jobs=sum(by_state.get(state, 0) for state in (State.PENDING, State.QUEUED, State.ASSIGNED)),
        success_rate=round(100 * completed / (completed + failed), 1) if completed + failed else 0.0,
        timestamp=now(),
    )
