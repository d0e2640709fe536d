"""From the query's text to the types that a route declares."""

from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from homed.api import decode
from homed.api.access.keys import AuditQuery
from homed.api.homei.containers import ContainerQuery, LogQuery
from homed.api.homei.sockets import EventQuery
from homed.errors import ValidationError


class Query(msgspec.Struct, frozen=True):
    limit: Annotated[int, msgspec.Meta(ge=1)] = 5
    flag: bool | None = None
    names: tuple[str, ...] = ()
    maybe: tuple[int, ...] | None = None


def ask(*pairs: tuple[str, str]) -> Query:
    found: Query = decode.decode_query(MultiDict(pairs), Query)
    return found


def test_what_is_left_out_has_its_default() -> None:
    assert ask() == Query()


def test_text_becomes_numbers_booleans_and_lists() -> None:
    assert ask(("limit", "7"), ("flag", "true"), ("names", "a"), ("names", "b"), ("maybe", "3")) == Query(
        7, True, ("a", "b"), (3,)
    )
    assert ask(("flag", "0")).flag is False


def test_an_unknown_parameter_is_passed_over() -> None:
    assert ask(("utm_source", "x")) == Query()


def test_of_a_single_parameter_that_is_repeated_the_first_counts() -> None:
    assert ask(("limit", "1"), ("limit", "2")).limit == 1


def test_every_wrong_parameter_is_named() -> None:
    with pytest.raises(ValidationError) as raised:
        ask(("limit", "0"), ("flag", "maybe"), ("maybe", "x"))
    assert [error.field for error in raised.value.errors] == ["limit", "flag", "maybe"] or [
        error.field for error in raised.value.errors
    ] == ["limit", "flag", "maybe[0]"]


@given(
    st.sampled_from([Query, LogQuery, EventQuery, AuditQuery, ContainerQuery]),
    st.lists(
        st.tuples(
            st.sampled_from(["limit", "flag", "tail", "follow", "since", "type", "before", "managed", "status"]),
            st.text(max_size=12),
        ),
        max_size=5,
    ),
)
def test_no_query_raises_anything_but_a_validation_error(
    kind: type[msgspec.Struct], pairs: list[tuple[str, str]]
) -> None:
    try:
        assert isinstance(decode.decode_query(MultiDict(pairs), kind), kind)
    except ValidationError as error:
        assert error.errors  # noqa: PT017  it may raise or not
