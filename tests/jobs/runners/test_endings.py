"""systemd's words for an end, and homed's."""

import pytest

from homed.jobs.records import Result
from homed.jobs.runners.endings import ended, never_ran

EXITED, KILLED, DUMPED = 1, 2, 3


@pytest.mark.parametrize(
    ("code", "status", "result", "expected"),
    [
        (EXITED, 0, "success", Result(exit_code=0)),
        (EXITED, 3, "exit-code", Result(exit_code=3, code="EXIT", error="it ended with 3")),
        # What a program itself makes of the codes that are systemd's before there is one.
        (EXITED, 203, "exit-code", Result(exit_code=203, code="EXIT", error="it ended with 203")),
        # TERM is a clean end of a service, and none of a job.
        (KILLED, 15, "success", Result(signal="SIGTERM", code="SIGNAL", error="it was ended by SIGTERM")),
        (KILLED, 9, "signal", Result(signal="SIGKILL", code="SIGNAL", error="it was ended by SIGKILL")),
        (DUMPED, 11, "core-dump", Result(signal="SIGSEGV", code="SIGNAL", error="it was ended by SIGSEGV")),
        (KILLED, 60, "signal", Result(signal="SIG60", code="SIGNAL", error="it was ended by SIG60")),
    ],
)
def test_a_program_that_ran_is_told_by_its_end(code: int, status: int, result: str, expected: Result) -> None:
    assert ended(code, status, result) == expected


def test_running_out_of_time_or_memory_is_told_before_the_signal() -> None:
    late = ended(KILLED, 15, "timeout")
    assert (late.timed_out, late.code, late.signal) == (True, "TIMEOUT", "SIGTERM")
    big = ended(KILLED, 9, "oom-kill")
    assert (big.timed_out, big.code, big.signal) == (False, "LIMIT_EXCEEDED", "SIGKILL")


@pytest.mark.parametrize(
    ("code", "status", "result", "error"),
    [
        (EXITED, 203, "exit-code", "its program cannot be executed"),
        (EXITED, 217, "exit-code", "its user is not there"),
        (EXITED, 244, "exit-code", "systemd could not set it up (exit code 244)"),
        (0, 0, "resources", "systemd could not start it: resources"),
        (0, 0, "success", "it was stopped by somebody else before it began"),
    ],
)
def test_what_never_ran_says_why(code: int, status: int, result: str, error: str) -> None:
    assert never_ran(code, status, result) == Result(code="JOB_NOT_STARTED", error=error)


def test_what_was_ended_while_it_was_set_up_is_told_by_the_signal() -> None:
    assert never_ran(KILLED, 9, "signal").signal == "SIGKILL"


def test_what_nobody_understands_is_lost() -> None:
    assert ended(0, 0, "watchdog").code == "JOB_LOST"
