"""Which finished jobs go: a pure decision over the oldest of them."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from homed.config.jobs import JobKeeping


class Finished(NamedTuple):
    """A finished job. `size` is the total of its record, its content and its output, in bytes."""

    id: str
    finished_at: datetime
    size: int


def retain(oldest: Iterable[Finished], count: int, size: int, now: datetime, keep: JobKeeping) -> list[str]:
    """The ids of those that are to go, of the `oldest` (in order). `count` finished jobs there are, which take
    `size` bytes in all. One that finished in the future, by a clock that went back, is not old.
    """
    gone: list[str] = []
    earliest = now - timedelta(days=keep.days)
    for job in oldest:
        if job.finished_at >= earliest and count <= keep.count and size <= keep.size:
            break
        gone.append(job.id)
        count -= 1
        size -= job.size
    return gone
