"""JSON that holds too much is refused before it is decoded, at little cost."""

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homed import json_structure
from homed.errors import ValidationError
from homed.json_structure import MAX_DEPTH, MAX_VALUES

_MIB = 1 << 20


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@pytest.mark.parametrize(
    "text",
    [
        b'{"script": "' + b'a,b,[{\\"' * 100_000 + b'"}',
        b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        b"[" + b"[]," * (MAX_VALUES // 2 - 10) + b"[]]",
        b'"' + b"[" * 10_000 + b'"',
        b"",
        b"]" * 10_000,
        b'"' + b'\\"' * 100_000,
    ],
)
def test_what_lies_within_the_bounds_passes(text: bytes) -> None:
    json_structure.check(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[" * _MIB, "deep"),
        (b'{"a":' * (_MIB // 5), "deep"),
        (b"[" * (MAX_DEPTH + 1), "deep"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "deep"),
        (b"[" + b"[]," * (_MIB // 3) + b"[]]", "values"),
        (b"{" + b",".join(b'"%d":1' % i for i in range(65_536)) + b"}", "values"),
        (b'["\\"",' * (MAX_DEPTH + 1), "deep"),
    ],
)
def test_what_holds_too_much_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        json_structure.check(text)
    assert said in raised.value.message


@pytest.mark.parametrize("unit", [b'"', b'\\"', b'"\\', b'",', b'["', b"[]", b'"a",', b"\\", b'"\\"['])
def test_no_text_costs_much(unit: bytes) -> None:
    text = unit * (_MIB // len(unit))
    before = time.thread_time()
    with contextlib.suppress(ValidationError):
        json_structure.check(text)
    assert time.thread_time() - before < 0.2


_JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@settings(max_examples=30, deadline=None)
@given(_JSON)
def test_values_and_depth_are_counted_as_they_are(value: Any) -> None:
    room = MAX_DEPTH - depth(value)
    text = json.dumps(value).encode()
    json_structure.check(b"[" * room + text + b"]" * room)
    with pytest.raises(ValidationError):
        json_structure.check(b"[" * (room + 1) + text + b"]" * (room + 1))
