"""The functions and methods that an expression may call: each by its name, none by looking at an object."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from homed.jobs.tasks.evaluation.bounds import (
    BINARY,
    BITS,
    CONTAINERS,
    SCALARS,
    InvalidError,
    LimitError,
    checked,
    fits,
    len_of,
    limited,
    power,
    spread,
)

_DIGITS = 4300
_PLACES = 400
_LARGEST_FACTORIAL = 1500
_LARGEST_COMBINATION = 10_000
# Fill and align, sign, width of three digits at most, precision likewise, and a type.
_SPEC = re.compile(r"(?:[^{}]?[<>=^])?[-+ ]?#?0?\d{0,3}[,_]?(?:\.\d{1,3})?[bcdeEfFgGnosxX%]?", re.DOTALL)
_Key = Callable[[Any], Any] | None
_NOTHING: Any = object()


def text(value: Any) -> str:
    """`str(value)` of what can be shown."""
    _show(value)
    return str(value)


def shown(value: Any) -> str:
    """`repr(value)`."""
    _show(value)
    return repr(value)


def formatted(value: Any, spec: str = "") -> str:
    if type(spec) is not str or not _SPEC.fullmatch(spec):
        raise InvalidError(f"the format {spec!r} is not supported")
    if type(value) in SCALARS:
        return format(value, spec)
    if spec:
        raise InvalidError(f"a {type(value).__name__} cannot be formatted")
    return text(value)


def _show(value: Any) -> None:
    """Raises where the text would hold what is not to be shown, or more than fits."""

    def walk(one: Any) -> int:
        if type(one) is dict:
            return sum(walk(key) + walk(item) for key, item in one.items())
        if type(one) is range:
            return 0
        if type(one) in CONTAINERS:
            return sum(walk(item) for item in one)
        if type(one) not in SCALARS:
            raise InvalidError("a function cannot be shown")
        return len(one) if type(one) is str else 0

    if type(value) is not range:
        spread(value)
    fits(walk(value))


def _range(*ends: int) -> range:
    made = range(*ends)
    fits(len_of(made))
    return made


def _integer(value: Any = 0, base: int | None = None) -> int:
    if type(value) is str and len(value) > _DIGITS:
        raise LimitError(f"a number has more than {_DIGITS} digits")
    if type(value) not in (bool, int, float, str):
        raise InvalidError(f"a {type(value).__name__} is no number")
    return int(value) if base is None else int(value, base)


def _float(value: Any = 0.0) -> float:
    if type(value) not in (bool, int, float, str):
        raise InvalidError(f"a {type(value).__name__} is no number")
    return float(value)


def _round(value: Any, ndigits: int | None = None) -> Any:
    if type(value) not in (bool, int, float) or (ndigits is not None and abs(ndigits) > _PLACES):
        raise InvalidError("only a number is rounded, to a few places")
    return round(value, ndigits)


def _fold(start: Any, items: Iterable[Any], with_operator: str) -> Any:
    made = start
    for item in limited(items):
        made = checked(BINARY[with_operator](made, item))
    return made


def _sum(items: Iterable[Any], start: Any = 0) -> Any:
    # Of lists it would copy all that was before with each.
    if type(start) not in (bool, int, float):
        raise InvalidError("only numbers are added up")
    return _fold(start, items, "Add")


def _sorted(items: Iterable[Any], *, key: _Key = None, reverse: bool = False) -> list[Any]:
    return sorted(limited(items), key=key, reverse=bool(reverse))


def _extreme(pick: Callable[..., Any]) -> Callable[..., Any]:
    def choose(*items: Any, key: _Key = None, default: Any = _NOTHING) -> Any:
        several = limited(items[0] if len(items) == 1 else items)
        if not several and default is not _NOTHING:
            return default
        return pick(several, key=key)

    return choose


def _zip(*several: Iterable[Any], strict: bool = False) -> list[Any]:
    return list(zip(*map(limited, several), strict=strict))


def _enumerate(items: Iterable[Any], start: int = 0) -> list[Any]:
    return list(enumerate(limited(items), start))


def _map(function: Callable[..., Any], *several: Iterable[Any]) -> list[Any]:
    return [function(*items) for items in zip(*map(limited, several), strict=False)]


def _filter(function: Callable[..., Any] | None, items: Iterable[Any]) -> list[Any]:
    return [item for item in limited(items) if (item if function is None else function(item))]


def _reversed(items: Any) -> list[Any]:
    return limited(items)[::-1]


def _number_text(name: str, turn: Callable[[int], str]) -> Callable[[Any], str]:
    def act(value: Any) -> str:
        if type(value) not in (bool, int):
            raise InvalidError(f"{name} is of an integer")
        return turn(value)

    return act


def _dict(items: Any = (), **named: Any) -> dict[Any, Any]:
    return {**(items if type(items) is dict else dict(limited(items))), **named}


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "all": lambda items: all(limited(items)),
    "any": lambda items: any(limited(items)),
    "bin": _number_text("bin", bin),
    "bool": lambda value=False: bool(value),
    "chr": lambda code: chr(code),
    "dict": _dict,
    "divmod": lambda a, b: (BINARY["FloorDiv"](a, b), BINARY["Mod"](a, b)),
    "enumerate": _enumerate,
    "filter": _filter,
    "float": _float,
    "format": formatted,
    "frozenset": lambda items=(): frozenset(limited(items)),
    "hex": _number_text("hex", hex),
    "int": _integer,
    "len": lambda value: len_of(value),
    "list": lambda items=(): limited(items),
    "map": _map,
    "max": _extreme(max),
    "min": _extreme(min),
    "oct": _number_text("oct", oct),
    "ord": lambda one: ord(one),
    "pow": power,
    "range": _range,
    "repr": shown,
    "reversed": _reversed,
    "round": _round,
    "set": lambda items=(): set(limited(items)),
    "sorted": _sorted,
    "str": lambda value="": text(value),
    "sum": _sum,
    "tuple": lambda items=(): tuple(limited(items)),
    "zip": _zip,
}


def _bounded(name: str, largest: int) -> Callable[..., Any]:
    act = getattr(math, name)

    def call(*numbers: Any) -> Any:
        if any(type(number) not in (int, bool) or number > largest for number in numbers):
            raise LimitError(f"math.{name} is of integers up to {largest}")
        return act(*numbers)

    return call


_PLAIN_MATH = (
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil", "copysign", "cos", "cosh", "degrees",
    "dist", "erf", "erfc", "exp", "exp2", "expm1", "fabs", "floor", "fmod", "fsum", "gamma", "gcd", "hypot",
    "isclose", "isfinite", "isinf", "isnan", "isqrt", "lgamma", "log", "log10", "log1p", "log2", "pow", "radians",
    "remainder", "sin", "sinh", "sqrt", "tan", "tanh", "trunc",
)  # fmt: skip
MATH: Mapping[str, Any] = {
    **{name: getattr(math, name) for name in _PLAIN_MATH},
    **{name: getattr(math, name) for name in ("e", "inf", "nan", "pi", "tau")},
    "comb": _bounded("comb", _LARGEST_COMBINATION),
    "factorial": _bounded("factorial", _LARGEST_FACTORIAL),
    "perm": _bounded("perm", _LARGEST_FACTORIAL),
    "prod": lambda items, start=1: _fold(start, items, "Mult"),
}


def _replace(value: str, old: str, new: str, count: int = -1) -> str:
    many = len(value) + 1 if not old else value.count(old)
    fits(len(value) + max(0, len(new) - len(old)) * (many if count < 0 else min(many, count)))
    return value.replace(old, new, count)


def _join(value: str, items: Iterable[str]) -> str:
    several = limited(items)
    if any(type(one) is not str for one in several):
        raise InvalidError("only text is joined")
    fits(sum(map(len, several)) + len(value) * len(several))
    return value.join(several)


def _padded(name: str) -> Callable[..., str]:
    act = getattr(str, name)

    def call(value: str, width: int, *fill: str) -> str:
        fits(width)
        result: str = act(value, width, *fill)
        return result

    return call


_TEXT = (
    "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal",
    "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "lower",
    "lstrip", "partition", "removeprefix", "removesuffix", "rfind", "rindex", "rpartition", "rsplit", "rstrip",
    "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
)  # fmt: skip
_SETS = (
    "copy", "difference", "intersection", "isdisjoint", "issubset", "issuperset", "symmetric_difference", "union",
)  # fmt: skip
# Nothing that changes a value is among them: what was checked stays as it was.
METHODS: Mapping[type, Mapping[str, Callable[..., Any]]] = {
    str: {
        **{name: getattr(str, name) for name in _TEXT},
        **{name: _padded(name) for name in ("center", "ljust", "rjust", "zfill")},
        "join": _join,
        "replace": _replace,
    },
    int: {"bit_length": int.bit_length, "bit_count": int.bit_count},
    float: {"is_integer": float.is_integer, "hex": float.hex},
    list: {name: getattr(list, name) for name in ("copy", "count", "index")},
    tuple: {name: getattr(tuple, name) for name in ("count", "index")},
    dict: {
        "copy": dict.copy,
        "get": dict.get,
        "items": lambda value: list(value.items()),
        "keys": lambda value: list(value),
        "values": lambda value: list(value.values()),
    },
    set: {name: getattr(set, name) for name in _SETS},
    frozenset: {name: getattr(frozenset, name) for name in _SETS},
}
assert BITS < _DIGITS * 4, "what can be made can be shown"
