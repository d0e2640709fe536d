"""Pull workers: registering, beating, and which there are."""

from typing import Any

from homed.access.scopes import Scope
from homed.api.executor import LIMIT, TAG, missing
from homed.api.executor.answers import (
    Beaten,
    Beating,
    Registered,
    Registering,
    WorkerLine,
    WorkerList,
    WorkerShown,
    WorkersShown,
    milliseconds,
)
from homed.api.routes import Call, Handler, Route
from homed.clock import now
from homed.jobs.claimants import Status
from homed.jobs.workers import Load, Seen, Worker, Workers


def routes(workers: Workers) -> list[Route]:
    resource = _Resource(workers)

    def route(method: str, path: str, handler: Handler, summary: str, response: object, **more: Any) -> Route:
        return Route(
            method, f"/api/workers{path}", handler, summary, TAG, LIMIT,
            response=response, scope=Scope.OPERATE, **more,
        )  # fmt: skip

    return [
        route("POST", "/register", resource.register, "Register a worker", Registered, body=Registering,
              change="worker.register", errors=(503,)),
        route("GET", "/register", resource.registered, "List the workers", WorkersShown),
        route("POST", "/heartbeat", resource.beat, "Say that a worker is there", Beaten, body=Beating, errors=(404,)),
        route("GET", "/list", resource.list, "List the workers, with numbers", WorkerList),
    ]  # fmt: skip


class _Resource:
    def __init__(self, workers: Workers):
        self._workers = workers

    async def register(self, call: Call) -> Registered:
        given: Registering = call.body
        if not given.worker_id or not given.hostname:
            raise missing("workerId", "hostname")
        moment = now()
        worker = Worker(
            id=given.worker_id,
            hostname=given.hostname,
            os=given.os or "",
            cpu_count=given.cpu_count,
            version=given.version or "",
            registered_at=moment,
            seen_at=moment,
        )
        await self._workers.register(worker, call.request.remote or "")
        return Registered(worker_id=worker.id, message=f"Worker {worker.id} registered successfully")

    async def beat(self, call: Call) -> Beaten:
        given: Beating = call.body
        if not given.worker_id:
            raise missing("workerId")
        load = Load(given.cpu_usage, given.ram_free_mb, given.ram_total_mb)
        at = await self._workers.beat(given.worker_id, load, call.request.remote or "")
        return Beaten(worker_id=given.worker_id, timestamp=milliseconds(at))

    async def registered(self, call: Call) -> WorkersShown:
        shown = [WorkerShown(**_fields(one)) for one in self._workers.all()]
        return WorkersShown(workers=shown, count=len(shown))

    async def list(self, call: Call) -> WorkerList:
        found = self._workers.all()
        numbers = {status: sum(1 for one in found if one.status is status) for status in Status}
        lines = [
            WorkerLine(
                **_fields(one),
                current_job_id=one.jobs[0] if one.jobs else None,
                cpu_usage=one.load.cpu_usage,
                ram_free_mb=one.load.ram_free_mb,
                ram_total_mb=one.load.ram_total_mb,
            )
            for one in found
        ]
        return WorkerList(
            workers=lines,
            count=len(lines),
            total_workers=len(lines),
            idle_workers=numbers[Status.IDLE],
            busy_workers=numbers[Status.BUSY],
            offline_workers=numbers[Status.OFFLINE],
        )


def _fields(one: Seen) -> dict[str, Any]:
    return {
        "worker_id": one.worker.id,
        "hostname": one.worker.hostname,
        "os": one.worker.os,
        "cpu_count": one.worker.cpu_count,
        "status": one.status,
        "last_heartbeat": milliseconds(one.seen_at),
        "version": one.worker.version,
    }
