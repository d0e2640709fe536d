"""A homed that does nothing but run jobs as subprocesses, and writes down what it knows: made to be killed.

`python -m tests.support.played_homed ROOT COUNT` brings jobs 0 to COUNT - 1 to their end, whatever an earlier one has
done with them, and ends when all are.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from homed.jobs.ports import Attempt
from homed.jobs.records import Command, Handle, Job, Result
from tests.support.killed_board import write
from tests.support.subprocess_world import World, job, world


def command(root: Path, number: int) -> str:
    """It runs for up to 2 s, writes down that it ran, prints, and ends with a code of its own."""
    ran = f"echo $HOMED_JOB_ATTEMPT >> {root}/ran/{number}"
    return f"{ran}; echo out {number}; echo err {number} >&2; sleep {number % 8 / 4}; echo end; exit {number % 5}"


def the_job(root: Path, number: int, known: dict[str, Any]) -> Job:
    handle = msgspec.convert(known["handle"], Handle) if known.get("handle") else None
    attempt = known.get("attempt", 1)
    return job(Command(command(root, number)), id=f"job-{number}", attempt=attempt, handle=handle)


def known(root: Path, number: int) -> dict[str, Any]:
    path = root / "known" / str(number)
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


async def main(root: Path, count: int) -> None:
    async with world(root) as w:
        await asyncio.gather(*(_bring_to_end(w, number) for number in range(count)))


async def _bring_to_end(w: World, number: int) -> None:
    facts = known(w.root, number)
    path = w.root / "known" / str(number)
    while "result" not in facts:
        fresh = "attempt" not in facts or facts.pop("again", False)
        if fresh:
            facts = {"attempt": facts.get("attempt", 0) + 1}
            write(path, facts)
        one = the_job(w.root, number, facts)
        result = await _attempt(w, one, path, fresh=bool(fresh))
        if result is None:
            facts = {"attempt": one.attempt, "again": True}
        else:
            facts = {**known(w.root, number), "result": msgspec.to_builtins(result)}
        write(path, facts)
        await w.runner.release(one)


async def _attempt(w: World, one: Job, path: Path, *, fresh: bool) -> Result | None:
    async def started(handle: Handle) -> None:
        write(path, {"attempt": one.attempt, "handle": msgspec.to_builtins(handle)})

    attempt = Attempt(one, w.outputs.create(one.id, one.attempt), started, lambda _: None)
    return await (w.runner.run(attempt) if fresh else w.runner.resume(attempt))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
