"""What a task that ran as a process answers: made of how it ended and what it printed."""

from typing import Any

import msgspec
from msgspec.structs import replace

from homed.jobs.records import Result, Task

LONGEST_ANSWER = 1 << 20
_OUT_OF_TIME = frozenset({"SIGXCPU", "SIGKILL", "SIGSEGV"})


def answered(task: Task, result: Result, stdout: str, stderr: str) -> Result:
    """The result with its `data`: for a command what it printed, for an expression its value."""
    match task.type:
        case "command":
            return replace(
                result, data={"stdout": stdout, "stderr": stderr, "exit_code": result.exit_code, "success": result.good}
            )
        case "python_eval":
            return _evaluated(task, result, stdout)
        case _:
            return result


def _evaluated(task: Task, result: Result, stdout: str) -> Result:
    """The interpreter says what went wrong; where it cannot, it took more than it may."""
    if result.timed_out:
        return result
    try:
        said: Any = msgspec.json.decode(stdout)
    except (msgspec.DecodeError, RecursionError):
        said = None
    if isinstance(said, dict) and result.good and "result" in said:
        return replace(result, data={"result": said["result"], "expression": task.payload.get("expression", "")})
    if isinstance(said, dict) and isinstance(said.get("code"), str):
        return replace(result, code=said["code"], error=str(said.get("error", "")))
    if result.signal in _OUT_OF_TIME:
        return replace(result, code="LIMIT_EXCEEDED", error="the expression took more time or memory than it may")
    return result if not result.good else replace(result, code="EXPRESSION_INVALID", error="it gave no answer")
