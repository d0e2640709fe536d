"""The part of the configuration that says how jobs run, as whom, and how long they are kept."""

from typing import Annotated, Literal

from msgspec import Meta

from homed.config.section import Section
from homed.errors import FieldError, ValidationError

TaskType = Literal["echo", "sleep", "system_info", "http_request", "command", "python_eval"]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
_Size = Annotated[int, Meta(ge=0, le=1 << 50)]
_UserName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z_][a-z0-9_-]{0,30}$(?!\n)",
        description="a user name: up to 31 lower-case letters, digits, _ and -, the first one a letter or _",
    ),
]


class JobNode(Section, frozen=True):
    """What this board says of itself to requirements."""

    role: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$(?!\n)",
            description="up to 64 lower-case letters, digits, _, . and -, the first one a letter or digit",
        ),
    ] = "worker"
    tags: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=64)] = ()
    internet: bool = True


class JobLimits(Section, frozen=True):
    """What one job on this board may take: 0 is no limit. `memory` in bytes, `cpu` in percent of one core, `tasks` are
    processes and threads.
    """

    memory: _Size = 0
    cpu: Annotated[int, Meta(ge=0, le=100_000)] = 0
    tasks: Annotated[int, Meta(ge=0, le=4_194_304)] = 512


class JobKeeping(Section, frozen=True):
    """The retention of finished jobs: the newest `count`, none older than `days`, and at most `size` bytes of all that
    they take: records, payloads, scripts, results and output.
    """

    days: Annotated[float, Meta(gt=0, le=36_500)] = 30
    count: Count = 10_000
    size: _Size = 1 << 30


class JobHttp(Section, frozen=True):
    """Where the task `http_request` may go. `allow_private`: also to loopback, link-local and private addresses."""

    allow_private: bool = False
    response_limit: Annotated[int, Meta(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024


class JobSsh(Section, frozen=True):
    """`per_host` sessions share one connection (an sshd allows 10 by default); `idle` is how long (seconds) an unused
    connection is kept; `keepalive` is how often (seconds) a silent host is asked, and three times unanswered is lost.
    """

    per_host: Annotated[int, Meta(ge=1, le=1000)] = 10
    hosts: Annotated[int, Meta(ge=1, le=10_000)] = 100
    connect_timeout: Annotated[float, Meta(ge=0.1, le=600)] = 15
    keepalive: Annotated[float, Meta(ge=0.1, le=3600)] = 15
    idle: Annotated[float, Meta(ge=0, le=86_400)] = 300


class JobWorkers(Section, frozen=True):
    """Pull workers: `offline_after` is how long (seconds) one may be silent, `poll_hold` how long an idle poll that
    names no time of its own is held open.
    """

    offline_after: Annotated[float, Meta(ge=1, le=86_400)] = 30
    poll_hold: Annotated[float, Meta(ge=0, le=60)] = 2
    upload_limit: Annotated[int, Meta(ge=1024, le=1 << 42)] = 1 << 30
    upload_days: Annotated[float, Meta(gt=0, le=3650)] = 7
    unpacked_limit: Annotated[int, Meta(ge=1024, le=1 << 42)] = 4 << 30
    members: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000


class Jobs(Section, frozen=True):
    """`users` are those as which a job may ask to run; without one it runs as `user`, and where that is empty as a user
    of its own that systemd makes for it. `slots` are how many run on this board at once. `ageing` is how many seconds
    of waiting weigh as much as one step of priority. `queue` is how many may wait, `queue_bytes` how much all that have
    not ended may take in the store, `work_limit` what one may be given: its script or payload, and its metadata.
    """

    enabled: bool = True
    task_types: tuple[TaskType, ...] = ("echo", "sleep", "system_info", "http_request", "command", "python_eval")
    user: str = ""
    users: tuple[_UserName, ...] = ()
    slots: Annotated[int, Meta(ge=1, le=10_000)] = 32
    queue: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    queue_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 40)] = 256 << 20
    work_limit: Annotated[int, Meta(ge=1024, le=16 << 20)] = 1 << 20
    ageing: Annotated[float, Meta(ge=1, le=86_400)] = 120
    retry_delay: Annotated[float, Meta(ge=0, le=3600)] = 2
    timeout: Annotated[float, Meta(ge=1, le=31_536_000)] = 300
    longest: Annotated[float, Meta(ge=1, le=31_536_000)] = 86_400
    output_limit: Annotated[int, Meta(ge=1024, le=1 << 40)] = 16 << 20
    private_network: bool = False
    node: JobNode = JobNode()
    limits: JobLimits = JobLimits()
    keep: JobKeeping = JobKeeping()
    http: JobHttp = JobHttp()
    ssh: JobSsh = JobSsh()
    workers: JobWorkers = JobWorkers()

    def __post_init__(self) -> None:
        if self.user and self.user not in self.users:
            raise ValidationError([FieldError("user", "must be one of users")])
