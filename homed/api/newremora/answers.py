"""Jobs as this API shows them: its own words for states, hosts and times."""

import signal
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from homed.api.newremora import LOCAL, aside
from homed.errors import NotFoundError
from homed.jobs.contents import rest
from homed.jobs.hosts import Host
from homed.jobs.output.order import Stream
from homed.jobs.output.output import Output
from homed.jobs.records import Archive, Command, Job, Script, State, Task

EXCERPT = 512 * 1024
_BRIEF = 4096
# Bytes of each stream: for one job in a list, and for all jobs on a page together.
_LISTED, _LISTED_PAGE = 4096, 256 * 1024
_TIMED_OUT = 124
_STATUSES: Mapping[State, str] = {
    State.PENDING: "queued",
    State.QUEUED: "queued",
    State.ASSIGNED: "queued",
    State.RUNNING: "running",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.TIMED_OUT: "failed",
    State.CANCELLED: "canceled",
}


class Hosts(Protocol):
    def get(self, id: str) -> Host:
        """NotFoundError."""
        ...


class ServerNamed(msgspec.Struct, frozen=True):
    """The host of a job, in short."""

    id: str
    name: str
    hostname: str
    port: int
    user: str


class JobShown(msgspec.Struct, frozen=True, kw_only=True):
    """A job. `server` is null if the host was deleted since, and absent from responses to a submission. `exit_code` is
    124 after a timeout, and 128 plus the signal number after a signal. `error` explains a failure, `error_code` is its
    stable code. `timeout` is in seconds, `duration` in nanoseconds.
    """

    id: str
    status: str
    type: str
    command: str
    args: str
    original_script: str | None
    shell: str | None
    server_id: str
    server: ServerNamed | UnsetType | None = UNSET
    priority: int
    timeout: int | float | None
    deadline: datetime | None
    max_retries: int
    attempt: int
    copied_from: str | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    canceled_at: datetime | None
    duration: int | None
    exit_code: int | None
    error: str | None
    error_code: str | None


class JobPrinted(JobShown, frozen=True, kw_only=True):
    """A job with its output; if `…_truncated` is set, only the beginning and the end of it."""

    output: str
    stdout: str
    stderr: str
    output_truncated: bool
    stdout_truncated: bool
    stderr_truncated: bool


class JobDetails(JobPrinted, frozen=True, kw_only=True):
    """A job with at most about 512 KiB of each output stream. `placement` explains for each node why the job does not
    run there yet.
    """

    placement: Mapping[str, str]


class Pagination(msgspec.Struct, frozen=True):
    page: int
    limit: int
    total: int
    total_pages: int
    has_next: bool
    has_prev: bool


class JobList(msgspec.Struct, frozen=True):
    """A page of jobs. `output`, `stdout` and `stderr` have at most about 4 KiB each, less on a long page."""

    jobs: Sequence[JobPrinted]
    pagination: Pagination


class Printed(msgspec.Struct, frozen=True):
    """Excerpts of what a job has printed, and which of them are not whole."""

    output: str = ""
    stdout: str = ""
    stderr: str = ""
    output_truncated: bool = False
    stdout_truncated: bool = False
    stderr_truncated: bool = False


def shown_status(job: Job) -> str:
    return _STATUSES[job.state]


def states(status: str) -> tuple[State, ...]:
    """Those that are shown so."""
    return tuple(state for state, word in _STATUSES.items() if word == status)


def exit_code(job: Job) -> int | None:
    """As a shell would tell it."""
    result = job.result
    if result is None or not job.ended:
        return None
    if result.exit_code is not None:
        return result.exit_code
    if job.state is State.TIMED_OUT:
        return _TIMED_OUT
    try:
        return 128 + signal.Signals[result.signal].value
    except KeyError:
        return None


def seconds(value: float | None) -> int | float | None:
    """Whole ones without a fraction, as clients send and expect them."""
    return int(value) if value is not None and value == int(value) else value


