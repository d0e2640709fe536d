"""Expressions: what they can say, and that nothing gets out, neither by name nor by size."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homed.jobs.tasks.evaluation.bounds import ITEMS, InvalidError, LimitError, plain
from homed.jobs.tasks.evaluation.evaluator import Evaluator
from homed.jobs.tasks.evaluation.functions import FUNCTIONS, MATH, METHODS
from homed.jobs.tasks.evaluation.main import run

REPOSITORY = Path(__file__).resolve().parents[3]
_MAIN = "from homed.jobs.tasks.evaluation.main import main; raise SystemExit(main())"


def value(expression: str) -> object:
    return plain(Evaluator().evaluate(expression))


def evaluate(expression: str) -> tuple[int, dict[str, object]]:
    """As a job does it: in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _MAIN], input=expression.encode(), capture_output=True, timeout=60,
        cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)}, check=False,
    )  # fmt: skip
    assert done.stderr == b""
    answer: dict[str, object] = json.loads(done.stdout)
    return done.returncode, answer


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1 + 1", 2),
        (" 2 ** 10 - 7 // 2 % 3 ", 1024),
        ("1 / 4, -3, +2, ~5, not 0", [0.25, -3, 2, -6, True]),
        ("1 << 4 | 3 & 2 ^ 1", 1 << 4 | 3 & 2 ^ 1),
        ("1 < 2 <= 2 != 3 and 'a' in 'abc' or False", True),
        ("'yes' if [] else 'no'", "no"),
        ("None is None, 1 is not None, 3 not in (1, 2)", [True, True, True]),
        ("[x * y for x in range(4) if x % 2 for y in (1, 10)]", [1, 10, 3, 30]),
        ("{k: v for k, v in zip('ab', [1, 2])}", {"a": 1, "b": 2}),
        ("sorted({c for c in 'hello'})", ["e", "h", "l", "o"]),
        ("sum(x * x for x in range(10))", 285),
        ("{**{'a': 1}, 'b': [*range(2)]}", {"a": 1, "b": [0, 1]}),
        ("'abcdef'[1:5:2] + 'xyz'[-1] + {'k': 'v'}['k']", "bdzv"),
        ("(lambda a, b: a * b)(6, 7)", 42),
        ("list(map(lambda x: x + 1, filter(None, [0, 1, 2])))", [2, 3]),
        ("max([3, 1, 2]), min(4, 2), max([], default=0), max('aa', 'b', key=len)", [3, 2, 0, "aa"]),
        ("sorted([3, 1, 2], reverse=True), sorted(['b', 'A'], key=lambda t: t.lower())", [[3, 2, 1], ["A", "b"]]),
        ("f'{3.14159:.2f}|{7:>4}|{\"x\"!r:>5}|{255:#x}|{1000000:,}'", "3.14|   7|  'x'|0xff|1,000,000"),
        ("'a,b'.split(','), '-'.join(['x', 'y']), 'abc'.upper(), ' x '.strip()", [["a", "b"], "x-y", "ABC", "x"]),
        ("'hello'.replace('l', 'L', 1), 'x'.zfill(3), 'a'.center(3, '*')", ["heLlo", "00x", "*a*"]),
        ("math.sqrt(16), math.floor(2.7), math.factorial(5), round(math.pi, 4)", [4.0, 2, 120, 3.1416]),
        ("math.prod([2, 3, 4]), math.comb(5, 2), math.gcd(12, 18)", [24, 10, 6]),
        ("int('ff', 16), float('1.5'), str(12), bool(''), hex(255), bin(5), oct(8)",
         [255, 1.5, "12", False, "0xff", "0b101", "0o10"]),
        ("len('abc'), abs(-2), divmod(7, 2), pow(2, 10), pow(3, 4, 5), ord('a'), chr(98)",
         [3, 2, [3, 1], 1024, 1, 97, "b"]),
        ("any([0, 1]), all([1, 0]), list(enumerate('ab', 1)), list(reversed([1, 2]))",
         [True, False, [[1, "a"], [2, "b"]], [2, 1]]),
        ("{1, 2} | {3}, {1, 2} & {2}, {1, 2}.issubset({1, 2, 3})", [[1, 2, 3], [2], True]),
        ("{'a': 1}.get('b', 5), list({'a': 1}.items()), {'a': 1}.keys()", [5, [["a", 1]], ["a"]]),
        ("dict([('a', 1)], b=2)", {"a": 1, "b": 2}),
        ("tuple([1]), list('ab'), set(), repr('x'), str([1, 'a'])", [[1], ["a", "b"], [], "'x'", "[1, 'a']"]),
        ("float('inf'), -float('inf')", ["inf", "-inf"]),
        ("[r for r in [range(3)]][0][1]", 1),
        ("(lambda f: f(f, 5))(lambda f, n: 1 if n < 2 else n * f(f, n - 1))", 120),
    ],
)  # fmt: skip
def test_what_can_be_said(expression: str, expected: object) -> None:
    assert value(expression) == expected


