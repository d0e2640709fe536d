"""What a job is: its work, where it may run, how far it is, and what came of it. Stored as JSON, one record each."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

BUCKET = "jobs"
PRIORITIES = {"low": 2, "normal": 5, "high": 8, "urgent": 10}


class State(StrEnum):
    """`pending` waits for its time (a retry's backoff), `queued` for a node, `assigned` has one."""

    PENDING = "pending"
    QUEUED = "queued"
    ASSIGNED = "assigned"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT})


class Origin(StrEnum):
    """The API that a job came by: each lists its own."""

    NEWREMORA = "newremora"
    EXECUTOR = "executor"
    RETIRE = "retire"


class Command(msgspec.Struct, frozen=True, tag="command", tag_field="kind"):
    """A line for the shell: `command`, a space and `args`, where there are any."""

    command: str
    args: str = ""

    @property
    def line(self) -> str:
        return f"{self.command} {self.args}" if self.args else self.command


class Script(msgspec.Struct, frozen=True, tag="script", tag_field="kind"):
    """A text for an interpreter, which gets it as a file."""

    script: str
    shell: str = "/bin/bash"


class Archive(msgspec.Struct, frozen=True, tag="archive", tag_field="kind"):
    """Lines for the shell, run in the folder into which an archive was unpacked. `url` is where the archive is."""

    command: str
    url: str
    filename: str


class Task(msgspec.Struct, frozen=True, tag="task", tag_field="kind"):
    """A typed task; its payload is of the type's own shape, and was checked."""

    type: str
    payload: Mapping[str, Any] = {}


Work = Command | Script | Archive | Task


class Requirements(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node must have; memory and storage in GiB."""

    min_cpu_cores: int = 0
    min_memory_gb: float = 0
    min_storage_gb: float = 0
    required_platform: str | None = None
    required_role: str | None = None
    required_tags: tuple[str, ...] = ()
    gpu_required: bool = False
    internet_required: bool = False


class Handle(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a runner finds what it started again: the boot in which that was, and a unit, or a process and its start
    (clock ticks since the boot, as in /proc/PID/stat).
    """

    runner: str
    boot: str = ""
    unit: str = ""
    pid: int = 0
    started: int = 0


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of an attempt. `code` is stable and empty where it succeeded; `exit_code` is of a process that ended
    by itself, `signal` names the one that ended it (`SIGKILL`); `data` is what a typed task answers.

    `reported`: a pull worker said so itself, whatever the exit code.
    """

    exit_code: int | None = None
    signal: str = ""
    code: str = ""
    error: str = ""
    data: Any = None
    timed_out: bool = False
    reported: bool = False

    @property
    def good(self) -> bool:
        return not self.code and not self.timed_out and self.exit_code in (0, None) and not self.signal


class Beside(msgspec.Struct, frozen=True, omit_defaults=True):
    """The sizes in bytes of a job's separate content: the `work` with the metadata, the `data` of the result.

    The record then has only the beginning of the work; `characters` is the full length of a command or a script.
    """

    work: int = 0
    data: int = 0
    characters: int = 0


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`attempt` counts from 1 with the first assignment. `timeout` (seconds) is for each attempt, `deadline` for all of
    it, waiting included. `token` is the fencing token of the assignment: the revision of the record before it.

    `asked_to_end` is the state in which it is to end (cancelled, timed_out), from when that was asked, and `why` what
    was said then. `given_back` counts the attempts that a node gave back without fault of the job: they are no tries.
    `size` is that of its output, in bytes. `beside` is what of its content is not in here (see `contents`).
    """

    id: str
    origin: Origin
    work: Work
    host: str | None = None
    state: State = State.PENDING
    priority: int = 5
    timeout: float | None = None
    deadline: datetime | None = None
    max_retries: int = 0
    requirements: Requirements = Requirements()
    metadata: Mapping[str, Any] = {}
    user: str = ""
    key: str = ""
    submitted_by: str = ""
    copied_from: str = ""
    created_at: datetime
    updated_at: datetime
    queued_at: datetime | None = None
    not_before: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempt: int = 0
    node: str | None = None
    token: int = 0
    handle: Handle | None = None
    asked_to_end: State | None = None
    why: str = ""
    given_back: int = 0
    size: int = 0
    result: Result | None = None
    beside: Beside = Beside()

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def tries(self) -> int:
        return self.attempt - self.given_back

    @property
    def kind(self) -> str:
        return str(type(self.work).__struct_config__.tag)

    @property
    def duration(self) -> float | None:
        """Seconds that the last attempt took, or None where none has begun, or one has not ended."""
        if self.started_at is None or self.finished_at is None:
            return None
        return max(0.0, (self.finished_at - self.started_at).total_seconds())


def encode(job: Job) -> bytes:
    return msgspec.json.encode(job)


def decode(data: bytes) -> Job:
    return msgspec.json.decode(data, type=Job)
