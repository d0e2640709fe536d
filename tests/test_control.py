"""The command line's way to homed: which socket it takes, and what it says if it may open none."""

from pathlib import Path

import pytest

from homed import cli, state
from homed.control import Control, NotRunningError
from tests.support.control import Answers


def test_a_caller_who_cannot_enter_the_state_directory_uses_the_socket_of_the_group(tmp_path: Path) -> None:
    with Answers(tmp_path) as homed:
        homed.on("GET", "jobs", (200, {"jobs": []}))
        control = Control(tmp_path / "closed", group_socket=tmp_path / "control.sock")
        assert control.get("jobs") == {"jobs": []}


def test_the_state_directorys_own_socket_is_preferred(tmp_path: Path) -> None:
    with Answers(tmp_path) as homed:
        homed.on("GET", "jobs", (200, {"jobs": []}))
        assert Control(tmp_path, group_socket=tmp_path / "none").get("jobs") == {"jobs": []}


def test_a_command_that_may_not_read_the_state_says_so_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path / "put-back"))

    monkeypatch.setattr(state, "require_whole", refuse)
    assert cli.main(["key", "list", "--state", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"homed: cannot open the state in {tmp_path}: permission denied: run it as root\n"
    )


def test_a_member_of_the_group_is_told_what_opens_its_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("homed.control._Connection.connect", refuse)
    missing = tmp_path / "api.sock"
    with pytest.raises(NotRunningError, match=r"is not there: enable homed\.socket, or add unix:"):
        Control(tmp_path, group_socket=missing).get("jobs")
    missing.touch()
    with pytest.raises(NotRunningError, match=r"only root may open .*, and members of the group homed .*api\.sock$"):
        Control(tmp_path, group_socket=missing).get("jobs")


def test_a_reset_that_is_not_permitted_is_not_taken_for_another_homed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied", str(tmp_path / "lock"))

    monkeypatch.setattr(state, "_open_lock", refuse)
    assert cli.main(["state", "reset", "--yes", "--state", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"homed: cannot open the state in {tmp_path}: permission denied: run it as root\n"
