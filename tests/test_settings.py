"""A change is all or nothing, outlives a restart, and never gives what only the file may give."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from homed.config import Config
from homed.errors import ConfigError, HomedError, StoreError, ValidationError
from homed.settings import Settings, parse_change


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "homed.toml"
    path.write_text("name = 'board'\n[api]\nport = 81\n[containers]\nallow_host_root = true\n")
    return path


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    return tmp_path / "state" / "config.json"


@pytest.fixture
def settings(file: Path, overlay: Path) -> Settings:
    return Settings(file, overlay)


def untouched(settings: Settings, overlay: Path, act: Any) -> HomedError:
    """The error that `act` raises, having changed nothing in memory or on disk."""
    before, on_disk = settings.current, overlay.read_bytes() if overlay.exists() else None
    with pytest.raises(HomedError) as raised:
        act()
    assert settings.current is before
    assert (overlay.read_bytes() if overlay.exists() else None) == on_disk
    return raised.value


def test_a_change_is_in_force_and_outlives_a_restart(settings: Settings, file: Path, overlay: Path) -> None:
    assert settings.change({"log": {"level": "debug"}}) == []
    assert settings.current.log.level == "debug"
    assert settings.current.api.port == 81
    again = Settings(file, overlay)
    assert again.current == settings.current
    assert again.restart_required() == []


def test_changes_add_up(settings: Settings, file: Path, overlay: Path) -> None:
    settings.change({"log": {"level": "debug"}})
    settings.change({"log": {"requests": "none"}, "name": "x"})
    current = Settings(file, overlay).current
    assert (current.log.level, current.log.requests, current.name) == ("debug", "none", "x")


def test_null_goes_back_to_what_the_file_says(settings: Settings, file: Path, overlay: Path) -> None:
    settings.change({"name": "other", "api": {"port": 99}})
    settings.change({"name": None, "api": None})
    assert settings.current == Settings(file, overlay).current
    assert (settings.current.name, settings.current.api.port) == ("board", 81)


def test_the_overlay_is_for_its_owner_alone(settings: Settings, overlay: Path) -> None:
    settings.change({"name": "x"})
    assert overlay.stat().st_mode & 0o777 == 0o600
    assert json.loads(overlay.read_text()) == {"name": "x"}


def test_a_change_with_one_wrong_field_changes_nothing(settings: Settings, overlay: Path) -> None:
    error = untouched(settings, overlay, lambda: settings.change({"name": "x", "api": {"port": 0, "y": 1}}))
    assert isinstance(error, ValidationError)
    assert [wrong.field for wrong in error.errors] == ["api.port", "api.y"]


@pytest.mark.parametrize(
    "change",
    [
        {"containers": {"allow_privileged": True}},
        {"containers": {"allow_docker_socket": True}},
        {"containers": {"allow_host_root": False}},
        {"containers": {"engine": "tcp://10.0.0.1:2375"}},
    ],
)
def test_power_over_the_board_is_given_in_the_file_only(
    settings: Settings, overlay: Path, change: dict[str, Any]
) -> None:
    error = untouched(settings, overlay, lambda: settings.change({"name": "x", **change}))
    assert error.code == "CONFIG_ERROR"
    ((field, _),) = change["containers"].items()
    assert error.details["errors"] == [{"field": f"containers.{field}", "message": "can be set in the file only"}]


def test_what_was_read_and_sent_back_does_not_keep_power_that_the_file_takes_away(
    settings: Settings, file: Path, overlay: Path
) -> None:
    settings.change(msgspec.to_builtins(settings.current))
    assert settings.current.containers.allow_host_root
    file.write_text("name = 'board'\n")
    assert not Settings(file, overlay).current.containers.allow_host_root
    settings.reload()
    assert not settings.current.containers.allow_host_root


def test_what_needs_a_restart_is_told_until_it_is_as_it_was(settings: Settings) -> None:
    assert settings.change({"api": {"port": 99, "token_lifetime": 60}}) == ["api.port"]
    assert settings.change({"log": {"level": "debug"}}) == ["api.port"]
    assert settings.change({"api": {"tls": {"enabled": True}}}) == ["api.port", "api.tls.enabled"]
    assert settings.change({"api": None}) == []


def test_a_guard_may_refuse_a_change_and_a_reload(settings: Settings, file: Path, overlay: Path) -> None:
    def refuse(config: Config) -> None:
        if config.name == "bad":
            raise ConfigError("no", code="KEY_REQUIRED")

    settings.guard(refuse)
    assert untouched(settings, overlay, lambda: settings.change({"name": "bad"})).code == "KEY_REQUIRED"
    file.write_text("name = 'bad'\n")
    assert untouched(settings, overlay, settings.reload).code == "KEY_REQUIRED"


def test_listeners_are_told_when_it_is_applied(settings: Settings) -> None:
    told: list[str] = []
    settings.listen(lambda config: told.append(config.name))
    settings.change({"name": "x"})
    assert told == []
    settings.apply()
    assert told == ["x"]


def test_a_reload_takes_what_the_file_says_now_under_the_overlay(settings: Settings, file: Path) -> None:
    settings.change({"name": "x"})
    file.write_text("name = 'new'\n[api]\nport = 82\n")
    assert settings.reload() == ["api.port"]
    assert (settings.current.name, settings.current.api.port) == ("x", 82)
    settings.change({"name": None})
    assert settings.current.name == "new"


@pytest.mark.parametrize("broken", ["name = ", "name = 3\n", "[api]\nport = 'x'\n", "\x00"])
def test_a_reload_of_a_broken_file_keeps_everything(settings: Settings, file: Path, overlay: Path, broken: str) -> None:
    settings.change({"name": "x"})
    file.write_text(broken)
    assert untouched(settings, overlay, settings.reload).code == "CONFIG_ERROR"
    settings.change({"log": {"level": "debug"}})
    assert (settings.current.name, settings.current.api.port) == ("x", 81), "later changes stand on the old file"


def test_a_reload_of_a_broken_overlay_keeps_everything(settings: Settings, overlay: Path) -> None:
    settings.change({"name": "x"})
    overlay.write_text("{")
    assert untouched(settings, overlay, settings.reload).code == "CONFIG_ERROR"


@pytest.mark.parametrize("broken", ["{", "[]", '{"api": {"port": 0}}'])
def test_a_broken_overlay_stops_the_start(file: Path, overlay: Path, broken: str) -> None:
    overlay.parent.mkdir()
    overlay.write_text(broken)
    with pytest.raises(ConfigError):
        Settings(file, overlay)
    assert overlay.read_text() == broken


def test_a_full_disk_changes_nothing(settings: Settings, overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.change({"name": "x"})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("homed.atomic.os.fsync", full)
    error = untouched(settings, overlay, lambda: settings.change({"name": "y"}))
    assert isinstance(error, StoreError)
    assert (error.code, error.status) == ("CONFIG_NOT_SAVED", 500)
    monkeypatch.undo()
    assert os.listdir(overlay.parent) == [overlay.name], "nothing half-written is left"
    settings.change({"log": {"level": "debug"}})
    assert settings.current.name == "x", "what was not saved does not come back"


def test_a_state_that_cannot_be_written_changes_nothing(file: Path, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    settings = Settings(file, tmp_path / "none.json")
    settings._overlay_file = tmp_path / "state" / "config.json"
    with pytest.raises(StoreError) as raised:
        settings.change({"name": "x"})
    assert raised.value.code == "CONFIG_NOT_SAVED"
    assert settings.current.name == "board"


def test_the_command_lines_values_win_and_are_not_kept(file: Path, overlay: Path) -> None:
    settings = Settings(file, overlay, override={"api": {"port": 7}})
    assert settings.current.api.port == 7
    settings.change({"name": "x", "api": {"port": 8}})
    settings.reload()
    assert settings.current.api.port == 7
    assert Settings(file, overlay).current.api.port == 8


def test_a_wrong_value_of_the_command_line_is_refused(file: Path, overlay: Path) -> None:
    with pytest.raises(ValidationError):
        Settings(file, overlay, override={"api": {"port": 0}})


@pytest.mark.parametrize("body", [None, [], {}, {"orchestrator": 1}, {"orchestrator": {}, "x": 1}, {"name": "x"}, "x"])
def test_a_change_has_one_form(body: object) -> None:
    with pytest.raises(ValidationError):
        parse_change(body)


def test_the_version_that_is_shown_may_be_sent_back() -> None:
    assert parse_change({"orchestrator": {"version": "1", "name": "x"}}) == {"name": "x"}
