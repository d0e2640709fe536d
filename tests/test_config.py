"""Files become one checked value, or an error that says the line and what is wrong."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed import config
from homed.config import Config
from homed.errors import ConfigError, ValidationError

_LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
_TREES: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(st.sampled_from("abcd"), _LEAVES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), _LEAVES | inner, max_size=3),
    max_leaves=12,
)


def no_nones(tree: Any) -> bool:
    return all(value is not None and (not isinstance(value, dict) or no_nones(value)) for value in tree.values())


def paths(tree: dict[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every leaf by its path; an empty table is one."""
    found: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found |= paths(value, (*above, key))
        else:
            found[(*above, key)] = value
    return found


@given(_TREES)
def test_merging_nothing_changes_nothing(tree: dict[str, Any]) -> None:
    assert config.merge(tree, {}) == tree


@given(_TREES, _TREES)
def test_merging_twice_is_merging_once(base: dict[str, Any], over: dict[str, Any]) -> None:
    once = config.merge(base, over)
    assert config.merge(once, over) == once


@given(_TREES, _TREES)
def test_what_is_merged_over_wins_and_null_takes_out(base: dict[str, Any], over: dict[str, Any]) -> None:
    merged = paths(config.merge(base, over))
    for path, value in paths(over).items():
        if value is None:
            assert path not in merged
        elif value != {}:
            assert merged[path] == value


@given(_TREES.filter(no_nones), _TREES)
def test_what_is_not_merged_over_stays(base: dict[str, Any], over: dict[str, Any]) -> None:
    merged = paths(config.merge(base, over))
    touched = set(paths(over))
    for path, value in paths(base).items():
        if not any(path[: len(other)] == other or other[: len(path)] == path for other in touched):
            assert merged[path] == value


@given(_TREES, _TREES)
def test_merging_leaves_what_it_is_given_alone(base: dict[str, Any], over: dict[str, Any]) -> None:
    before = json.dumps([base, over])
    config.merge(base, over)
    assert json.dumps([base, over]) == before


