"""A page out of a hundred thousand jobs, with a filter and a sort, over HTTP."""

import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from homed.jobs.records import BUCKET, Command, Job, Origin, Result, Script, State, encode
from homed.store.sqlite import SqliteStore
from tests.bench.bed import Bed, Served, Tables
from tests.bench.figures import Figure, at_most
from tests.support.wait import until

_JOBS: Final = 100_000
_ASKED: Final = 400
_TABLES: Final[Tables] = {
    "api.limits": {"enabled": False},
    "containers": {"engine": "unix:///run/no-engine-is-needed.sock"},
    "jobs.keep": {"count": 1_000_000, "days": 36_500},
}
_FILTERS: Final = ("status=completed", "status=failed", "server_id=local", "status=canceled&server_id=local")
_SORTS: Final = ("created_at", "started_at", "finished_at")
_BEGAN: Final = datetime(2026, 1, 1, tzinfo=UTC)


def why_not() -> str | None:
    return None


def run(bed: Bed) -> Iterator[Figure]:
    folder = Path(tempfile.mkdtemp(dir=bed.folder))
    homed = Served(folder, "", _TABLES)
    homed.state.mkdir(parents=True)
    asyncio.run(_fill(homed.state / "homed.db"))
    began = time.monotonic()
    homed.launch()
    try:
        until("homed to answer", homed.api.is_live, deadline=120)
        until("all jobs to be listed", lambda: _total(homed) == _JOBS, deadline=120)
        ready = time.monotonic() - began
        taken = sorted(_ask(homed))
        found = sorted(_time(homed, f"search=echo%20{random.randrange(_JOBS)}") for _ in range(20))
        note = (
            f"p50 {taken[len(taken) // 2]:.1f} ms; a search p50 {found[10]:.0f} ms; started in {ready:.1f} s, "
            f"{homed.pss():.0f} MB"
        )
        p99 = taken[int(len(taken) * 0.99)]
        yield at_most(f"a page of {_JOBS:,} jobs with a filter and a sort, p99", 20, [p99], "ms", note)
    finally:
        homed.stop()


def _ask(homed: Served) -> Iterator[float]:
    """Milliseconds of each: every filter with every sort, pages in front and further back."""
    asked = itertools.cycle(itertools.product(_FILTERS, _SORTS, ("asc", "desc"), (1, 7, 50)))
    for what, sort, order, page in itertools.islice(asked, _ASKED):
        yield _time(homed, f"{what}&sort_by={sort}&sort_order={order}&page={page}&limit=20")


def _time(homed: Served, query: str) -> float:
    began = time.perf_counter()
    answer = homed.api.get(f"/api/v1/jobs?{query}")
    taken = time.perf_counter() - began
    if answer.status != 200:
        raise RuntimeError(f"no list for {query}: {answer.body[:300]!r}")
    return taken * 1000


def _total(homed: Served) -> int:
    found: int = homed.api.get("/api/v1/jobs?limit=1").json["pagination"]["total"]
    return found


async def _fill(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    for first in range(0, _JOBS, 1000):
        jobs = [_job(number) for number in range(first, first + 1000)]
        await store.put_all(BUCKET, [(job.id, encode(job), 0) for job in jobs])
    await store.close()


def _job(number: int) -> Job:
    at = _BEGAN + timedelta(seconds=number)
    state = random.choices((State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT), (70, 20, 7, 3))[0]
    line = f"echo {number}"
    return Job(
        id=f"{random.getrandbits(128):032x}", origin=Origin.NEWREMORA, state=state, priority=random.randint(1, 10),
        work=Command(line) if number % 2 else Script(f"#!/bin/sh\n{line}\n"), created_at=at, attempt=1, node="board",
        updated_at=at + timedelta(seconds=9), started_at=at + timedelta(seconds=random.random()),
        finished_at=at + timedelta(seconds=1 + 99 * random.random()), size=random.randrange(10_000),
        result=Result(exit_code=0 if state is State.SUCCEEDED else 1),
    )  # fmt: skip
