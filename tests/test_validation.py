"""Every wrong field is named, and nothing that a client sends raises anything else."""

import ast
import json
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homed import validation
from homed.api.access.keys import NewKey
from homed.api.homei.services import NewService
from homed.config import Config
from homed.containers.spec import ServiceChange, ServiceSpec
from homed.errors import FieldError, ValidationError


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    count: Annotated[int, msgspec.Meta(ge=0)]
    text: str = ""


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    inner: Inner
    many: tuple[Inner, ...] = ()
    by_name: dict[str, Inner] = {}
    maybe: Inner | None = None
    words: tuple[str, ...] = ()
    table: dict[str, int] = {}
    short: Annotated[tuple[str, ...], msgspec.Meta(max_length=1)] = ()


def wrong(raw: object, kind: Any) -> list[str]:
    with pytest.raises(ValidationError) as raised:
        validation.convert(raw, kind)
    assert all(error.message for error in raised.value.errors)
    assert raised.value.details["errors"] == [{"field": e.field, "message": e.message} for e in raised.value.errors]
    return [error.field for error in raised.value.errors]


def test_what_is_right_is_converted() -> None:
    raw = {
        "name": "a", "inner": {"count": 1}, "many": [{"count": 2}], "by_name": {"x": {"count": 3}}, "maybe": None,
        "words": ["a"], "table": {"a": 1}, "short": ["a"],
    }  # fmt: skip
    one = validation.convert(raw, Outer)
    assert one == Outer("a", Inner(1), (Inner(2),), {"x": Inner(3)}, None, ("a",), {"a": 1}, ("a",))


def test_every_wrong_field_is_named_wherever_it_stands() -> None:
    raw = {
        "inner": {"count": -1, "text": 5, "x": 1},
        "many": [{"count": 1}, {"text": "a"}, {"count": "x"}],
        "by_name": {"one": {}, "two": {"count": 1, "y": 2}},
        "maybe": {"count": None},
        "words": ["a", 1, None],
        "table": {"a": "x", "b": 1, "c": 1.5},
        "short": ["a", "b"],
        "z": 0,
    }
    assert wrong(raw, Outer) == [
        "name", "inner.count", "inner.text", "inner.x", "many[1].count", "many[2].count", "by_name.one.count",
        "by_name.two.y", "maybe.count", "words[1]", "words[2]", "table.a", "table.c", "short", "z",
    ]  # fmt: skip


@pytest.mark.parametrize("raw", [None, 1, "x", [], True])
def test_what_is_no_object_is_one_error(raw: object) -> None:
    assert wrong(raw, Outer) == [""]


def test_no_more_errors_are_told_than_a_person_reads() -> None:
    assert len(wrong({f"x{i}": 1 for i in range(1000)}, Inner)) == 50


def test_types_are_not_guessed_in_a_body_but_are_in_a_query() -> None:
    assert wrong({"count": "1"}, Inner) == ["count"]
    assert validation.convert({"count": "1"}, Inner, strict=False) == Inner(1)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000, b"1" * 5000, b'"\\ud800"'])
def test_what_is_not_json_is_a_validation_error(data: bytes) -> None:
    with pytest.raises(ValidationError):
        validation.decode_json(data, Inner)


def test_a_service_is_told_all_that_is_wrong_with_it_at_once() -> None:
    raw = {
        "name": "-bad", "image": "", "restart_policy": "sometimes", "environment": {"A=B": "x", "N": 1},
        "ports": ["80:80", "x", 5, "70000"], "volumes": ["/a:/b", "relative", "/a:/"], "depends_on": ["a", 1],
        "labels": {"io.homed.spec": "x"}, "command": "'", "entrypoint": 3, "network": "a b", "devices": ["/etc"],
        "user": "A B", "read_only": "no", "tmpfs": ["x"], "memory": "1k", "cpus": 0, "stop_timeout": -1,
        "health_check": {"interval": 0, "retires": 1}, "registry": {"username": "x"}, "privileged": None, "other": 1,
    }  # fmt: skip
    named = set(wrong(raw, NewService))
    assert named >= {
        "name", "image", "restart_policy", "environment.N", "ports[2]", "volumes[1]", "volumes[2]",
        "depends_on[1]", "labels.io.homed.spec", "command", "entrypoint", "network", "devices[0]", "user", "read_only",
        "tmpfs[0]", "memory", "cpus", "stop_timeout", "health_check.interval", "health_check.retires",
        "health_check.command", "registry.password", "privileged", "other",
    }  # fmt: skip


@pytest.mark.parametrize("field", ["image", "restart_policy", "network", "user", "name"])
def test_a_newline_at_the_end_does_not_slip_through(field: str) -> None:
    """Python's `$` matches before it."""
    right = {"name": "web", "image": "app:1", "restart_policy": "always", "network": "lan", "user": "root"}
    validation.convert(right, NewService)
    assert wrong({**right, field: f"{right[field]}\n"}, NewService) == [field]


