"""Decoding untrusted data into structs, naming every wrong field rather than the first one only.

msgspec stops at the first error, so a struct is taken field by field, and nested structs, lists and mappings
likewise; the leaves are msgspec's own conversion and keep its rules.
"""

import codecs
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import msgspec

from homed import json_structure
from homed.errors import FieldError, ValidationError
from homed.validation_messages import in_words

T = TypeVar("T")
_WHERE = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_MAXIMUM_ERRORS = 50


@typing.runtime_checkable
class Partial(typing.Protocol):
    """A struct that can say what is wrong with some of its fields while others are missing or of a wrong type."""

    @classmethod
    def partial_errors(cls, values: Mapping[str, Any]) -> Sequence[FieldError]: ...


def decode_json(
    data: bytes, kind: type[T], *, strict: bool = True, prune: Callable[[object], object] | None = None
) -> T:
    """Parse JSON and convert it; ValidationError names every wrong field. `prune` may take fields out before.

    A byte order mark is passed over, and `2.0` is taken for a field that is an integer: JSON has one kind of number.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    json_structure.check(data)
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ValidationError([FieldError("", f"the body is not JSON: {error}")]) from error
    if prune is not None:
        raw = prune(raw)
    return convert(raw, kind, strict=strict, whole_floats=True)


def convert(raw: object, kind: type[T], *, strict: bool = True, whole_floats: bool = False) -> T:
    """Convert plain data (dicts, lists, scalars) into `kind`; ValidationError names every wrong field.

    `whole_floats` takes a float without a fraction for an integer.
    """
    errors: list[FieldError] = []
    value = _convert(raw, kind, "", _Rules(strict, whole_floats), errors)
    if errors:
        raise ValidationError(errors[:_MAXIMUM_ERRORS])
    return typing.cast(T, value)


class _Rules(NamedTuple):
    strict: bool
    whole_floats: bool


def _convert(raw: object, kind: Any, path: str, rules: _Rules, errors: list[FieldError]) -> object:
    struct = _struct_of(kind)
    if struct is not None and isinstance(raw, Mapping):
        return _convert_struct(raw, struct, path, rules, errors)
    kind = _collection_of(raw, kind)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (tuple, list) and isinstance(raw, list | tuple):
        items = [
            _convert(item, arguments[0], f"{path}[{i}]", rules, errors)
            for i, item in enumerate(raw)
            if len(errors) <= _MAXIMUM_ERRORS  # who sends a list of wrong items need not be told of each
        ]
        return tuple(items) if typing.get_origin(kind) is tuple else items
    if typing.get_origin(kind) is dict and isinstance(raw, Mapping):
        return {
            _key(key, arguments[0], path, rules, errors): _convert(
                item, arguments[1], _join(path, str(key)), rules, errors
            )
            for key, item in raw.items()
            if len(errors) <= _MAXIMUM_ERRORS
        }
    return _leaf(raw, kind, path, rules, errors)


def _key(raw: object, kind: Any, path: str, rules: _Rules, errors: list[FieldError]) -> str:
    if kind is not str:
        found: list[FieldError] = []
        _leaf(raw, kind, _join(path, str(raw)), rules, found)
        errors += [FieldError(error.field, f"the name {error.message}") for error in found]
    return str(raw)


def _convert_struct(
    raw: Mapping[object, object],
    kind: type[msgspec.Struct],
    path: str,
    rules: _Rules,
    errors: list[FieldError],
) -> object:
    before = len(errors)
    fields = _fields(kind)
    values: dict[str, object] = {}
    for name, field in fields.items():
        where = _join(path, name)
        if name in raw:
            known = len(errors)
            value = _convert(raw[name], field.type, where, rules, errors)
            if len(errors) == known:
                values[field.name] = value
        elif field.required:
            errors.append(FieldError(where, "is required"))
    if kind.__struct_config__.forbid_unknown_fields:
        unknown = [str(name) for name in raw if name not in fields][:_MAXIMUM_ERRORS]
        errors.extend(FieldError(_join(path, name), "is not a known field") for name in unknown)
    if len(errors) > before:
        if issubclass(kind, Partial):
            errors.extend(FieldError(_join(path, e.field), e.message) for e in kind.partial_errors(values))
        return None
    try:
        return kind(**values)
    except ValidationError as error:
        errors.extend(FieldError(_join(path, e.field), e.message) for e in error.errors)
    except (ValueError, TypeError) as error:
        errors.append(FieldError(path, str(error)))
    return None


@cache
def _fields(kind: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    """A struct's fields by their names in JSON: read from its annotations, which takes longer than all the rest."""
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


def _leaf(raw: object, kind: Any, path: str, rules: _Rules, errors: list[FieldError]) -> object:
    if rules.whole_floats and isinstance(raw, float) and raw.is_integer() and _is_whole(kind):
        raw = int(raw)
    try:
        return msgspec.convert(raw, kind, strict=rules.strict)
    except msgspec.ValidationError as error:
        text = str(error)
        found = _WHERE.search(text)
        inner = found["path"].removeprefix(".") if found else ""
        errors.append(FieldError(_join(path, inner), in_words(_WHERE.sub("", text), kind)))
    except (RecursionError, OverflowError, ValueError) as error:
        errors.append(FieldError(path, str(error)))
    return None


@cache
def _is_whole(kind: Any) -> bool:
    """Return whether a number for `kind` can only be an integer."""
    members = list(_members(kind))
    return int in members and float not in members and Any not in members


def _members(kind: Any) -> Iterator[Any]:
    if typing.get_origin(kind) is typing.Annotated:
        yield from _members(typing.get_args(kind)[0])
    elif typing.get_origin(kind) in (typing.Union, types.UnionType):
        for member in typing.get_args(kind):
            yield from _members(member)
    else:
        yield kind


def _collection_of(raw: object, kind: Any) -> Any:
    """Return a union's only list or mapping that `raw` can be, so that its items are taken one by one; or the type."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    origins = (dict,) if isinstance(raw, Mapping) else (tuple, list) if isinstance(raw, list | tuple) else ()
    fitting = [member for member in typing.get_args(kind) if typing.get_origin(member) in origins]
    return fitting[0] if len(fitting) == 1 else kind


def _struct_of(kind: Any) -> type[msgspec.Struct] | None:
    """The struct that a field's type holds, alone or as `Struct | None`."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if member not in (type(None), msgspec.UnsetType)]
        kind = members[0] if len(members) == 1 else None
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    return None


def _join(path: str, name: str) -> str:
    if not path or not name:
        return path or name
    return f"{path}{name}" if name.startswith("[") else f"{path}.{name}"
