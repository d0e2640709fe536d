"""The command line's way to homed: which socket it takes, and what it says if it may open none."""

from pathlib import Path

import pytest

from homed import cli, state
from homed.control import Control
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
    assert capsys.readouterr().err == (f"homed: cannot open {tmp_path}/put-back: permission denied: run it as root\n")
