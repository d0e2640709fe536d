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


@pytest.mark.parametrize("broken", [b"{", b"[]", b"", b"\x00" * 40, b'{"name": "\xff"}', b"[" * 100_000, b'{"api": 1}'])
def test_a_start_sets_a_broken_overlay_aside_and_reports_it(file: Path, overlay: Path, broken: bytes) -> None:
    overlay.parent.mkdir()
    overlay.write_bytes(broken)
    settings = Settings(file, overlay)
    assert (settings.current.name, settings.current.api.port) == ("board", 81)
    assert not overlay.exists() and settings.set_aside.read_bytes() == broken
    assert settings.component().status == "degraded" and str(settings.set_aside) in settings.trouble
    again = Settings(file, overlay)
    assert str(again.set_aside) in again.trouble, "it is reported until somebody has looked at it"
    again.change({"name": "x"})
    settings.set_aside.unlink()
    assert Settings(file, overlay).component().status == "healthy"
    assert Settings(file, overlay).current.name == "x"


def test_a_start_keeps_what_is_right_in_a_broken_overlay(file: Path, overlay: Path) -> None:
    overlay.parent.mkdir()
    stored = {"api": {"port": 99999999, "require_key": True, "limits": {"health": 0}}, "name": "x", "nmae": 1}
    overlay.write_text(json.dumps(stored))
    settings = Settings(file, overlay)
    assert settings.current.api.require_key and settings.current.name == "x" and settings.current.api.port == 81
    assert all(field in settings.trouble for field in ("api.port", "api.limits.health", "nmae"))
    assert json.loads(overlay.read_text()) == {"api": {"require_key": True, "limits": {}}, "name": "x"}
    assert json.loads(settings.set_aside.read_text()) == stored


def test_an_overlay_that_no_longer_fits_the_file_does_not_stop_the_start(file: Path, overlay: Path) -> None:
    file.write_text("name = 'board'\n[updates]\nwindow = '01:00-02:00'\n")
    Settings(file, overlay).change({"updates": {"reboot": "window"}, "name": "x"})
    file.write_text("name = 'board'\n")
    settings = Settings(file, overlay)
    assert (settings.current.updates.reboot, settings.current.name) == ("never", "x")
    assert "updates" in settings.trouble


def test_an_overlay_that_cannot_be_set_aside_does_not_stop_the_start(file: Path, overlay: Path) -> None:
    overlay.mkdir(parents=True)
    (overlay / "x").touch()
    overlay.with_name("config.json.bad").mkdir()
    assert Settings(file, overlay, read_only=True).trouble
    assert (overlay / "x").exists(), "a look changes nothing"
    settings = Settings(file, overlay)
    assert settings.current.name == "board" and settings.trouble
    settings.change({"name": "x"})
    assert Settings(file, overlay).current.name == "x"


def test_an_overlay_gives_no_power_that_the_file_alone_may_give(file: Path, overlay: Path) -> None:
    overlay.parent.mkdir()
    overlay.write_text('{"containers": {"allow_privileged": true}, "jobs": {"users": ["root"]}, "name": "x"}')
    settings = Settings(file, overlay)
    assert not settings.current.containers.allow_privileged and settings.current.jobs.users == ()
    assert settings.current.name == "x" and not settings.trouble
    settings.reload()
    assert not settings.current.containers.allow_privileged


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        Settings(tmp_path / "none.toml", tmp_path / "config.json", must_exist=True)


def test_paths_hold_wherever_the_process_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "homed.toml").write_text("name = 'here'\n")
    monkeypatch.chdir(tmp_path)
    settings = Settings(Path("homed.toml"), Path("config.json"))
    monkeypatch.chdir("/")
    settings.change({"log": {"level": "debug"}})
    assert settings.file == tmp_path / "homed.toml"
    settings.reload()
    assert (settings.current.name, settings.current.log.level) == ("here", "debug")
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ({"api": {"port": 7}}, {"api": {"port": 99999999}}),
        ({"api": {"host": "127.0.0.1"}}, {"api": {"host": "not a host!!"}}),
        ({"api": {"host": "127.0.0.1", "port": 7}}, {"api": {"listen": ["not a host!!:80"]}}),
        ({"monitoring": {"metrics_host": "::1"}}, {"monitoring": {"metrics_host": ""}}),
        ({"updates": {"window": "01:00-02:00"}}, {"updates": {"reboot": "window"}}),
    ],
)
def test_a_change_is_checked_as_if_there_were_no_flags(
    file: Path, overlay: Path, override: dict[str, Any], change: dict[str, Any]
) -> None:
    settings = Settings(file, overlay, override=override)
    assert untouched(settings, overlay, lambda: settings.change(change)).status == 400
    Settings(file, overlay)