# What has got out of evaluators that forbid names, and what would if anything were looked up on a value.
_ESCAPES = [
    "__import__('os').system('id')",
    "eval('1')", "exec('1')", "compile('1', '', 'eval')", "open('/etc/passwd').read()", "input()", "print(1)",
    "globals()", "locals()", "vars()", "dir()", "getattr(1, 'real')", "setattr(1, 'a', 1)", "hasattr(1, 'a')",
    "type(1)", "object()", "super()", "help()", "breakpoint()", "memoryview(b'')", "id(1)", "iter([])", "next([])",
    "staticmethod(len)", "property(len)", "callable(len)", "isinstance(1, int)", "slice(1)", "bytes(5)", "bytearray(5)",
    "__builtins__", "__name__", "__loader__", "os", "sys", "math", "self",
    "().__class__", "().__class__.__bases__[0].__subclasses__()", "''.__class__.__mro__[1].__subclasses__()",
    "[].__class__.__base__.__subclasses__()[104].load_module('os')",
    "(1).__class__", "(1).real", "1.0.real", "(lambda: 0).__globals__", "(lambda: 0).__code__", "len.__self__",
    "len.__call__('a')", "len._act", "'a'.upper.__self__", "str.upper", "str.__subclasses__()", "dict.fromkeys([1])",
    "[x for x in ()].__iter__()", "(x for x in ()).gi_frame.f_back.f_globals", "(x for x in [1]).gi_code",
    "[g.gi_frame.f_back for g in [(g for _ in [1])]]",
    "'{0.__class__}'.format(1)", "'{a.__init__.__globals__}'.format_map({'a': 1})", "'%s' % 1", "'%c' % 65",
    "'%1000000000d' % 1", "'{:>1000000000}'.format(1)", "f'{().__class__}'", "f'{1:{10**9}}'", "f'{1:>1000000}'",
    "f'{1:{().__class__}}'", "format(1, '>99999')", "f'{[1]:>3}'", "str(len)", "f'{len}'", "repr([len])", "[len]",
    "len",
    "{'a': len}", "math.__dict__", "math.__loader__", "math.sumprod([1], [1])", "math.sqrt.__self__",
    "(lambda *a: a)(1)", "(lambda a=1: a)()", "(lambda **k: k)(a=1)", "len(**{'obj': 'a'})", "(x := 5)",
    "[].append(1)", "[1].pop()", "{}.update(a=1)", "{}.setdefault(1, 2)", "{1}.add(2)", "[3].sort()", "[1].clear()",
    "{}.__setitem__(1, 2)", "{}.__class__", "{1: 2}.pop(1)", "'a'.encode()", "b'abc'", "b''.fromhex('00')", "1j", "...",
    "'a'.translate({97: 98})", "'a'.maketrans('a', 'b')", "'a'.expandtabs(10**9)", "await 1", "yield 1", "(yield)",
    "[x async for x in []]", "import os", "x = 1", "del x", "lambda", "assert 0", "raise 1", "1; 2", "1\n2",
    "@len", "a @ b", "1 @ 2", "*[1]", "''.join([1])", "'a' * 'b'", "[] * 1.5", "{} + {}", "1()", "'a'()", "{}()",
    "[1][[].__class__]", "[1]['0']", "{}[len.__class__]", "1[0]", "len[0]", "map(1, [1])", "sorted([1], key=1)",
    "sorted([1], key='a')", "filter(open, [])", "sum([[1], [2]], [])", "sum(['a'], '')", "int([1])", "float(len)",
    "round('a')", "hex('a')", "hex(len)", "chr(-1)", "chr(0x110000)", "range(1.5)", "zip(1)", "(-8) ** 0.5", "1 / 0",
    "{}['a']", "{[]: 1}", "{{}}", "[x for x.real in [1]]", "[x for [0].x in [1]]", "[0 for len[0] in [1]]",
    "𝘭𝘦𝘯.__self__", "ｅｖａｌ('1')", "\0", "'\0'.__class__", "", " ", "#",
    "\\\n", "𝒐𝒑𝒆𝒏('/etc/passwd')", "(1).__reduce__()", "'a'.__reduce_ex__(2)", "[].__reduce__()", "{}.__ior__({})",
    "[].copy.__self__", "(lambda x: x.__class__)(1)", "list(map(lambda x: x.__class__, [1]))",
    "[c for c in 'a'.__class__.__base__.__subclasses__() if c.__name__ == 'Popen']",
]  # fmt: skip


