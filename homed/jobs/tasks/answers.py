"""What a task that ran as a process answers: made of how it ended and what it printed."""

import msgspec
from msgspec.structs import replace

from homed.jobs.records import Result, Task

LONGEST_ANSWER = 1 << 20
_SMALL_CHARACTERS = 4096
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


class _Said(msgspec.Struct, frozen=True):
    result: msgspec.Raw = msgspec.Raw()
    code: str = ""
    error: str = ""


def _said(stdout: str) -> _Said | None:
    try:
        return msgspec.json.decode(stdout, type=_Said)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _evaluated(task: Task, result: Result, stdout: str) -> Result:
    """The interpreter says what went wrong; where it cannot, it took more than it may."""
    if result.timed_out:
        return result
    said = _said(stdout)
    if result.good and said is not None and bytes(said.result):
        data = {"result": said.result, "expression": task.payload.get("expression", "")}
        if len(stdout) <= _SMALL_CHARACTERS:
            return replace(result, data=msgspec.json.decode(msgspec.json.encode(data)))
        # As JSON: its objects can take many times as much.
        return replace(result, data=msgspec.Raw(msgspec.json.encode(data)))
    if said is not None and said.code:
        return replace(result, code=said.code, error=said.error)
    if result.signal in _OUT_OF_TIME:
        return replace(result, code="LIMIT_EXCEEDED", error="the expression took more time or memory than it may")
    return result if not result.good else replace(result, code="EXPRESSION_INVALID", error="it gave no answer")
