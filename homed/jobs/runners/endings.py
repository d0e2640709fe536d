"""What came of a unit: systemd's words for the end of its main process, as a result."""

import signal
from typing import Final

from homed.jobs.records import Result

_EXITED: Final = 1
# What systemd's own child says by its exit code, before there is a program: systemd.exec(5), "Process Exit Codes".
_BEFORE: Final = {
    200: "its working directory cannot be entered",
    203: "its program cannot be executed",
    208: "its standard input cannot be opened",
    209: "its output cannot be opened",
    216: "there is no group for its user",
    217: "its user is not there",
    218: "its capabilities cannot be set",
    222: "its output cannot be opened",
    226: "its namespaces cannot be set up",
    228: "its filter of system calls cannot be set up",
}
_FIRST_BEFORE, _LAST_BEFORE = 200, 245


def ended(code: int, status: int, result: str) -> Result:
    """`code` and `status` as in wait(2): 1 is exited with that status, else killed by that signal. `result` is success,
    exit-code, signal, core-dump, timeout, oom-kill, …
    """
    by = "" if code in (0, _EXITED) else signal_name(status)
    match result:
        case "timeout":
            return Result(signal=by, code="TIMEOUT", error="it ran for longer than it may", timed_out=True)
        case "oom-kill":
            return Result(signal=by, code="LIMIT_EXCEEDED", error="it took more memory than it may")
        case _ if by:
            return Result(signal=by, code="SIGNAL", error=f"it was ended by {by}")
        case _ if code == _EXITED:
            return Result(
                exit_code=status, code="EXIT" if status else "", error=f"it ended with {status}" * bool(status)
            )
        case _:
            return lost(f"systemd says of it: {result}")


def never_ran(code: int, status: int, result: str) -> Result:
    """Of a unit whose program never ran."""
    if code == _EXITED and _FIRST_BEFORE <= status <= _LAST_BEFORE:
        return not_started(_BEFORE.get(status, f"systemd could not set it up (exit code {status})"))
    if code:
        return ended(code, status, result)
    if result == "success":
        return not_started("it was stopped by somebody else before it began")
    return not_started(f"systemd could not start it: {result}")


def signal_name(number: int) -> str:
    """`SIGKILL`; one without a name by its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def not_started(why: str) -> Result:
    return Result(code="JOB_NOT_STARTED", error=why)


def lost(why: str) -> Result:
    return Result(code="JOB_LOST", error=why)