@pytest.mark.parametrize("expression", _ESCAPES)
def test_nothing_gets_out(expression: str) -> None:
    assert json.loads(run(expression.encode()))["code"] == "EXPRESSION_INVALID", run(expression.encode())


_TOO_MUCH = [
    "9 ** 9 ** 9", "2 ** 100000", "(2 ** 7000) ** 3", "10 ** -1 if 1 << 10 ** 9 else 0", "1 << 10 ** 12",
    "7 ** 5000 * 7 ** 5000",
    "math.factorial(100000)", "math.factorial(10 ** 20)", "math.comb(10 ** 6, 10 ** 5)", "math.perm(10 ** 5)",
    "math.prod(range(1, 10000))", "math.prod([10 ** 2000] * 10)", "sum([2 ** 13999] * 100)",
    "'a' * 10 ** 10", "10 ** 10 * 'a'", "[0] * 10 ** 9", "(0,) * 10 ** 9", "'ab' * 10 ** 6",
    "range(10 ** 9)", "range(10 ** 30)", "list(range(10 ** 7))", "sum(range(10 ** 8))",
    "'a'.ljust(10 ** 9)", "'a'.center(10 ** 10)", "'a'.zfill(10 ** 9)", "('a' * 1000000).replace('a', 'b' * 1000)",
    "('a' * 999999).replace('', 'bb')", "('a' * 1000).join(['b' * 1000] * 2000)", "','.join(map(str, range(999999)))",
    "[x for x in range(1000000) for y in range(1000000)]", "len([0 for a in range(10 ** 6) for b in range(10 ** 6)])",
    "all(1 for a in range(3000) for b in range(3000))", "(lambda f: f(f))(lambda f: f(f))",
    "(lambda f, n: f(f, n))(lambda f, n: 0 if n == 0 else f(f, n - 1), 10 ** 6)",
    "-" * 3000 + "1", "(" * 150 + "1" + ")" * 150 + "+1" * 3000, "not " * 2000 + "1", "1" + "+1" * 4000,
    "(lambda a: (lambda b: (lambda c: (lambda d: str(d))([c] * 99))([b] * 99))([a] * 99))([1] * 99)",
    "(lambda a: (lambda b: (lambda c: (lambda d: d)([c] * 99))([b] * 99))([a] * 99))([1] * 99)",
    "(lambda d: d(d, [1], 60))(lambda d, x, n: x if n == 0 else d(d, [x, x], n - 1))",
    "(lambda d: str(d(d, [1], 40)))(lambda d, x, n: x if n == 0 else d(d, [x, x], n - 1))",
    "str(['a' * 500000] * 3)", "int('9' * 5000)", "'a' * 500000 + 'b' * 600000", "[1] * 600000 + [2] * 600000",
    "''.join(f'{\"a\" * 900000}{\"b\" * 900000}')", "list(zip(range(999999), range(999999), range(999999))) * 2",
    "'x' * 1000000 + 'y'",
]  # fmt: skip


@pytest.mark.parametrize("expression", _TOO_MUCH)
def test_nothing_grows_without_bound(expression: str) -> None:
    code, answer = evaluate(expression)
    assert (code, answer["code"]) == (1, "LIMIT_EXCEEDED"), answer


@pytest.mark.parametrize(
    "expression", ["1" * 5000, "0x" + "f" * 5000, "(" * 5000 + ")" * 5000, "[" * 9000, "round(5, -10 ** 9)"]
)
def test_what_python_itself_refuses_is_an_error(expression: str) -> None:
    code, answer = evaluate(expression)
    assert code == 1 and answer["code"] in ("EXPRESSION_INVALID", "LIMIT_EXCEEDED")


def test_half_a_character_is_answered_as_text() -> None:
    assert value("chr(0xD800)") == "?" and value("{chr(0xDFFF): 1}") == {"?": 1}
    assert json.loads(run(b"{}[chr(0xD800)]"))["code"] == "EXPRESSION_INVALID"
    assert json.loads(run(b"\xff"))["code"] == "EXPRESSION_INVALID"


def test_a_process_answers_and_ends_with_its_code() -> None:
    assert evaluate("sum(range(5))") == (0, {"result": 10})
    assert evaluate("'result'.nothing")[0] == 1


