"""What is asked for: a new job, and a page of those that there are."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec

from homed.jobs.records import Job, Origin, Requirements, State, Work

SortField = Literal["created_at", "started_at", "finished_at", "updated_at", "priority"]


# In the place of a host: this board itself.
LOCAL_HOST = "local"


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be. `id` where the API has a form of its own; `key` is the client's idempotency key: a second one of
    the same `origin` and `submitted_by` is the first. `timeout` (seconds) is for each attempt; None is the configured.
    """

    origin: Origin
    work: Work
    id: str | None = None
    host: str | None = None
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


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs, in which order, and which part of them. `host` may be LOCAL_HOST; `priorities` is a range, both ends
    in it; `search` is looked for in what a person wrote: the command and its arguments, the script, the task's type.
    """

    origin: Origin | None = None
    states: Sequence[State] = ()
    host: str | None = None
    node: str | None = None
    kind: str | None = None
    task_type: str | None = None
    priorities: tuple[int, int] | None = None
    search: str = ""
    sort: SortField = "created_at"
    descending: bool = True
    offset: int = 0
    limit: int = 20


class Page(NamedTuple):
    """`total` is how many there are in all."""

    jobs: Sequence[Job]
    total: int