def test_a_guard_sees_what_is_stored_beneath_the_flags(file: Path, overlay: Path) -> None:
    settings = Settings(file, overlay, override={"name": "flag"})

    def refuse(config: Config) -> None:
        if config.name == "bad":
            raise ConfigError("no", code="KEY_REQUIRED")

    settings.guard(refuse)
    assert untouched(settings, overlay, lambda: settings.change({"name": "bad"})).code == "KEY_REQUIRED"


def test_a_change_says_what_is_hidden_by_flags_and_environment(file: Path, overlay: Path) -> None:
    settings = Settings(file, overlay, override={"api": {"port": 7}, "log": {"level": "debug"}})
    change = {"api": {"port": 8, "token_lifetime": 60}, "log": {"level": "info"}, "name": "x"}
    settings.change(change)
    assert settings.overridden(change) == ["api.port", "log.level"]
    assert settings.current.api.port == 7 and settings.current.name == "x"


def test_what_flags_say_of_the_files_own_settings_may_be_sent_back(file: Path, overlay: Path) -> None:
    settings = Settings(file, overlay, override={"jobs": {"enabled": False}})
    settings.change(msgspec.to_builtins(settings.current))
    assert Settings(file, overlay).current.jobs.enabled


def restored(folder: Path, toml: str, over: object = None) -> tuple[Path, Path]:
    """What a backup had: the owner's file and the overlay."""
    folder.mkdir()
    (folder / "homed.toml").write_text(toml)
    (folder / "config.json").write_text(json.dumps({} if over is None else over))
    return folder / "homed.toml", folder / "config.json"


FOREIGN = """name = 'other'
[containers]
allow_privileged = true
[jobs]
users = ['root']
timeout = 77
[api]
token_lifetime = 61
[[backups.targets]]
name = 'far'
url = 'sftp://a@b/c'
"""


def test_a_restore_leaves_what_only_the_file_may_say(
    settings: Settings, file: Path, overlay: Path, tmp_path: Path
) -> None:
    before = file.read_bytes()
    toml, over = restored(
        tmp_path / "own", FOREIGN, {"log": {"level": "debug"}, "containers": {"engine": "tcp://evil:1"}, "name": "y"}
    )
    assert settings.plan_restore(toml, over) == [
        "backups.targets", "containers.allow_host_root", "containers.allow_privileged", "jobs.users",
    ]  # fmt: skip
    settings.restore(over.read_bytes(), toml.read_bytes())
    current = settings.current
    assert (current.name, current.jobs.timeout, current.api.token_lifetime) == ("y", 77, 61)
    assert (current.api.port, current.log.level) == (8080, "debug"), "what the other file left out is at its default"
    assert not current.containers.allow_privileged and current.jobs.users == () and current.backups.targets == ()
    assert current.containers.allow_host_root and current.containers.engine.startswith("unix:")
    assert file.read_bytes() == before
    assert Settings(file, overlay).current == current
    settings.restore(over.read_bytes(), toml.read_bytes())
    assert settings.current == current, "done twice it does no more"
    settings.take_back()
    settings.restore(b"{}")
    assert (settings.current.name, settings.current.api.port) == ("board", 81)


def test_a_restore_of_a_file_that_is_not_valid_here_changes_nothing(
    settings: Settings, overlay: Path, tmp_path: Path
) -> None:
    for toml in ("name = 3\n", "name = ", "[updates]\nreboot = 'window'\n", "new_setting = 1\n"):
        untouched(settings, overlay, lambda toml=toml: settings.restore(None, toml.encode()))
    untouched(settings, overlay, lambda: settings.restore(b"[]", b""))
    untouched(settings, overlay, lambda: settings.restore(None, b"\xff"))


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
