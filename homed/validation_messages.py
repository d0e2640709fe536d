"""A validator's messages in the words of those who send JSON, instead of Python's (pure)."""

import enum
import re
import typing
from collections.abc import Iterator
from typing import Any, Final

import msgspec

_TYPE: Final = re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)`")
_BOUND: Final = re.compile(r"Expected `(?P<kind>[^`]+)` (?P<length>of length )?(?P<sign>>=|<=|>|<) (?P<number>\S+)")
_CHOICE: Final = re.compile(r"Invalid enum value .*", re.DOTALL)
_MAX_CHOICES: Final = 20
_NAMES: Final = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "null": "null",
    "object": "an object",
    "str": "text",
}
_UNITS: Final = {"array": "items", "object": "entries", "str": "characters"}
_SIGNS: Final = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


def in_words(text: str, kind: Any) -> str:
    """Return a message of msgspec's about a value that should have been a `kind`, in words."""
    if " matching regex " in text:
        return _pattern(text, kind)
    if found := _TYPE.fullmatch(text):
        wanted = [_name(part) for part in found["wanted"].split(" | ")]
        return f"must be {' or '.join(wanted)}, not {_name(found['got'])}"
    if found := _BOUND.fullmatch(text):
        number = found["number"].removesuffix(".0")
        if found["length"]:
            unit = _UNITS.get(found["kind"], "bytes")
            return f"must have {_SIGNS[found['sign']]} {number} {unit}"
        return f"must be {_SIGNS[found['sign']]} {number}"
    choices = list(dict.fromkeys(_choices(kind)))
    if _CHOICE.fullmatch(text) and 0 < len(choices) <= _MAX_CHOICES:
        return f"must be one of {', '.join(choices)}"
    return text


def _pattern(text: str, kind: Any) -> str:
    """Return the pattern's description in place of the pattern."""
    for meta in _metas(kind):
        if meta.pattern is not None and repr(meta.pattern) in text and meta.description:
            return f"must be {meta.description}"
    return "has characters or a form that is not allowed here"


def _name(part: str) -> str:
    return _NAMES.get(part, part)


def _choices(kind: Any) -> Iterator[str]:
    """Yield every value that a type's enumerations and literals allow."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        yield from (str(member.value) for member in kind)
    elif typing.get_origin(kind) is typing.Literal:
        yield from (str(value) for value in typing.get_args(kind))
    else:
        for part in typing.get_args(kind):
            yield from _choices(part)


def _metas(kind: Any) -> Iterator[msgspec.Meta]:
    """Yield every constraint in a type: of unions, lists and mappings too."""
    for part in typing.get_args(kind):
        if isinstance(part, msgspec.Meta):
            yield part
        else:
            yield from _metas(part)
