"""Settings from the environment: above what was stored over the API, below the command line's flags.

`api.port` is `HOMED_API_PORT`, `log.level` is `HOMED_LOG_LEVEL`. A value is read as TOML has it (`81`, `true`,
`["a", "b"]`), or taken as text.
"""

import contextlib
import logging
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import msgspec

from homed.config import Config, check
from homed.config.section import Section
from homed.errors import ConfigError, ValidationError

log = logging.getLogger(__name__)
PREFIX = "HOMED_"
# Read elsewhere, or given by homed itself to what it runs.
_OTHERS = ("HOMED_API_KEY", "HOMED_JOB_", "HOMED_AGENT_", "HOMED_TEST_")


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that the environment names, nested as in the file. ConfigError names the variable."""
    known = {f"{PREFIX}{'_'.join(path).upper()}": path for path in _paths(Config)}
    found: dict[str, Any] = {}
    for name, text in sorted(environment.items()):
        path = known.get(name)
        if path is None:
            if name.startswith(PREFIX) and not name.startswith(_OTHERS):
                log.warning("The environment variable %s names no setting", name)
            continue
        _put(found, path, _parsed(name, path, text))
    return found


def _parsed(name: str, path: tuple[str, ...], text: str) -> object:
    """The value as TOML reads it if the setting takes that, and as text if not."""
    wrong: ValidationError | None = None
    for value in _readings(text):
        data: dict[str, Any] = {}
        _put(data, path, value)
        try:
            check(data)
        except ValidationError as error:
            wrong = error
        else:
            return value
    said = "; ".join(one.message for one in wrong.errors) if wrong is not None else "not a value"
    raise ConfigError(f"the environment variable {name}: {said}")


def _readings(text: str) -> Iterator[object]:
    with contextlib.suppress(tomllib.TOMLDecodeError, RecursionError):
        yield tomllib.loads(f"value = {text}")["value"]
    yield text


def _paths(kind: type[Section], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for field in msgspec.structs.fields(kind):
        path = (*above, field.name)
        sections = [one for one in (field.type, *get_args(field.type)) if _is_section(one)]
        if field.type in sections:
            yield from _paths(field.type, path)
        else:
            yield path


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _put(data: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for table in path[:-1]:
        data = data.setdefault(table, {})
    data[path[-1]] = value
