"""What a process says by its output, when it has ended: a typed task its data, an archive why it was refused."""

import asyncio

import msgspec

from homed.jobs import inside
from homed.jobs.output.order import Stream
from homed.jobs.output.output import Output
from homed.jobs.records import Archive, Job, Result, Task
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
        case Archive():
            said = await asyncio.to_thread(output.read, Stream.STDERR, 0, _SHOWN)
            refused = inside.refusal(result.exit_code, said.decode(errors="replace"))
            return result if refused is None else msgspec.structs.replace(result, code=refused[0], error=refused[1])
        case _:
            return result
    return answers.answered(job.work, result, stdout, stderr)


def _excerpts(output: Output) -> tuple[str, str]:
    return output.excerpt(Stream.STDOUT, _SHOWN), output.excerpt(Stream.STDERR, _SHOWN)
