"""What makes jobs: a command, a script, and a copy of an earlier job."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from homed.access.scopes import Scope
from homed.api.idempotency import HEADERS, idempotency_key
from homed.api.newremora import LOCAL, answer
from homed.api.newremora.answers import Hosts, JobShown, submitted
from homed.api.newremora.jobs import ONE, PATH
from homed.api.routes import Call, Handler, Route
from homed.errors import FieldError, ValidationError
from homed.jobs.jobs import Jobs
from homed.jobs.records import Command, Job, Origin, Script
from homed.jobs.submission import NewJob

# A command line becomes one argument of the shell, which Linux allows 128 KiB.
_Line = Annotated[str, Meta(max_length=16_000, pattern=r"^[^\u0000]*$", description="text without null characters")]
_Command = Annotated[
    str, Meta(min_length=1, max_length=16_000, pattern=r"^[^\u0000]+$", description="text without null characters")
]
_Script = Annotated[str, Meta(min_length=1, pattern=r"^[^\u0000]+$", description="text without null characters")]
_LONGEST_SCRIPT = 262_144
_Shell = Annotated[
    str, Meta(min_length=1, max_length=255, pattern=r"^[^\u0000]+$", description="text without null characters")
]
_ServerId = Annotated[str, Meta(min_length=1, max_length=64)]
_Timeout = Annotated[float, Meta(gt=0, le=31_536_000)]
_Priority = Annotated[int, Meta(ge=1, le=10)]
_Retries = Annotated[int, Meta(ge=0, le=100)]
_User = Annotated[str, Meta(max_length=32)]
_Deadline = Annotated[datetime, Meta(tz=True)]
_OF_WORK = ("command", "args", "script", "shell")


class NewCommand(msgspec.Struct, frozen=True, kw_only=True):
    """`server_id` is a host's, or `local` for this board. Times are in seconds; the timeout of the configuration holds
    where none is given. By the `deadline` it has ended, or has timed out, however long it waited. `user` is one of
    `jobs.users`, as whom it runs on this board.
    """

    command: _Command
    args: _Line | None = None
    server_id: _ServerId
    timeout: _Timeout | None = None
    priority: _Priority = 5
    max_retries: _Retries = 0
    deadline: _Deadline | None = None
    user: _User | None = None


class NewScript(msgspec.Struct, frozen=True, kw_only=True):
    """`shell` is any interpreter that is there: a path, or a name that is found in PATH. A script may have 256 KiB."""

    script: _Script
    shell: _Shell = "/bin/bash"
    server_id: _ServerId
    timeout: _Timeout | None = None
    priority: _Priority = 5
    max_retries: _Retries = 0
    deadline: _Deadline | None = None
    user: _User | None = None

    def __post_init__(self) -> None:
        _check_script(self.script)


class Overrides(msgspec.Struct, frozen=True, kw_only=True):
    """What is given is other than in the job that is copied."""

    command: _Command | None = None
    args: _Line | None = None
    script: _Script | None = None
    shell: _Shell | None = None
    server_id: _ServerId | None = None
    timeout: _Timeout | None = None
    priority: _Priority | None = None

    def __post_init__(self) -> None:
        _check_script(self.script or "")


class Duplicated(msgspec.Struct, frozen=True):
    original_job: JobShown
    new_job: JobShown


def routes(jobs: Jobs, hosts: Hosts) -> list[Route]:
    resource = _Resource(jobs, hosts)

    def route(path: str, handler: Handler, summary: str, body: Any, response: Any, **more: Any) -> Route:
        more = {"change": "job.submit", "errors": (404, 409, 503, 507), **more}
        return Route(
            "POST", f"{PATH}{path}", handler, summary, "Jobs", "jobs", hourly="submissions", scope=Scope.OPERATE,
            body=body, response=answer(response), status=201, headers=HEADERS, **more,
        )  # fmt: skip

    return [
        route("", resource.command, "Submit a command", NewCommand, JobShown),
        route("/script", resource.script, "Submit a script", NewScript, JobShown),
        route("/{job_id}/duplicate", resource.duplicate, "Submit a copy of a job", Overrides, Duplicated,
              optional=True, params=ONE, change="job.duplicate"),
    ]  # fmt: skip


class _Resource:
    def __init__(self, jobs: Jobs, hosts: Hosts):
        self._jobs = jobs
        self._hosts = hosts

    async def command(self, call: Call) -> JobShown:
        new: NewCommand = call.body
        return await self._submit(call, Command(new.command, new.args or ""))

    async def script(self, call: Call) -> JobShown:
        new: NewScript = call.body
        return await self._submit(call, Script(new.script, new.shell))

    async def duplicate(self, call: Call) -> Duplicated:
        original = await self._jobs.get(call.path["job_id"])
        given: Overrides = call.body
        new = NewJob(
            origin=Origin.NEWREMORA,
            work=overridden(original, given),
            host=original.host if given.server_id is None else _host(given.server_id),
            priority=original.priority if given.priority is None else given.priority,
            timeout=original.timeout if given.timeout is None else given.timeout,
            max_retries=original.max_retries,
            user=original.user,
            key=idempotency_key(call),
            submitted_by=call.principal.id,
            copied_from=original.id,
        )
        made = await self._jobs.submit(new)
        return Duplicated(submitted(original, self._hosts), submitted(made, self._hosts))

    async def _submit(self, call: Call, work: Command | Script) -> JobShown:
        new: NewCommand | NewScript = call.body
        job = await self._jobs.submit(
            NewJob(
                origin=Origin.NEWREMORA,
                work=work,
                host=_host(new.server_id),
                priority=new.priority,
                timeout=new.timeout,
                max_retries=new.max_retries,
                deadline=new.deadline,
                user=new.user or "",
                key=idempotency_key(call),
                submitted_by=call.principal.id,
            )
        )
        return submitted(job, self._hosts)


def _check_script(script: str) -> None:
    if len(script) > _LONGEST_SCRIPT:
        raise ValidationError([FieldError("script", f"must have at most {_LONGEST_SCRIPT} characters")])


def overridden(job: Job, given: Overrides) -> Command | Script:
    """The copy's work. ValidationError where what is given is for another kind of job, or the job can have no copy."""
    match job.work:
        case Command() | Script() as work:
            fields = work.__struct_fields__
        case _:
            raise ValidationError([FieldError("", "only commands and scripts can be copied")])
    changes = {name: value for name in _OF_WORK if (value := getattr(given, name)) is not None}
    errors = [FieldError(name, f"is not for a job that is a {job.kind}") for name in changes if name not in fields]
    if errors:
        raise ValidationError(errors)
    return msgspec.structs.replace(work, **changes)


def _host(server_id: str) -> str | None:
    return None if server_id == LOCAL else server_id
