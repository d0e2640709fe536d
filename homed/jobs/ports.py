"""What the parts of jobs need of each other: a runner runs one attempt, wherever that is."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from homed.jobs.output.output import Output
from homed.jobs.records import Handle, Job, Result


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a job that was assigned to this board. `output` takes what it prints, in `output.folder`.

    `started` is to be awaited once it runs: it makes `running` durable. `progress` may be told between (0 to 1).
    The job may lack the large part of its content: `whole` has it for as long as that is needed.
    """

    job: Job
    output: Output
    started: Callable[[Handle], Awaitable[None]]
    progress: Callable[[float], None]
    content: Callable[[Job], AbstractAsyncContextManager[Job]] = nullcontext

    def whole(self) -> AbstractAsyncContextManager[Job]:
        """The job with all of its content, which takes memory until the context ends. HomedError."""
        return self.content(self.job)


class Runner(Protocol):
    """Runs attempts. A runner never changes a record: what it returns is written down by who called it.

    Where the coroutines are cancelled homed is stopping: what can go on without it goes on.
    """

    async def run(self, attempt: Attempt) -> Result:
        """To its end, and until its output is whole. It raises nothing on purpose but HomedError: then it never began,
        or it cannot be said what became of it (JOB_LOST).
        """
        ...

    async def resume(self, attempt: Attempt) -> Result | None:
        """The same for what an earlier homed had started (`job.handle`, or none where it was killed before it could
        write it down). None where it certainly never began: it is queued again. A Result with the code JOB_LOST where
        it is gone and nobody can say how it ended.
        """
        ...

    async def kill(self, job: Job) -> None:
        """End the whole process tree, within 2 s: TERM first, then KILL. `run` or `resume` returns then."""
        ...

    async def release(self, job: Job) -> None:
        """The result is durable: nothing more is needed of what the runner kept to find it again."""
        ...

    async def sweep(self, active: Callable[[], Sequence[Job]]) -> None:
        """Once, when homed begins: let go of what an earlier one has kept of jobs that are not among these any more."""
        ...

    async def close(self) -> None:
        """homed is stopping: what goes on without it goes on."""
        ...
