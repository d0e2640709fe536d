"""An interpreter of expressions: it walks the syntax tree, and knows no node, name or method but those listed here.

Nothing of an expression is ever given to Python's own eval, nor is an attribute looked up on a value.
"""

import ast
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from homed.jobs.tasks.evaluation.bounds import (
    BINARY,
    COMPARE,
    CONTAINERS,
    SCALARS,
    UNARY,
    InvalidError,
    LimitError,
    checked,
    limited,
)
from homed.jobs.tasks.evaluation.functions import FUNCTIONS, MATH, METHODS, formatted, shown, text

STEPS = 2_000_000
DEEPEST = 150
_CONVERSIONS: Mapping[int, Callable[[Any], str]] = {ord("s"): text, ord("r"): shown, ord("a"): shown}
_Names = Mapping[str, Any]


class _Function:
    """What can be called, and nothing else: a value of no other type is."""

    __slots__ = ("_act",)

    def __init__(self, act: Callable[..., Any]):
        self._act = act

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._act(*arguments, **named)


_FUNCTIONS = {name: _Function(act) for name, act in FUNCTIONS.items()}
_MATH = {name: _Function(one) if callable(one) else one for name, one in MATH.items()}


class Evaluator:
    """One expression's run: `steps` and depth are of all of it."""

    def __init__(self, steps: int = STEPS):
        self._left = steps
        self._deep = 0
        self._acts: dict[type[ast.AST], Callable[[Any, _Names], Any]] = {
            ast.Constant: self._constant,
            ast.Name: self._name,
            ast.UnaryOp: lambda node, names: UNARY[_kind(node.op)](self._do(node.operand, names)),
            ast.BinOp: self._binary,
            ast.BoolOp: self._boolean,
            ast.Compare: self._compare,
            ast.IfExp: lambda node, names: self._do(node.body if self._do(node.test, names) else node.orelse, names),
            ast.List: lambda node, names: self._items(node.elts, names),
            ast.Tuple: lambda node, names: tuple(self._items(node.elts, names)),
            ast.Set: lambda node, names: set(self._items(node.elts, names)),
            ast.Dict: self._dict,
            ast.Subscript: self._subscript,
            ast.Slice: self._slice,
            ast.JoinedStr: lambda node, names: "".join(self._pieces(node, names)),
            ast.FormattedValue: self._formatted,
            ast.Attribute: self._attribute,
            ast.Call: self._call,
            ast.Lambda: self._lambda,
            ast.ListComp: lambda node, names: limited(self._each(node, node.elt, names)),
            ast.GeneratorExp: lambda node, names: limited(self._each(node, node.elt, names)),
            ast.SetComp: lambda node, names: set(limited(self._each(node, node.elt, names))),
            ast.DictComp: lambda node, names: dict(
                limited(self._each(node, ast.Tuple(elts=[node.key, node.value]), names))
            ),
        }

    def evaluate(self, expression: str) -> Any:
        """Its value. InvalidError, LimitError, and whatever Python raises where an operation fails."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what may be meant otherwise; nobody would see it
                tree = ast.parse(expression.strip(), mode="eval")
        except (SyntaxError, ValueError) as error:
            raise InvalidError(f"it is no expression of Python: {error}") from error
        return self._do(tree.body, {})

    def _do(self, node: ast.AST, names: _Names) -> Any:
        act = self._acts.get(type(node))
        if act is None:
            raise InvalidError(f"{_kind(node)} is not supported")
        self._take(1)
        self._deep += 1
        if self._deep > DEEPEST:
            raise LimitError("it is nested too deeply")
        try:
            value = act(node, names)
        finally:
            self._deep -= 1
        return value if type(value) in (_Function, slice) else checked(value)

    def _take(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise LimitError("it takes too many steps")

    def _constant(self, node: ast.Constant, names: _Names) -> Any:
        if type(node.value) not in SCALARS:
            raise InvalidError(f"a value of the type {type(node.value).__name__} is not supported")
        return node.value

    def _name(self, node: ast.Name, names: _Names) -> Any:
        if node.id in names:
            return names[node.id]
        if node.id in _FUNCTIONS:
            return _FUNCTIONS[node.id]
        raise InvalidError(f"the name {node.id!r} is not known")

    def _binary(self, node: ast.BinOp, names: _Names) -> Any:
        left, right = self._do(node.left, names), self._do(node.right, names)
        act = BINARY.get(_kind(node.op))
        if act is None:
            raise InvalidError(f"{_kind(node.op)} is not supported")
        self._take(_weight(left) + _weight(right))
        return act(left, right)

    def _boolean(self, node: ast.BoolOp, names: _Names) -> Any:
        wanted = isinstance(node.op, ast.Or)
        value = None
        for one in node.values:
            value = self._do(one, names)
            if bool(value) is wanted:
                break
        return value

    def _compare(self, node: ast.Compare, names: _Names) -> Any:
        left = self._do(node.left, names)
        for operator, one in zip(node.ops, node.comparators, strict=True):
            right = self._do(one, names)
            self._take(min(_weight(left), _weight(right)) if _kind(operator) not in ("In", "NotIn") else _weight(right))
            if not COMPARE[_kind(operator)](left, right):
                return False
            left = right
        return True

    def _items(self, nodes: Iterable[ast.expr], names: _Names) -> list[Any]:
        def items() -> Iterator[Any]:
            for node in nodes:
                if isinstance(node, ast.Starred):
                    yield from _iterable(self._do(node.value, names))
                else:
                    yield self._do(node, names)

        return limited(items())

    def _dict(self, node: ast.Dict, names: _Names) -> Any:
        made: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                more = self._do(value, names)
                if type(more) is not dict:
                    raise InvalidError("** is of a dict")
                made |= more
            else:
                made[self._do(key, names)] = self._do(value, names)
        return made

    def _subscript(self, node: ast.Subscript, names: _Names) -> Any:
        value, at = self._do(node.value, names), self._do(node.slice, names)
        if type(value) is not str and type(value) not in CONTAINERS:
            raise InvalidError(f"a {type(value).__name__} has no items")
        return value[at]

    def _slice(self, node: ast.Slice, names: _Names) -> slice:
        ends = (None if end is None else self._do(end, names) for end in (node.lower, node.upper, node.step))
        return slice(*ends)

    def _pieces(self, node: ast.JoinedStr, names: _Names) -> Iterator[str]:
        length = 0
        for one in node.values:
            piece = self._do(one, names)
            length += len(piece)
            checked(range(length))
            yield piece

    def _formatted(self, node: ast.FormattedValue, names: _Names) -> str:
        value = self._do(node.value, names)
        if node.conversion >= 0:
            value = _CONVERSIONS[node.conversion](value)
        return formatted(value, "" if node.format_spec is None else self._do(node.format_spec, names))

    def _attribute(self, node: ast.Attribute, names: _Names) -> Any:
        if isinstance(node.value, ast.Name) and node.value.id == "math" and "math" not in names:
            if node.attr in _MATH:
                return _MATH[node.attr]
            raise InvalidError(f"math.{node.attr} is not supported")
        value = self._do(node.value, names)
        method = METHODS.get(type(value), {}).get(node.attr)
        if method is None:
            raise InvalidError(f"a {type(value).__name__} has no method {node.attr!r} here")
        return _Function(lambda *arguments, **named: method(value, *arguments, **named))

    def _call(self, node: ast.Call, names: _Names) -> Any:
        function = self._do(node.func, names)
        if type(function) is not _Function:
            raise InvalidError(f"a {type(function).__name__} cannot be called")
        arguments = self._items(node.args, names)
        named: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise InvalidError("** is not supported in a call")
            named[keyword.arg] = self._do(keyword.value, names)
        self._take(sum(map(_weight, arguments)))
        return function(*arguments, **named)

    def _lambda(self, node: ast.Lambda, names: _Names) -> _Function:
        wanted = node.args
        if wanted.vararg or wanted.kwarg or wanted.kwonlyargs or wanted.posonlyargs or wanted.defaults:
            raise InvalidError("a lambda takes plain arguments only")
        parameters = [one.arg for one in wanted.args]

        def call(*arguments: Any) -> Any:
            if len(arguments) != len(parameters):
                raise InvalidError(f"a lambda takes {len(parameters)} arguments, and was given {len(arguments)}")
            return self._do(node.body, {**names, **dict(zip(parameters, arguments, strict=True))})

        return _Function(call)

    def _each(self, node: Any, wanted: ast.AST, names: _Names, depth: int = 0) -> Iterator[Any]:
        """The values of a comprehension, from its loop at `depth` on."""
        if depth == len(node.generators):
            yield self._do(wanted, names)
            return
        loop: ast.comprehension = node.generators[depth]
        if loop.is_async:
            raise InvalidError("async is not supported")
        for item in _iterable(self._do(loop.iter, names)):
            self._take(1)
            inner = {**names, **dict(_bound(loop.target, item))}
            if all(self._do(test, inner) for test in loop.ifs):
                yield from self._each(node, wanted, inner, depth + 1)


def _bound(target: ast.AST, value: Any) -> Iterator[tuple[str, Any]]:
    """The names that a loop gives to an item."""
    if isinstance(target, ast.Name):
        yield target.id, value
        return
    if not isinstance(target, ast.Tuple | ast.List):
        raise InvalidError(f"{_kind(target)} is not supported in a loop")
    items = limited(_iterable(value))
    if len(items) != len(target.elts):
        raise InvalidError(f"{len(target.elts)} values were expected, and there are {len(items)}")
    for inner, item in zip(target.elts, items, strict=True):
        yield from _bound(inner, item)


def _iterable(value: Any) -> Iterable[Any]:
    if type(value) is not str and type(value) not in CONTAINERS:
        raise InvalidError(f"a {type(value).__name__} has no items")
    items: Iterable[Any] = value
    return items


def _weight(value: Any) -> int:
    """What it costs to go over it, in steps."""
    return len(value) // 64 if type(value) is str or type(value) in CONTAINERS else 0


def _kind(node: ast.AST) -> str:
    return type(node).__name__
