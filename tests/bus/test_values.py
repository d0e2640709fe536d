"""Variants are unwrapped to the bottom, whatever is in them."""

from typing import Any

import pytest
from dbus_next.signature import Variant
from hypothesis import given
from hypothesis import strategies as st

from homed.bus.values import unwrap, variants

plain = st.integers(0, 2**31) | st.text() | st.booleans() | st.binary()
values = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def wrapped(value: Any, depth: int) -> Any:
    """The same with each part of it in so many variants; the signature is of no importance here."""
    if isinstance(value, dict):
        value = {key: wrapped(inner, depth) for key, inner in value.items()}
    elif isinstance(value, list):
        value = [wrapped(inner, depth) for inner in value]
    for _ in range(depth):
        made = Variant("s", "")
        made.value = value
        value = made
    return value


@given(values, st.integers(0, 3))
def test_what_was_wrapped_is_unwrapped(value: Any, depth: int) -> None:
    assert unwrap(wrapped(value, depth)) == value


def test_a_struct_is_a_list_and_bytes_stay_bytes() -> None:
    assert unwrap((1, Variant("s", "x"), [Variant("v", Variant("ay", b"\0"))])) == [1, "x", [b"\0"]]


def test_options_are_variants() -> None:
    made = variants({"ignore-compatible": True, "transaction-id": "x"})
    assert {key: (value.signature, value.value) for key, value in made.items()} == {
        "ignore-compatible": ("b", True), "transaction-id": ("s", "x"),
    }  # fmt: skip
    assert variants({}) == {}


@pytest.mark.parametrize("value", [1, None, [], 1.5])
def test_what_no_option_is_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="no D-Bus option"):
        variants({"x": value})
