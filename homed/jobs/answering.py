"""What a typed task that ran as a process answers, read from its output when it has ended."""

import asyncio

from homed.jobs.output.order import Stream
from homed.jobs.output.output import Output
from homed.jobs.records import Job, Result, Task
from homed.jobs.tasks import answers

# A record is read and written as a whole; all that was printed is in the files.
_SHOWN = 64 << 10


async def with_answer(job: Job, result: Result, output: Output) -> Result:
    """The result of an attempt, with what it answers where its type has an answer in its output."""
    match job.work:
        case Task(type="command"):
            stdout, stderr = await asyncio.to_thread(_excerpts, output)
        case Task(type="python_eval"):
            data = await asyncio.to_thread(output.read, Stream.STDOUT, 0, answers.LONGEST_ANSWER)
            stdout, stderr = data.decode(errors="replace"), ""
        case _:
            return result
    return answers.answered(job.work, result, stdout, stderr)


def _excerpts(output: Output) -> tuple[str, str]:
    return output.excerpt(Stream.STDOUT, _SHOWN), output.excerpt(Stream.STDERR, _SHOWN)