def test_a_struct_that_refuses_its_values_names_them_under_its_own_path() -> None:
    assert wrong({"api": {"listen": ["x"], "tls": {"key": "/x"}}}, Config) == ["api.tls.certificate", "api.listen[0]"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
_KINDS: list[Any] = [ServiceSpec, NewService, ServiceChange, NewKey, Config]


def _object(kind: Any) -> st.SearchStrategy[dict[str, Any]]:
    """An object with the kind's own fields, each with anything, or with what looks nearly right."""
    nearly: st.SearchStrategy[Any] = st.sampled_from(
        ["a", "", "80:80", "/a:/b", "1g", "no", ["80"], ["/a:/b:ro"], {"A": "b"}, {"command": "x"}, 5, 0.5, True, "'"]
    )
    return st.fixed_dictionaries({}, optional={f.name: _JSON | nearly for f in msgspec.structs.fields(kind)})


@settings(max_examples=300, deadline=None)
@given(data=st.data(), kind=st.sampled_from(_KINDS))
def test_no_json_raises_anything_but_a_validation_error(data: st.DataObject, kind: Any) -> None:
    raw = data.draw(_JSON | _object(kind))
    try:
        value = validation.decode_json(json.dumps(raw).encode(), kind)
    except ValidationError as error:
        told = [isinstance(one, FieldError) and bool(one.message) for one in error.errors]
        assert told and all(told)
        msgspec.json.encode(error.details)
    else:
        assert isinstance(value, kind)


@given(st.binary(max_size=100))
def test_no_bytes_raise_anything_but_a_validation_error(data: bytes) -> None:
    try:
        validation.decode_json(data, NewService)
    except ValidationError as error:
        assert error.errors  # noqa: PT017  it may raise or not


class Named(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(pattern="^[a-z]+$", description="lower-case letters")] | None = None
    bare: dict[str, Annotated[str, msgspec.Meta(pattern="^[0-9]+$")]] = {}


def test_a_pattern_is_explained_in_words() -> None:
    with pytest.raises(ValidationError) as raised:
        validation.convert({"name": "A", "bare": {"a": "x"}}, Named)
    said = {error.field: error.message for error in raised.value.errors}
    assert said["name"] == "must be lower-case letters"
    assert said["bare.a"] == "has characters or a form that is not allowed here"


def test_every_pattern_in_the_code_has_a_description() -> None:
    lacking = []
    for path in (Path(validation.__file__).parent).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                given = {keyword.arg for keyword in node.keywords}
                if "pattern" in given and "description" not in given:
                    lacking.append(f"{path.name}:{node.lineno}")
    assert not lacking


class Numbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    whole: int = 0
    bounded: Annotated[int, msgspec.Meta(ge=0, le=10)] | None = None
    real: float = 0.0
    either: int | float = 0
    text: str = ""
    many: tuple[int, ...] = ()
    table: dict[str, int] = {}
    free: Any = None
    yes: bool = False


def test_a_number_without_a_fraction_is_an_integer_in_json() -> None:
    text = (
        b'{"whole": 2.0, "bounded": 1e1, "many": [3.0, -0.0], "table": {"a": 4.0}, '
        b'"real": 2, "free": 2.0, "either": 2.0}'
    )
    numbers = validation.decode_json(text, Numbers)
    assert numbers == Numbers(2, 10, 2.0, 2.0, "", (3, 0), {"a": 4}, 2.0)
    assert [type(n) for n in (numbers.whole, numbers.bounded, *numbers.many)] == [int] * 4
    assert type(numbers.free) is type(numbers.either) is float


@pytest.mark.parametrize(
    "text", [b'{"whole": 2.5}', b'{"bounded": 11.0}', b'{"text": 2.0}', b'{"yes": 1.0}', b'{"whole": "2"}']
)
def test_no_other_rule_is_loosened_by_that(text: bytes) -> None:
    with pytest.raises(ValidationError):
        validation.decode_json(text, Numbers)
    with pytest.raises(ValidationError):
        validation.convert({"whole": 2.0}, Numbers)


def test_a_byte_order_mark_is_passed_over() -> None:
    assert validation.decode_json(b'\xef\xbb\xbf{"whole": 1}', Numbers).whole == 1


@pytest.mark.parametrize(
    "text", [b"1" * 100_000, b'{"whole": ' + b"9" * 100_000 + b"}", b'{"whole": 1e400}', b'{"free": 1e400}']
)
def test_numbers_beyond_all_bounds_are_refused(text: bytes) -> None:
    with pytest.raises(ValidationError):
        validation.decode_json(text, Numbers)


@pytest.mark.parametrize(
    "text",
    [
        b'{"many": [' + b"null," * 49_000 + b"1]}",
        b'{"table": {' + b",".join(b'"%d":null' % i for i in range(49_000)) + b"}}",
        b"{" + b",".join(b'"%d":1' % i for i in range(49_000)) + b"}",
    ],
)
def test_many_wrong_values_cost_little(text: bytes) -> None:
    before = time.thread_time()
    with pytest.raises(ValidationError) as raised:
        validation.decode_json(text, Numbers)
    assert time.thread_time() - before < 0.2
    assert len(raised.value.errors) == 50
