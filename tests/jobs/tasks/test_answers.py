"""What tasks that run as processes answer."""

import pytest

from homed.jobs.records import Result, Task
from homed.jobs.tasks.answers import answered

_EXPRESSION = Task("python_eval", {"expression": "1 + 1"})


@pytest.mark.parametrize(("code", "good"), [(0, True), (3, False)])
def test_a_command_answers_what_it_printed(code: int, good: bool) -> None:
    result = answered(
        Task("command", {"command": "x"}), Result(exit_code=code, code="" if good else "EXIT"), "out", "err"
    )
    assert result.data == {"stdout": "out", "stderr": "err", "exit_code": code, "success": good}


def test_an_expression_answers_its_value() -> None:
    result = answered(_EXPRESSION, Result(exit_code=0), '{"result":[2]}', "")
    assert result.good and result.data == {"result": [2], "expression": "1 + 1"}


def test_a_wrong_expression_fails_with_its_code() -> None:
    said = '{"code":"EXPRESSION_INVALID","error":"no"}'
    result = answered(_EXPRESSION, Result(exit_code=1, code="EXIT"), said, "")
    assert (result.code, result.error, result.good) == ("EXPRESSION_INVALID", "no", False)


@pytest.mark.parametrize("signal", ["SIGXCPU", "SIGKILL", "SIGSEGV"])
def test_an_expression_that_was_ended_for_what_it_took_says_so(signal: str) -> None:
    assert answered(_EXPRESSION, Result(signal=signal, code="SIGNAL"), "", "").code == "LIMIT_EXCEEDED"


@pytest.mark.parametrize("stdout", ["", "x", "[1]", '{"other":1}', '{"code":5}'])
def test_an_answer_that_is_none_is_a_failure(stdout: str) -> None:
    assert not answered(_EXPRESSION, Result(exit_code=0), stdout, "").good
    assert answered(_EXPRESSION, Result(exit_code=1, code="EXIT"), stdout, "").code == "EXIT"


def test_one_that_was_out_of_time_stays_that() -> None:
    result = Result(timed_out=True, signal="SIGKILL", code="TIMEOUT")
    assert answered(_EXPRESSION, result, '{"result":1}', "") == result


def test_what_homed_does_itself_has_answered_already() -> None:
    result = Result(data={"echo": 1})
    assert answered(Task("echo", {}), result, "", "") is result
