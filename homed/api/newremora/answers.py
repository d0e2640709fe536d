"""Jobs as this API shows them: its own words for states, hosts and times."""

import signal
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from homed.api.newremora import LOCAL
from homed.errors import NotFoundError
from homed.jobs.hosts import Host
from homed.jobs.output.order import Stream
from homed.jobs.output.output import Output
from homed.jobs.records import Archive, Command, Job, Script, State, Task

EXCERPT = 512 * 1024
_BRIEF = 4096
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


class JobShown(msgspec.Struct, frozen=True, kw_only=True):
    """`server` is null where the host was deleted since. `exit_code` is 124 where it took too long, 128 and the number
    of the signal where one ended it. `error` says why it failed, `error_code` in a stable word. Times are in seconds.
    """

    id: str
    status: str
    type: str
    command: str
    args: str
    original_script: str | None
    shell: str | None
    server_id: str
    server: ServerNamed | None
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
    duration: float | None
    exit_code: int | None
    error: str | None
    error_code: str | None


class JobDetails(JobShown, frozen=True, kw_only=True):
    """What it has printed, of each at most about 512 KiB: the beginning and the end where `…_truncated`. `placement`
    says of each node why it does not run there yet.
    """

    output: str
    stdout: str
    stderr: str
    output_truncated: bool
    stdout_truncated: bool
    stderr_truncated: bool
    placement: Mapping[str, str]


class Pagination(msgspec.Struct, frozen=True):
    page: int
    limit: int
    total: int
    total_pages: int
    has_next: bool
    has_prev: bool


class JobList(msgspec.Struct, frozen=True):
    jobs: Sequence[JobShown]
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
        return ServerNamed(LOCAL, LOCAL, "localhost")
    try:
        host = hosts.get(job.host)
    except NotFoundError:
        return None
    return ServerNamed(host.id, host.name, host.hostname)


def in_list(job: Job, hosts: Hosts) -> JobShown:
    """With the beginning of its script only, where that is long."""
    whole = shown(job, hosts)
    script = whole.original_script
    if script is None or len(script) <= _BRIEF:
        return whole
    return msgspec.structs.replace(whole, original_script=f"{script[:_BRIEF]}\n[{len(script) - _BRIEF} more]")


def shown(job: Job, hosts: Hosts) -> JobShown:
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
        server=server_of(job, hosts),
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
        duration=job.duration,
        exit_code=exit_code(job),
        error=job.result.error or None if failed and job.result else None,
        error_code=job.result.code or None if failed and job.result else None,
    )


def details(job: Job, hosts: Hosts, printed: Printed, placement: Mapping[str, str]) -> JobDetails:
    return JobDetails(
        **msgspec.structs.asdict(shown(job, hosts)), **msgspec.structs.asdict(printed), placement=placement
    )


def printed(output: Output | None) -> Printed:
    """Blocking."""
    if output is None:
        return Printed()
    output.files.load()
    cut = {stream: output.dropped(stream) > 0 or output.files.size(stream) > EXCERPT for stream in Stream}
    return Printed(
        _both(output),
        output.excerpt(Stream.STDOUT, EXCERPT),
        output.excerpt(Stream.STDERR, EXCERPT),
        any(cut.values()) or output.size > EXCERPT,
        cut[Stream.STDOUT],
        cut[Stream.STDERR],
    )


def _both(output: Output) -> str:
    """Both streams in order: all, or the beginning and the end."""
    size, half = output.size, EXCERPT // 2
    if size <= EXCERPT:
        return output.combined()
    head, tail = output.combined(0, half), output.combined(max(half, output.end - half), half)
    return f"{head}\n[{size - EXCERPT} bytes are not shown here]\n{tail}"


def _work(job: Job) -> tuple[str, str, str | None, str | None]:
    """The command, its arguments, the script and the shell that reads it."""
    match job.work:
        case Command(command=command, args=args):
            return command, args, None, None
        case Script(script=script, shell=shell):
            return shell, "", script, shell
        case Archive(command=command):
            return command, "", None, None
        case Task(type=kind):
            return kind, "", None, None
