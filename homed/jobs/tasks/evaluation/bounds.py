"""The values that an expression may make, and the operations on them: none makes one that is too large."""

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# An integer's bits (what Python turns into decimal without a limit of its own), a text's characters, items.
BITS = 14_000
ITEMS = 1_000_000
_NODES = 100_000
_DEEPEST = 100
SCALARS = frozenset({type(None), bool, int, float, str})
CONTAINERS = frozenset({list, tuple, dict, set, frozenset, range})


class InvalidError(Exception):
    """The expression is not one that is evaluated, or it fails."""


class LimitError(Exception):
    """It would take more than it may."""


def checked(value: Any) -> Any:
    """The value, if it is of a known type and not too large."""
    kind = type(value)
    if kind is int:
        if value.bit_length() > BITS:
            raise LimitError(f"a number has more than {BITS} bits")
    elif kind is str or kind in CONTAINERS:
        fits(len_of(value))
    elif kind not in SCALARS:
        raise InvalidError(f"a value of the type {kind.__name__} is not supported")
    return value


def fits(items: int) -> None:
    if items > ITEMS:
        raise LimitError(f"a value has more than {ITEMS} items")


def len_of(value: Any) -> int:
    """Of a range of any length too."""
    try:
        return len(value)
    except OverflowError as error:
        raise LimitError("a range is too long") from error


def limited(items: Iterable[Any]) -> list[Any]:
    """A list of them, if they are not too many."""
    made: list[Any] = []
    for item in items:
        if len(made) >= ITEMS:
            fits(ITEMS + 1)
        made.append(item)
    return made


def spread(value: Any) -> int:
    """How many values there are in it, counted as often as they are shown. LimitError where too many, or too deep."""
    left = _NODES

    def walk(one: Any, deep: int) -> None:
        nonlocal left
        left -= 1
        if left < 0 or deep > _DEEPEST:
            raise LimitError("a value is too large to be shown")
        if type(one) is dict:
            for key, item in one.items():
                walk(key, deep + 1)
                walk(item, deep + 1)
        elif type(one) in CONTAINERS:
            for item in one:
                walk(item, deep + 1)

    walk(value, 0)
    return _NODES - left


def _is_number(value: Any) -> bool:
    return type(value) in (bool, int, float)


def _multiply(a: Any, b: Any) -> Any:
    for many, times in ((a, b), (b, a)):
        if type(many) in (str, list, tuple) and type(times) in (int, bool):
            fits(len(many) * max(0, times))
            return many * times
    if not (_is_number(a) and _is_number(b)):
        raise InvalidError(f"{type(a).__name__} and {type(b).__name__} cannot be multiplied")
    if type(a) is not float and type(b) is not float and a.bit_length() + b.bit_length() > BITS + 1:
        raise LimitError(f"a number has more than {BITS} bits")
    return a * b


def power(a: Any, b: Any, modulus: Any = None) -> Any:
    if not (_is_number(a) and _is_number(b)):
        raise InvalidError(f"{type(a).__name__} ** {type(b).__name__} is not possible")
    if modulus is not None:
        return pow(a, b, modulus)
    if type(a) is not float and type(b) is not float and abs(a) > 1 and b > 0 and a.bit_length() * b > BITS * 2:
        raise LimitError(f"a number has more than {BITS} bits")
    return a**b


def _shift_left(a: Any, b: Any) -> Any:
    if type(a) not in (int, bool) or type(b) not in (int, bool):
        raise InvalidError("only integers can be shifted")
    if b > BITS or a.bit_length() + b > BITS:
        raise LimitError(f"a number has more than {BITS} bits")
    return a << b


def _add(a: Any, b: Any) -> Any:
    if type(a) is type(b) and type(a) in (str, list, tuple):
        fits(len(a) + len(b))
    return a + b


def _modulo(a: Any, b: Any) -> Any:
    # Of text it would be formatting, with a width that the text gives.
    if not (_is_number(a) and _is_number(b)):
        raise InvalidError("% is for numbers: use an f-string")
    return a % b


BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "Add": _add,
    "Sub": operator.sub,
    "Mult": _multiply,
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
    "Mod": _modulo,
    "Pow": power,
    "LShift": _shift_left,
    "RShift": operator.rshift,
    "BitOr": operator.or_,
    "BitXor": operator.xor,
    "BitAnd": operator.and_,
}
UNARY: Mapping[str, Callable[[Any], Any]] = {
    "UAdd": operator.pos,
    "USub": operator.neg,
    "Invert": operator.invert,
    "Not": operator.not_,
}
COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "Eq": operator.eq,
    "NotEq": operator.ne,
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
    "In": lambda a, b: a in b,
    "NotIn": lambda a, b: a not in b,
    "Is": operator.is_,
    "IsNot": operator.is_not,
}


def plain(value: Any) -> Any:
    """As JSON has it: sets as lists, keys as text, and what is no finite number as the text that Python gives it."""
    spread(value)
    return _plain(value)


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is float and not math.isfinite(value):
        return str(value)
    if kind is dict:
        return {whole(str(key)): _plain(item) for key, item in value.items()}
    if kind in CONTAINERS:
        return [_plain(item) for item in value]
    if kind not in SCALARS:
        raise InvalidError("a function is no result")
    return whole(value) if kind is str else value


def whole(text: str) -> str:
    """Text that UTF-8 has: halves of characters become question marks."""
    return text.encode("utf-8", "replace").decode()