_CONFINED = """
import json, os, resource, socket
from homed.jobs.tasks.evaluation.confinement import confine
confine()
found = {}
def attempt(name, act):
    try:
        act()
    except (OSError, MemoryError) as error:
        found[name] = type(error).__name__
attempt("open", lambda: open("/etc/passwd"))
attempt("socket", socket.socket)
attempt("pipe", os.pipe)
attempt("memory", lambda: bytearray(1 << 30))
print(json.dumps([found, [resource.getrlimit(kind) for kind in (
    resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE)], resource.getrlimit(resource.RLIMIT_CPU)]))
"""


def test_the_process_has_taken_from_itself_what_it_does_not_need() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CONFINED], capture_output=True, text=True, timeout=60, cwd=REPOSITORY, check=True
    )
    found, limits, seconds = json.loads(done.stdout)
    assert found == {"open": "OSError", "socket": "OSError", "pipe": "OSError", "memory": "MemoryError"}
    assert limits == [[0, 0]] * 3 and seconds == [10, 11]


def test_what_takes_too_long_in_one_operation_is_ended() -> None:
    """In C nothing looks at steps: the processor's time is what ends it."""
    quick = f"from homed.jobs.tasks.evaluation import confinement; confinement._SECONDS = 1; {_MAIN}"
    endless = "[pow(3 ** 8000, 7 ** 4900, 5 ** 6000 + i) for i in range(1000)]"
    done = subprocess.run(
        [sys.executable, "-P", "-c", quick], input=endless.encode(), capture_output=True, timeout=60,
        cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)}, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.returncode < 0 or json.loads(done.stdout)["code"] == "LIMIT_EXCEEDED"


def test_no_method_that_is_listed_changes_its_value() -> None:
    changing = {"append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse", "update", "add", "discard"}
    for methods in METHODS.values():
        assert not changing & methods.keys()
    assert not any(name.startswith("_") for table in (FUNCTIONS, MATH, *METHODS.values()) for name in table)


_NAMES = st.sampled_from(
    [*FUNCTIONS, "math", "x", "__class__", "__globals__", "__builtins__", "upper", "join", "get", "sqrt"]
)
_LEAVES = st.one_of(
    st.integers(-100, 100).map(str), st.sampled_from(["'ab'", "[]", "{}", "()", "None", "1.5", "{1}"]), _NAMES
)


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from(["+", "*", "**", "<<", "%", "in", "==", "and", "|", "//"]), inner).map(
            lambda parts: f"({' '.join(parts)})"
        ),
        st.tuples(inner, _NAMES).map(lambda parts: f"({parts[0]}).{parts[1]}"),
        st.tuples(inner, inner).map(lambda parts: f"({parts[0]})({parts[1]})"),
        st.tuples(inner, inner).map(lambda parts: f"({parts[0]})[{parts[1]}]"),
        st.tuples(inner, inner).map(lambda parts: f"[{parts[0]} for x in ({parts[1]})]"),
        inner.map(lambda one: f"(lambda x: {one})"),
        inner.map(lambda one: f"f'{{{one}}}'" if "'" not in one else f"[{one}]"),
    )


@settings(max_examples=300, deadline=None)
@given(st.recursive(_LEAVES, _grown, max_leaves=12))
def test_whatever_is_asked_is_answered_as_json(expression: str) -> None:
    answer = json.loads(run(expression.encode()))
    assert answer.keys() == {"result"} or answer["code"] in ("EXPRESSION_INVALID", "LIMIT_EXCEEDED")


@settings(max_examples=100, deadline=None)
@given(st.recursive(st.integers(-50, 50).map(str), lambda inner: st.tuples(
    inner, st.sampled_from(["+", "-", "*", "//", "%", "<", "==", "&", "|", "^", "and", "or"]), inner
).map(lambda parts: f"({' '.join(parts)})"), max_leaves=8))  # fmt: skip
def test_arithmetic_is_pythons(expression: str) -> None:
    try:
        expected = eval(compile(ast.parse(expression, mode="eval"), "", "eval"), {"__builtins__": {}})
    except ZeroDivisionError:
        expected = None
        with pytest.raises(ZeroDivisionError):
            value(expression)
    if expected is not None:
        assert value(expression) == expected


def test_steps_and_depth_are_of_the_whole_expression() -> None:
    with pytest.raises(LimitError):
        Evaluator(steps=100).evaluate("[x for x in range(200)]")
    with pytest.raises(InvalidError):
        Evaluator().evaluate("nothing")
    assert Evaluator().evaluate(f"len(range({ITEMS}))") == ITEMS
