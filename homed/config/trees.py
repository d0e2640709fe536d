"""Nested tables of settings and their dotted paths: merged, cut, compared."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from homed.config.section import Section


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A deep merge: tables merge, anything else in `over` wins, and None in `over` takes the field out.

    So a None in a change to the overlay makes the field go back to what the file says.
    """
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = merge(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def without(data: Mapping[str, Any], paths: tuple[str, ...]) -> dict[str, Any]:
    """The data without the fields at these dotted paths."""
    kept: dict[str, Any] = {}
    for key, value in data.items():
        if key in paths:
            continue
        below = tuple(path.removeprefix(f"{key}.") for path in paths if path.startswith(f"{key}."))
        kept[key] = without(value, below) if below and isinstance(value, Mapping) else value
    return kept


def paths_of(data: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The dotted paths of the values in nested tables."""
    for key, value in data.items():
        below = f"{path}.{key}" if path else key
        if isinstance(value, Mapping) and value:
            yield from paths_of(value, below)
        else:
            yield below


def value_at(value: object, path: str) -> object:
    """The value of a dotted path in a configuration."""
    for name in path.split("."):
        value = getattr(value, name)
    return value


def set_at(data: dict[str, Any], path: str, value: object) -> None:
    """Put a value at a dotted path of nested tables."""
    *tables, name = path.split(".")
    for table in tables:
        data = data.setdefault(table, {})
    data[name] = value


def changed_fields(old: object, new: object, path: str = "") -> Iterator[str]:
    """The dotted paths of the fields that differ between two values of the configuration."""
    if isinstance(old, Section) and isinstance(new, Section):
        for field in msgspec.structs.fields(type(old)):
            below = f"{path}.{field.name}" if path else field.name
            yield from changed_fields(getattr(old, field.name), getattr(new, field.name), below)
    elif old != new:
        yield path


def under(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)
