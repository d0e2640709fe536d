"""The bytes of NewRemora's answers: what stands twice is found once by a search."""

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from homed.api.newremora import aside, spaced

_TEXT = st.text(alphabet='ab": \\,{}[]\n1é', max_size=12)
_JSON = st.recursive(
    _TEXT | st.integers(-5, 5) | st.booleans() | st.none(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(_TEXT | st.sampled_from(["id", "port"]), inside),
    max_leaves=12,
)


@given(_JSON)
def test_spacing_changes_no_value(value: Any) -> None:
    made = spaced(msgspec.json.encode(value))
    assert json.loads(made) == json.loads(json.dumps(value))


@given(st.dictionaries(st.sampled_from(["id", "status", "exit_code", "server_id"]), _TEXT | st.integers(0, 9)))
def test_no_member_is_found_by_a_search(value: dict[str, Any]) -> None:
    made = spaced(msgspec.json.encode(value))
    for name in value:
        assert f'"{name}":'.encode() not in made.replace(b'\\"', b"")
    assert msgspec.json.encode({"inner": aside(value)}) == b'{"inner":' + made + b"}"