def server_of(job: Job, hosts: Hosts) -> ServerNamed | None:
    if job.host is None:
        return ServerNamed(LOCAL, LOCAL, "localhost", 22, job.user)
    try:
        host = hosts.get(job.host)
    except NotFoundError:
        return None
    return ServerNamed(host.id, host.name, host.hostname, host.port, host.user)


def brief(job: JobShown) -> JobShown:
    """Return the job with a long script shortened to its beginning."""
    script = job.original_script
    if script is None or len(script) <= _BRIEF:
        return job
    return msgspec.structs.replace(job, original_script=f"{script[:_BRIEF]}\n[{len(script) - _BRIEF} more]")


def page(jobs: Sequence[tuple[JobShown, Output | None]]) -> list[JobPrinted]:
    """Return the jobs of a list with excerpts of their output. Blocking: it reads the output."""
    most = min(_LISTED, _LISTED_PAGE // max(1, len(jobs)))
    return [with_output(brief(job), printed(output, most)) for job, output in jobs]


def with_output(job: JobShown, text: Printed) -> JobPrinted:
    return JobPrinted(**_fields(job), **_fields(text))


def submitted(job: Job, hosts: Hosts) -> JobShown:
    """Return a job as in the response to its submission: without its server."""
    return msgspec.structs.replace(shown(job, hosts), server=UNSET)


def shown(job: Job, hosts: Hosts) -> JobShown:
    server = server_of(job, hosts)
    command, args, script, shell = _work(job)
    failed = job.ended and job.state is not State.SUCCEEDED and job.result is not None
    return JobShown(
        id=job.id,
        status=shown_status(job),
        type=job.kind,
        command=command,
        args=args,
        original_script=script,
        shell=shell,
        server_id=job.host or LOCAL,
        server=None if server is None else aside(server),
        priority=job.priority,
        timeout=seconds(job.timeout),
        deadline=job.deadline,
        max_retries=job.max_retries,
        attempt=job.attempt,
        copied_from=job.copied_from or None,
        created_at=job.created_at,
        updated_at=job.updated_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        canceled_at=job.finished_at if job.state is State.CANCELLED else None,
        duration=None if job.duration is None else round(job.duration * 1_000_000_000),
        exit_code=exit_code(job),
        error=job.result.error or None if failed and job.result else None,
        error_code=job.result.code or None if failed and job.result else None,
    )


def details(job: Job, hosts: Hosts, printed: Printed, placement: Mapping[str, str]) -> JobDetails:
    return JobDetails(**_fields(shown(job, hosts)), **_fields(printed), placement=placement)


def printed(output: Output | None, most: int = EXCERPT) -> Printed:
    """Read about `most` bytes of each stream, and as many of both in order. Blocking."""
    if output is None:
        return Printed()
    output.files.load()
    cut = {stream: output.dropped(stream) > 0 or output.files.size(stream) > most for stream in Stream}
    return Printed(
        _both(output, most),
        output.excerpt(Stream.STDOUT, most),
        output.excerpt(Stream.STDERR, most),
        any(cut.values()) or output.size > most,
        cut[Stream.STDOUT],
        cut[Stream.STDERR],
    )


def _both(output: Output, most: int) -> str:
    """Both streams in order: all, or the beginning and the end."""
    size, half = output.size, most // 2
    if size <= most:
        return output.combined()
    head, tail = output.combined(0, half), output.combined(max(half, output.text_end - half), half)
    return f"{head}\n[{size - most} bytes are not shown here]\n{tail}"


def _fields(value: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__struct_fields__}


def _work(job: Job) -> tuple[str, str, str | None, str | None]:
    """The command, its arguments, the script and the shell that reads it."""
    match job.work:
        case Command(command=command, args=args):
            return command + rest(job), args, None, None
        case Script(script=script, shell=shell):
            return shell, "", script + rest(job), shell
        case Archive(command=command):
            return command + rest(job), "", None, None
        case Task(type=kind):
            return kind, "", None, None
