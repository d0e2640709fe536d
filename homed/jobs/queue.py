"""The order in which jobs are taken: by priority and by how long they have waited, in lanes that do not hold each
other up.
"""

import heapq
import itertools
from collections.abc import Iterator
from typing import NamedTuple

from homed.jobs import placement
from homed.jobs.records import Job, Requirements

_NORMAL = 5


class Lane(NamedTuple):
    """Jobs of one lane are alike in where they may run: where its first cannot go, none of the others can."""

    need: str
    host: str | None
    requirements: Requirements


def lane(job: Job) -> Lane:
    return Lane(placement.need(job), job.host, job.requirements)


def rank(job: Job, ageing: float) -> float:
    """The lowest goes first. A step of priority is worth `ageing` seconds of waiting: so the order of two jobs never
    changes while they wait, and none waits for ever: what comes later has to be ahead by so much more.
    """
    since = job.queued_at or job.created_at
    return since.timestamp() - (job.priority - _NORMAL) * ageing


class Queue:
    """The ids of the jobs that wait for a node."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, list[tuple[float, int, str]]] = {}
        self._where: dict[str, tuple[Lane, int]] = {}
        self._counter = itertools.count()

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, id: str) -> bool:
        return id in self._where

    def add(self, job: Job, ageing: float) -> None:
        """Twice does nothing more."""
        if job.id in self._where:
            return
        number, where = next(self._counter), lane(job)
        self._where[job.id] = (where, number)
        heapq.heappush(self._lanes.setdefault(where, []), (rank(job, ageing), number, job.id))

    def remove(self, id: str) -> None:
        """It need not be there."""
        found = self._where.pop(id, None)
        if found is not None:
            self._settle(found[0])

    def lanes(self) -> list[Lane]:
        """Those that have jobs, by the rank of their first."""
        return sorted(self._lanes, key=lambda one: self._lanes[one][0])

    def first(self, lane: Lane) -> str | None:
        heap = self._lanes.get(lane)
        return heap[0][2] if heap else None

    def waiting(self, lane: Lane) -> Iterator[str]:
        """All of a lane in their order."""
        for _, number, id in sorted(self._lanes.get(lane, ())):
            if self._where.get(id) == (lane, number):
                yield id

    def _settle(self, lane: Lane) -> None:
        """What was removed stays in the heap until it comes up, and is passed over then."""
        heap = self._lanes.get(lane)
        while heap and self._where.get(heap[0][2]) != (lane, heap[0][1]):
            heapq.heappop(heap)
        if heap is not None and not heap:
            del self._lanes[lane]
