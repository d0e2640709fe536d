"""What a job is to the machine."""

from pathlib import Path
from typing import Any

import pytest

from homed.config.jobs import Jobs as Config
from homed.errors import JobError
from homed.jobs.launch import PATH, Place, launch
from homed.jobs.records import Archive, Command, Script, Task, Work
from tests.support.subprocess_world import job

_PLACE = Place(Path("/p/home"), Path("/p"), Path("/uploads"))


def test_a_command_is_a_line_for_the_shell() -> None:
    one = job(Command("echo", "a b"), attempt=2)
    made = launch(one, _PLACE, Config())
    assert made.argv == ("/bin/sh", "-c", "echo a b")
    assert made.environment == {
        "HOMED_JOB_ID": one.id,
        "HOMED_JOB_ATTEMPT": "2",
        "PATH": PATH,
        "HOME": "/p/home",
        "LANG": "C.UTF-8",
    }
    assert (made.working_directory, made.stdin, made.files, made.reads, made.user) == (
        Path("/p/home"),
        None,
        (),
        (),
        "",
    )


def test_a_script_is_a_file_that_its_user_can_read() -> None:
    made = launch(job(Script("echo é", "sh")), _PLACE, Config())
    (file,) = made.files
    assert made.argv[0].endswith("/sh")
    assert made.argv[1:] == ("/p/script",)
    assert (file.path, file.content, file.mode) == (Path("/p/script"), "echo é".encode(), 0o644)
    assert made.reads == (file.path,)


@pytest.mark.parametrize("url", ["/uploads/1-a.zip", "1-a.zip", "/uploads/../../1-a.zip", "http://x/1-a.zip"])
def test_an_archive_comes_from_the_uploads_whatever_its_address(url: str) -> None:
    made = launch(job(Archive("a\r\nb", url, "a.zip")), _PLACE, Config())
    assert made.stdin == Path("/uploads/1-a.zip")
    assert made.argv[-1] == "a\nb"


@pytest.mark.parametrize("url", ["", "/", "..", "/uploads/.."])
def test_an_archives_address_leads_to_nothing_but_a_file_of_the_uploads(url: str) -> None:
    stdin = launch(job(Archive("a", url, "a.zip")), _PLACE, Config()).stdin
    assert stdin is not None
    assert stdin.parent == Path("/uploads")
    assert stdin.name != ".."


def test_a_commands_environment_cannot_change_by_what_its_processes_are_found() -> None:
    one = job(Task("command", {"command": "x", "env": {"HOMED_JOB_ID": "y", "PATH": "/z", "A": "1"}}))
    environment = launch(one, _PLACE, Config()).environment
    assert (environment["HOMED_JOB_ID"], environment["PATH"], environment["A"]) == (one.id, "/z", "1")


@pytest.mark.parametrize(("asked", "configured", "found"), [("", "", ""), ("", "a", "a"), ("b", "a", "b")])
def test_a_job_runs_as_whom_it_asks_to_or_as_configured(asked: str, configured: str, found: str) -> None:
    config = Config(user=configured, users=("a", "b"))
    assert launch(job(Command("x"), user=asked), _PLACE, config).user == found


def test_an_expression_is_read_and_not_an_argument() -> None:
    made = launch(job(Task("python_eval", {"expression": "1 + 1"})), _PLACE, Config())
    (file,) = made.files
    assert (file.content, made.stdin) == (b"1 + 1", file.path)
    assert "1 + 1" not in made.argv


@pytest.mark.parametrize(
    ("work", "code"),
    [
        (Script("x", "nosuchshell"), "SHELL_NOT_FOUND"),
        (Script("x", "./sh"), "SHELL_NOT_FOUND"),
        (Command("a\0b"), "JOB_NOT_STARTED"),
        (Task("command", {"command": "x", "env": {"A": "\0"}}), "JOB_NOT_STARTED"),
        (Task("command", {"command": "nosuchprogram", "args": ["x"]}), "JOB_NOT_STARTED"),
        (Task("echo", {}), "JOB_NOT_STARTED"),
    ],
)
def test_what_cannot_be_run_is_told_before(work: Work, code: str) -> None:
    with pytest.raises(JobError) as raised:
        launch(job(work), _PLACE, Config())
    assert raised.value.code == code


def test_a_payload_is_not_changed() -> None:
    payload: dict[str, Any] = {"command": "x", "env": {"A": "1"}}
    launch(job(Task("command", payload)), _PLACE, Config())
    assert payload == {"command": "x", "env": {"A": "1"}}


def test_text_from_windows_runs_as_it_was_meant() -> None:
    for work, at in (
        (Command("\ufeffecho hi\r\n"), -1),
        (Task("command", {"command": "echo hi\r\n"}), -1),
        (Archive("echo hi\r\n", "/uploads/1-a.zip", "a.zip"), -1),
    ):
        assert launch(job(work), _PLACE, Config()).argv[at] == "echo hi\n"
    made = launch(job(Script("\ufeffecho hi\r\n", "bash")), _PLACE, Config())
    assert made.files[0].content == b"echo hi\n"
