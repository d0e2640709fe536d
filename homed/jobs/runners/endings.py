"""What came of a process, in the words that every runner has for it."""

import signal

from homed.jobs.records import Result


def exited(code: int) -> Result:
    return Result(exit_code=code, code="EXIT", error=f"it exited with code {code}") if code else Result(exit_code=0)


def killed(number: int, why: str = "") -> Result:
    name = signal_name(number)
    return Result(signal=name, code="SIGNAL", error=why or f"it was ended by {name}")


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
