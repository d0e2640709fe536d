"""What a spawner leaves behind."""

from pathlib import Path

import pytest

from homed.jobs.records import Result
from homed.jobs.spawner import marks
from homed.jobs.spawner.marks import Identity

_ONE = Identity("b" * 32, 17, 4711)


def test_an_attempt_is_taken_up_by_one_alone(tmp_path: Path) -> None:
    assert marks.taken_up_by(tmp_path) is None
    marks.take_up(tmp_path, _ONE)
    assert marks.taken_up_by(tmp_path) == _ONE
    with pytest.raises(FileExistsError):
        marks.take_up(tmp_path, _ONE)
    assert not marks.never(tmp_path)


def test_what_never_is_to_begin_is_not_taken_up(tmp_path: Path) -> None:
    assert marks.never(tmp_path)
    assert marks.never(tmp_path)
    assert marks.taken_up_by(tmp_path) is None
    with pytest.raises(FileExistsError):
        marks.take_up(tmp_path, _ONE)


@pytest.mark.parametrize(
    ("end", "result"),
    [
        (marks.exited(0), Result(exit_code=0)),
        (marks.exited(9), Result(exit_code=9, code="EXIT", error="it ended with 9")),
        (marks.signalled("SIGKILL"), Result(signal="SIGKILL", code="SIGNAL", error="it was ended by SIGKILL")),
        (marks.refused("JOB_NOT_STARTED", "no such file"), Result(code="JOB_NOT_STARTED", error="no such file")),
    ],
)
def test_an_end_is_read_as_it_was_marked(tmp_path: Path, end: str, result: Result) -> None:
    assert marks.end(tmp_path) == ""
    marks.ended(tmp_path, end)
    assert marks.result(marks.end(tmp_path)) == result


def test_a_process_is_read_as_it_was_marked(tmp_path: Path) -> None:
    assert marks.process(tmp_path) is None
    marks.runs(tmp_path, _ONE._replace(boot=""))
    assert marks.process(tmp_path) == _ONE._replace(boot="")


def test_whatever_was_said_of_a_refusal_can_be_marked(tmp_path: Path) -> None:
    marks.ended(tmp_path, marks.refused("JOB_NOT_STARTED", "a\0b" + "ü" * 10_000))
    assert marks.result(marks.end(tmp_path)).code == "JOB_NOT_STARTED"
