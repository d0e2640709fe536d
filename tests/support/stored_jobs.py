"""Many large jobs, written to a store as homed and an older homed have written them."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from homed.clock import now
from homed.jobs import contents
from homed.jobs.records import BUCKET, Archive, Job, Origin, Requirements, Result, Script, State, Task, encode
from homed.store.base import Change
from homed.store.sqlite import SqliteStore

MEGABYTE = 1_000_000
_BATCH = 20
# Nobody fits it, so they wait.
NOBODY = Requirements(required_role="nobody")


def keys(size: int = MEGABYTE) -> dict[str, int]:
    """A payload of many small keys: about 65,000 in a megabyte of JSON."""
    return {f"key{i:06}": i % 10 for i in range(size // 14)}


def kinds(size: int = MEGABYTE) -> Sequence[Callable[[int, datetime], Job]]:
    """The kinds of large jobs, each as a function of a number and a time."""
    payload, text = keys(size), "# " + "x" * (size - 3) + "\n"

    def job(number: int, at: datetime, **more: Any) -> Job:
        fields: dict[str, Any] = {"id": f"job-{number:06}", "created_at": at, "updated_at": at, "queued_at": at} | more
        return Job(**fields)

    def ended(number: int, at: datetime, result: Result, **more: Any) -> Job:
        return job(
            number, at, state=State.SUCCEEDED, attempt=1, node="board", started_at=at, finished_at=at, result=result,
            **more,
        )  # fmt: skip

    return (
        lambda i, at: ended(i, at, Result(data={"echo": 1}), origin=Origin.RETIRE, work=Task("echo", payload)),
        lambda i, at: ended(i, at, Result(data={"echo": payload}), origin=Origin.RETIRE, work=Task("echo", {"a": 1})),
        lambda i, at: ended(i, at, Result(exit_code=0), origin=Origin.NEWREMORA, work=Script(text, "/bin/sh")),
        lambda i, at: job(
            i, at, state=State.QUEUED, origin=Origin.RETIRE, work=Task("echo", payload), requirements=NOBODY
        ),
        lambda i, at: job(i, at, state=State.QUEUED, origin=Origin.RETIRE, work=Task("echo", payload)),
        lambda i, at: job(i, at, state=State.QUEUED, origin=Origin.NEWREMORA, work=Script(text, "/bin/sh")),
        lambda i, at: job(
            i, at, state=State.QUEUED, origin=Origin.EXECUTOR, work=Archive("true", "/uploads/1-a.zip", "a.zip"),
            metadata={"mode": "distributed", "note": text},
        ),
    )  # fmt: skip


def changes(job: Job, *, inside: bool) -> Iterator[Change]:
    """The records of a job. `inside`: all in one, as an older homed has written it."""
    if inside:
        yield Change(BUCKET, job.id, encode(job), 0)
        return
    light, work, data = contents.split(job)
    yield Change(BUCKET, job.id, encode(light), 0)
    for keys, content in ((contents.work_keys(light), work), (contents.data_keys(light), data)):
        for key, piece in contents.pieces(keys, content or b""):
            yield Change(contents.BUCKET, key, piece)


def fill(state: Path, count: int, size: int = MEGABYTE, *, runnable: bool) -> None:
    """Write so many jobs of all kinds, an eighth of them as an older homed has.

    Nobody fits those that wait, unless `runnable`: then most can run.
    """
    asyncio.run(_fill(state / "homed.db", count, size, runnable=runnable))


async def _fill(path: Path, count: int, size: int, *, runnable: bool) -> None:
    store = SqliteStore(path)
    await store.open()
    # It is a test's data: a power cut may take it.
    await store._group.read(lambda connection: connection.execute("PRAGMA synchronous = OFF"))
    made, began = kinds(size), now() - timedelta(hours=1)
    for first in range(0, count, _BATCH):
        batch: list[Change] = []
        for number in range(first, min(count, first + _BATCH)):
            job = made[number % len(made)](number, began + timedelta(milliseconds=number))
            if not runnable and not job.ended:
                job = msgspec.structs.replace(job, requirements=NOBODY)
            batch += changes(job, inside=number // len(made) % 8 == 0)
        await store.write(batch)
    await store.close()


def peak(pid: int) -> int:
    """The most memory that a process has had resident, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
