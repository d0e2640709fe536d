"""`/api/v1/servers`: the hosts, whether they answer, and the keys that are uploaded for them."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from homed.access.scopes import Scope
from homed.api import forms
from homed.api.multipart import MEDIA
from homed.api.newremora import Failed, answer
from homed.api.newremora.server_answers import (
    Active,
    Checked,
    CheckedAll,
    Deleted,
    Deleting,
    NewServer,
    ServerChange,
    ServerList,
    ServerShown,
    Summary,
    Tested,
    Upload,
    Uploaded,
    shown,
)
from homed.api.routes import Call, Handler, Route
from homed.clock import now
from homed.errors import ConflictError, JobConflictError
from homed.jobs.hosts import Host, Hosts
from homed.jobs.jobs import Jobs
from homed.jobs.pem import PemFiles
from homed.jobs.records import Job, State
from homed.jobs.ssh import check as checking
from homed.jobs.ssh.check import Checks, Status
from homed.jobs.submission import Query

PATH = "/api/v1/servers"
_UPLOAD_LIMIT = 256 * 1024
_HELD = (State.ASSIGNED, State.RUNNING)
_FIRST_CHECK = 10.0  # seconds that a status request waits for the first check of a host


def routes(hosts: Hosts, pem_files: PemFiles, checks: Checks, jobs: Jobs) -> list[Route]:
    resource = _Resource(hosts, pem_files, checks, jobs)

    def route(method: str, path: str, handler: Handler, summary: str, response: Any, **more: Any) -> Route:
        return Route(method, path, handler, summary, "Servers", "jobs", response=answer(response), **more)

    def read(path: str, handler: Handler, summary: str, response: Any, **more: Any) -> Route:
        return route("GET", f"{PATH}{path}", handler, summary, response, **more)

    def act(method: str, path: str, handler: Handler, summary: str, response: Any, change: str, **more: Any) -> Route:
        more = {"scope": Scope.OPERATE, **more}
        return route(method, f"{PATH}{path}", handler, summary, response, change=f"host.{change}", **more)

    one: dict[str, Any] = {"params": {"server_id": "The server's id."}}
    upload: dict[str, Any] = {
        "scope": Scope.OPERATE, "uploads": (MEDIA,), "form": Upload, "status": 201, "errors": (400, 413, 415),
        "change": "host.upload_key",
    }  # fmt: skip
    return [
        read("", resource.list, "List servers", ServerList, query=Active, errors=(400,)),
        act("POST", "", resource.create, "Add a server", ServerShown, "create", body=NewServer, status=201,
            errors=(409,)),
        act("POST", "/check-status", resource.check, "Check which servers answer", CheckedAll, "check", query=Active,
            errors=(400,)),
        route("POST", f"{PATH}/upload-pem", resource.upload, "Upload a private key", Uploaded, **upload),
        route("POST", "/api/v1/pem-files/upload", resource.upload, "Upload a private key", Uploaded, **upload),
        # A host without a check is checked for this request: the first connection pins its host key.
        read("/status/all", resource.statuses, "What the last checks have found", CheckedAll, query=Active, acts=True,
             errors=(400,)),
        read("/{server_id}", resource.get, "Get a server", ServerShown, errors=(404,), **one),
        act("PUT", "/{server_id}", resource.update, "Change the fields given", ServerShown, "update", body=ServerChange,
            errors=(404, 409), **one),
        act("DELETE", "/{server_id}", resource.delete, "Delete a server", Deleted, "delete", query=Deleting,
            errors=(400, 404, 409), **one),
        act("POST", "/{server_id}/test", resource.test, "Log in and run a command", Tested, "test", statuses=(503,),
            errors=(404,), **one),
        act("POST", "/{server_id}/forget-key", resource.forget_key, "Know the server by the key that it shows next",
            ServerShown, "forget_key", errors=(404, 409), **one),
        read("/{server_id}/status", resource.status, "What the last check has found", Checked, errors=(404,), acts=True,
             **one),
    ]  # fmt: skip


class _Resource:
    def __init__(self, hosts: Hosts, pem_files: PemFiles, checks: Checks, jobs: Jobs):
        self._hosts = hosts
        self._pem_files = pem_files
        self._checks = checks
        self._jobs = jobs

    async def list(self, call: Call) -> ServerList:
        return ServerList([shown(host) for host in self._hosts.all(active_only=call.query.only)])

    async def get(self, call: Call) -> ServerShown:
        return shown(self._host(call))

    async def create(self, call: Call) -> ServerShown:
        return shown(await self._hosts.create(call.body.host()))

    async def update(self, call: Call) -> ServerShown:
        return shown(await self._hosts.update(call.path["server_id"], call.body.change()))

    async def delete(self, call: Call) -> Deleted:
        host = self._host(call)
        active = [job for job in self._jobs.active() if job.host == host.id]
        running = [job for job in active if job.state in _HELD]
        if running:
            count = "1 job runs" if len(running) == 1 else f"{len(running)} jobs run"
            raise _busy("Cannot delete server with active jobs", f"{count} on it: cancel first, or wait", running)
        if not call.query.force:
            found = await self._jobs.page(Query(host=host.id, limit=20))
            if found.total:
                count = "1 job is" if found.total == 1 else f"{found.total} jobs are"
                raise _busy("Server has associated job history", f"{count} of it: force deletes it all the same",
                            found.jobs)  # fmt: skip
        await self._cancel(active)
        await self._hosts.delete(host.id)
        return Deleted(host.id, "deleted", "Server deleted successfully", 0, len(active))

    async def _cancel(self, waiting: Sequence[Job]) -> None:
        for job in waiting:
            try:
                await self._jobs.cancel(job.id, "its host was deleted")
            except JobConflictError:
                continue  # it has ended meanwhile

    async def test(self, call: Call) -> object:
        host = self._host(call)
        found = await self._checks.check(host.id)
        tested = Tested(
            server_id=host.id,
            status=str(found.status),
            response_time_ms=found.milliseconds,
            test_command=checking.COMMAND,
            test_output=found.output,
            message=found.message,
            timestamp=now(),
        )
        return tested if found.status is Status.CONNECTED else (503, Failed(tested, found.message))

    async def forget_key(self, call: Call) -> ServerShown:
        return shown(await self._hosts.unpin(call.path["server_id"]))

    async def check(self, call: Call) -> CheckedAll:
        began = time.monotonic()
        hosts = {host.id: host for host in self._hosts.all(active_only=call.query.only)}
        found = await self._checks.check_all(hosts)
        return _all([_checked(hosts[one.host], one) for one in found], int((time.monotonic() - began) * 1000))

    async def status(self, call: Call) -> Checked:
        return (await self._known([self._host(call)]))[0]

    async def statuses(self, call: Call) -> CheckedAll:
        began = time.monotonic()
        checked = await self._known(self._hosts.all(active_only=call.query.only))
        return _all(checked, int((time.monotonic() - began) * 1000))

    async def _known(self, hosts: Sequence[Host]) -> Sequence[Checked]:
        """Return the results of the last checks; check hosts now that were never checked."""
        found = await self._checks.check_first([host.id for host in hosts], _FIRST_CHECK)
        return [_checked(host, found[host.id]) if host.id in found else _last(host) for host in hosts]

    async def upload(self, call: Call) -> Uploaded:
        file = await forms.read_file(call.request, "pem_file", _UPLOAD_LIMIT)
        stored = await self._pem_files.put(file.name, file.data)
        return Uploaded(
            filename=stored.name,
            url=stored.url,
            pem_file_url=stored.url,
            size=stored.size,
            uploaded_at=stored.uploaded_at,
            message="PEM file uploaded successfully",
        )

    def _host(self, call: Call) -> Host:
        return self._hosts.get(call.path["server_id"])


def _busy(message: str, why: str, jobs: Sequence[Job]) -> ConflictError:
    details = {"sentence": f"{message}: {why}.", "jobs": [job.id for job in jobs[:20]]}
    return ConflictError(message, code="HOST_BUSY", details=details)


def _last(host: Host) -> Checked:
    """Return the result of the last check, or an error if the first check did not end in time."""
    if not host.status or host.checked_at is None:
        return _status(host, "error", None, f"no result within {_FIRST_CHECK:g} s; the check goes on", now())
    return _status(host, host.status, None, f"as of {host.checked_at:%Y-%m-%dT%H:%M:%SZ}", host.checked_at)


def _checked(host: Host, found: checking.Checked) -> Checked:
    return _status(host, str(found.status), found.milliseconds, found.message, now())


def _status(host: Host, status: str, milliseconds: int | None, message: str, at: datetime) -> Checked:
    return Checked(
        server_id=host.id,
        server_name=host.name,
        name=host.name,
        hostname=host.hostname,
        port=host.port,
        status=status,
        response_time_ms=milliseconds,
        message=message,
        checked_at=at,
    )


def _all(checked: Sequence[Checked], milliseconds: int) -> CheckedAll:
    total, connected = len(checked), sum(one.status == Status.CONNECTED for one in checked)
    summary = Summary(
        total_checked=total, connected=connected, disconnected=total - connected, check_duration_ms=milliseconds
    )
    return CheckedAll(
        servers=checked,
        summary=summary,
        total_servers=total,
        connected=connected,
        disconnected=total - connected,
    )
