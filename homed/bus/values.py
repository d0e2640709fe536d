"""D-Bus values as plain ones: variants are unwrapped to the bottom (RAUC wraps some of them twice)."""

from typing import Any

from dbus_next import Variant


def unwrap(value: Any) -> Any:
    """Variants out of lists, structs and dictionaries, however deep; bytes stay bytes."""
    if isinstance(value, Variant):
        return unwrap(value.value)
    if isinstance(value, dict):
        return {unwrap(key): unwrap(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [unwrap(inner) for inner in value]
    return value


def variants(values: dict[str, object]) -> dict[str, Variant]:
    """A dictionary of options (`a{sv}`). ValueError for a kind of value that no option has."""
    return {name: _variant(value) for name, value in values.items()}


def _variant(value: object) -> Variant:
    if isinstance(value, bool):
        return Variant("b", value)
    if isinstance(value, str):
        return Variant("s", value)
    raise ValueError(f"no D-Bus option is {value!r}")
