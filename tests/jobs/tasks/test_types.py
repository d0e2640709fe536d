"""Payloads: what each type takes, and that every wrong field is named."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.config.jobs import TaskType
from homed.errors import ValidationError
from homed.jobs.tasks import types

ALL = tuple(types.TYPES)


def wrong(kind: str, payload: object, allowed: tuple[str, ...] = ALL) -> list[str]:
    with pytest.raises(ValidationError) as raised:
        types.check(kind, payload, allowed)
    return [error.field for error in raised.value.errors]


def test_the_types_are_those_that_can_be_configured() -> None:
    assert set(TaskType.__args__) == set(types.TYPES)  # type: ignore[attr-defined]


def test_the_fields_that_are_told_are_those_that_are_checked() -> None:
    for one in types.TYPES.values():
        known = {field.name: field.required for field in msgspec.structs.fields(one.payload)}
        assert {field.name: field.required for field in one.fields} == known


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("echo", {"message": "Hello World", "deep": [{"a": None}]}),
        ("echo", {}),
        ("sleep", {"duration": 0}),
        ("sleep", {"duration": 2.5}),
        ("system_info", {}),
        ("http_request", {"url": "https://example.com"}),
        ("http_request", {"url": "http://example.com:8080/a?b=c#d", "method": "POST", "json": None}),
        ("http_request", {"url": "http://[::1]:80/", "headers": {"X-Token": "a b\tc"}, "body": "é"}),
        ("command", {"command": "df -h"}),
        ("command", {"command": "df", "args": ["-h", "/tmp; rm"], "env": {"A": "b=c"}, "cwd": "/tmp"}),
        ("command", {"command": "df", "args": "-h"}),
        ("python_eval", {"expression": "1 + 1"}),
    ],
)
def test_a_payload_of_the_type_is_taken(kind: str, payload: dict[str, Any]) -> None:
    assert types.check(kind, payload, ALL).items() >= payload.items()


@pytest.mark.parametrize(
    ("kind", "payload", "fields"),
    [
        ("sleep", {}, ["payload.duration"]),
        ("sleep", {"duration": -1}, ["payload.duration"]),
        ("sleep", {"duration": "5"}, ["payload.duration"]),
        ("sleep", {"duration": math.inf}, ["payload.duration"]),
        ("sleep", {"duration": math.nan}, ["payload.duration"]),
        ("http_request", {}, ["payload.url"]),
        ("http_request", {"url": "file:///etc/passwd"}, ["payload.url"]),
        ("http_request", {"url": "http://user:pw@example.com/"}, ["payload.url"]),
        ("http_request", {"url": "http://example.com\\@127.0.0.1/"}, ["payload.url"]),
        ("http_request", {"url": "http://example.com/ x"}, ["payload.url"]),
        ("http_request", {"url": "http://example.com/\r\nX: y"}, ["payload.url"]),
        ("http_request", {"url": "http://"}, ["payload.url"]),
        ("http_request", {"url": "http://a", "method": "BREW"}, ["payload.method"]),
        ("http_request", {"url": "http://a", "method": "GET / HTTP/1.1\r\n"}, ["payload.method"]),
        ("http_request", {"url": "http://a", "body": "", "json": 1}, ["payload.json"]),
        ("http_request", {"url": "http://a", "timeout": 0}, ["payload.timeout"]),
        ("http_request", {"url": "http://a", "headers": {"A": "b\r\nC: d"}}, ["payload.headers.A"]),
        ("http_request", {"url": "http://a", "headers": {"A": "b\0"}}, ["payload.headers.A"]),
        ("http_request", {"url": "http://a", "headers": {"A:": "b"}}, ["payload.headers.A:"]),
        ("http_request", {"url": "http://a", "headers": {"Host": "b"}}, ["payload.headers.Host"]),
        ("http_request", {"url": "http://a", "headers": {"upgrade": "b"}}, ["payload.headers.upgrade"]),
        ("http_request", {"url": "http://a", "headers": {"Proxy-X": "b"}}, ["payload.headers.Proxy-X"]),
        ("command", {}, ["payload.command"]),
        ("command", {"command": " "}, ["payload.command"]),
        ("command", {"command": "a\0b"}, ["payload.command"]),
        ("command", {"command": "a", "args": [1]}, ["payload.args[0]"]),
        ("command", {"command": "a", "args": ["\ud800"]}, ["payload.args"]),
        ("command", {"command": "a", "env": {"A=B": "c"}}, ["payload.env.A=B"]),
        ("command", {"command": "a", "cwd": "tmp"}, ["payload.cwd"]),
        ("python_eval", {}, ["payload.expression"]),
        ("python_eval", {"expression": ""}, ["payload.expression"]),
        ("python_eval", {"expression": "1" * 10_001}, ["payload.expression"]),
        ("echo", [1], ["payload"]),
        ("no_such", {}, ["task_type"]),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(kind: str, payload: object, fields: list[str]) -> None:
    assert wrong(kind, payload) == fields


def test_a_type_that_is_not_configured_is_refused() -> None:
    assert wrong("command", {"command": "true"}, ("echo",)) == ["task_type"]
    assert types.check("echo", {}, ("echo",)) == {}


@pytest.mark.parametrize("method", ["get", "Get", "GET", "post", "pAtCh", "OPTIONS"])
def test_a_method_is_taken_in_either_case(method: str) -> None:
    """The default's too, and when it is checked anew after it was stored."""
    stored = types.check("http_request", {"url": "http://a/", "method": method}, ALL)
    assert stored == {"url": "http://a/", "method": method.upper()}
    assert types.check("http_request", stored, ALL) == stored
    assert msgspec.convert(stored, types.HttpRequest).method == method.upper()


@pytest.mark.parametrize(("kind", "payload"), [
    ("http_request", {"url": "http://a/", "timeout": 30, "body": None, "headers": {}, "more": [1]}),
    ("http_request", {"url": "http://a/", "json": None}),
    ("command", {"command": "x", "args": "", "env": {}, "cwd": ""}),
    ("command", {"command": "x", "args": []}),
    ("sleep", {"duration": 0}),
])  # fmt: skip
def test_a_field_that_is_given_as_its_default_stays(kind: str, payload: dict[str, Any]) -> None:
    assert types.check(kind, payload, ALL) == payload


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
_FIELDS = st.sampled_from(
    ["duration", "url", "method", "headers", "body", "json", "timeout", "command", "args", "env", "cwd", "expression"]
)


@given(kind=st.sampled_from(ALL), payload=st.dictionaries(_FIELDS | st.text(), _JSON, max_size=5))
def test_any_payload_is_taken_or_refused_by_its_fields(kind: str, payload: dict[str, Any]) -> None:
    try:
        taken = types.check(kind, payload, ALL)
    except ValidationError as raised:
        fields = [one.field for one in raised.errors]
    else:
        fields = []
        assert msgspec.json.encode(types.check(kind, taken, ALL)) == msgspec.json.encode(taken)
    assert all(field.startswith("payload.") for field in fields)