@given(_TREES.filter(no_nones), _TREES.filter(no_nones), _TREES.filter(no_nones))
def test_layers_may_be_merged_in_any_grouping(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    left, right = config.merge(config.merge(a, b), c), config.merge(a, config.merge(b, c))
    # A leaf under a table of the layers below is where the groupings may differ: the table is gone or not.
    if not any(
        one[: len(other)] == other for one in {*paths(a), *paths(b), *paths(c)} for other in paths(b) if one != other
    ):
        assert left == right


@given(_TREES)
def test_fields_are_left_out_by_their_path(tree: dict[str, Any]) -> None:
    kept = config.without(tree, ("a", "b.c"))
    assert "a" not in kept
    assert not isinstance(kept.get("b"), dict) or "c" not in kept["b"]
    assert {k: v for k, v in tree.items() if k not in "ab"} == {k: v for k, v in kept.items() if k not in "ab"}


def _load(folder: Path, toml: str | bytes = "", overlay: str | None = None) -> Config:
    file, over = folder / "homed.toml", folder / "config.json"
    file.write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    if overlay is not None:
        over.write_text(overlay)
    return config.load(file, over)[0]


def test_no_files_are_the_defaults(tmp_path: Path) -> None:
    assert config.load(tmp_path / "a.toml", tmp_path / "b.json") == (Config(), {}, {})


def test_the_defaults_are_closed_to_the_network() -> None:
    made = Config()
    assert made.api.host == "127.0.0.1" and made.api.cors_origins == () and made.api.limits.enabled
    assert not (made.containers.allow_privileged or made.containers.allow_host_root)
    assert not made.containers.allow_docker_socket


def test_the_defaults_pass_their_own_check() -> None:
    assert config.check(msgspec.to_builtins(Config())) == Config()


def test_the_overlay_wins_over_the_file(tmp_path: Path) -> None:
    loaded = _load(tmp_path, "[api]\nport = 81\nhost = '::1'\n", '{"api": {"port": 82}}')
    assert (loaded.api.port, loaded.api.host) == (82, "::1")


@pytest.mark.parametrize(
    ("toml", "line", "said"),
    [
        ("name = 'a'\n[api\nport = 1\n", 2, "TOML"),
        ("name = 'a'\n\n[api]\nport = \n", 4, "TOML"),
        ("name = 'a'\nname = 'b'\n", 2, "TOML"),
        ("nmae = 'a'\n", 1, "nmae: is not a known field"),
        ("[api]\n\nprot = 1\n", 3, "api.prot: is not a known field"),
        ("[apii]\nport = 1\n", 1, "apii: is not a known field"),
        ("[api]\nhost = 'x'\nport = 'x'\n", 3, "api.port"),
        ("[api]\nport = 0\n", 2, "api.port"),
        ("[api.limits]\nhealth = 1\nservices = 0.5\n", 3, "api.limits.services"),
        ("[api]\nlimits.services = 0\n", 2, "api.limits.services"),
        ("[log]\nlevel = 'loud'\n", 2, "log.level"),
        ("[api]\nport = 1\nlisten = [\n  '127.0.0.1:1',\n  'here',\n]\n", 3, "api.listen[1]"),
        ("[api]\n\n[api.tls]\nenabled = true\ncertificate = '/x'\n", 3, "api.tls.key"),
        ("[api]\ncors_origins = ['http://a', 'a/b']\n", 2, "api.cors_origins[1]"),
        ("[containers]\nsettle_time = nan\n", 2, "containers.settle_time"),
        ("[containers]\n\nengine = 'docker'\n", 3, "containers.engine"),
        ("[monitoring]\nenabled = 'yes'  # a comment\n", 2, "monitoring.enabled"),
        ("api = 3\n", 1, "api"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_its_line(tmp_path: Path, toml: str, line: int, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        _load(tmp_path, toml)
    assert str(tmp_path / "homed.toml") in raised.value.message
    assert f"line {line}" in raised.value.message
    assert said in raised.value.message
    assert raised.value.code == "CONFIG_ERROR"


def test_every_wrong_line_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        _load(tmp_path, "name = ''\n[api]\nport = 0\nhots = 1\n[log]\nlevel = 1\n")
    for line, field in ((1, "name"), (3, "api.port"), (4, "api.hots"), (6, "log.level")):
        assert f"line {line}: {field}" in raised.value.message


def _overlay(**given: Any) -> str:
    return json.dumps(given, indent=2, sort_keys=True)


@pytest.mark.parametrize(
    ("overlay", "line", "said"),
    [
        ("{", 1, "config.json"),
        ('{\n  "api": {\n    "port": 1 1\n  }\n}', 3, "config.json"),
        ("[]", 1, "must be a JSON object"),
        (_overlay(api={"port": "x"}), 3, "api.port"),
        (_overlay(api={"host": "a", "limits": {"health": 0}}), 5, "api.limits.health"),
        (_overlay(log={"requests": "no"}, monitoring={"enabled": 1, "stats_interval": 9}), 6, "monitoring.enabled"),
        (_overlay(monitoring={"interval": 1}), 3, "monitoring.interval: is not a known field"),
        (_overlay(api={"limits": {"docs": 2}}, containers={"limits": 1}), 8, "containers.limits: is not a known field"),
        ('{"api": {"port": "x"}}', 1, "api.port"),
    ],
)
def test_what_is_wrong_in_the_overlay_is_said_with_its_line(tmp_path: Path, overlay: str, line: int, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        _load(tmp_path, "", overlay)
    assert str(tmp_path / "config.json") in raised.value.message
    assert f"line {line}" in raised.value.message
    assert said in raised.value.message


@pytest.mark.parametrize("toml", [b"name = '\xff'\n", b"\x00", b"a = " + b"[" * 20_000])
def test_a_file_that_is_no_text_is_an_error_and_never_the_defaults(tmp_path: Path, toml: bytes) -> None:
    with pytest.raises(ConfigError):
        _load(tmp_path, toml)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "homed.toml").mkdir()
    with pytest.raises(ConfigError):
        config.load(tmp_path / "homed.toml", tmp_path / "config.json")
    with pytest.raises(ConfigError):
        config.load(tmp_path / "none.toml", tmp_path)


def test_a_wrong_field_is_named_wherever_it_stands() -> None:
    with pytest.raises(ValidationError) as raised:
        config.check({"api": {"port": 0, "tls": {"enabled": "x"}, "limits": {"a": 1}}, "log": [], "x": 1})
    fields = [error.field for error in raised.value.errors]
    assert fields == ["api.port", "api.tls.enabled", "api.limits.a", "log", "x"]


def test_changed_fields_are_those_that_differ() -> None:
    old = Config()
    new = config.check({"name": "b", "api": {"port": 9, "limits": {"health": 1}}, "log": {"level": "debug"}})
    changed = list(config.changed_fields(old, new))
    assert changed == ["name", "api.port", "api.limits.health", "log.level"]
    assert list(config.changed_fields(new, new)) == []


def test_a_path_is_under_its_table_but_not_under_one_that_begins_alike() -> None:
    assert config.under("api.tls.key", ("api.tls",)) and config.under("api.tls", ("api.tls",))
    assert not config.under("api.tlsx", ("api.tls",))


@pytest.mark.parametrize("names", [config.NEEDS_RESTART, config.FILE_ONLY])
def test_the_fields_with_rules_of_their_own_exist(names: tuple[str, ...]) -> None:
    for name in names:
        value: object = Config()
        for part in name.split("."):
            value = getattr(value, part)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8081", ("127.0.0.1", 8081)),
        ("[::1]:3000", ("::1", 3000)),
        ("localhost:1", ("localhost", 1)),
        ("unix:/run/homed/api.sock", ("unix:/run/homed/api.sock", None)),
    ],
)
def test_an_address_is_read(text: str, expected: tuple[str, int | None]) -> None:
    assert config.parse_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":", "host", "host:", ":80", "host:0", "host:65536", "host:x", "host:-1", "host:²", "unix:run"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        config.parse_address(text)


@given(st.text(max_size=30))
def test_an_address_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        host, port = config.parse_address(text)
    except ValueError:
        return
    assert host and (port is None or 0 < port < 65536)


@given(st.text(max_size=200), st.text(max_size=20))
def test_looking_for_a_line_never_fails(text: str, field: str) -> None:
    line = config.line_of(text, field)
    assert line is None or 1 <= line <= max(1, len(text.splitlines()))
