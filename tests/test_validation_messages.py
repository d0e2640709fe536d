"""What a wrong value is told, without the names of Python's types."""

import enum
from typing import Annotated, Any, Literal

import msgspec
import pytest

from homed import validation
from homed.errors import ValidationError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


_Name = Annotated[str, msgspec.Meta(min_length=2, max_length=3)]


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("x", int, "must be a whole number, not text"),
        (None, str, "must be text, not null"),
        (True, float, "must be a number, not true or false"),
        ("x", bool | None, "must be true or false or null, not text"),
        ([], dict[str, int] | None, "must be an object or null, not a list"),
        ("a", _Name, "must have at least 2 characters"),
        ("abcd", _Name | None, "must have at most 3 characters"),
        ([], Annotated[tuple[int, ...], msgspec.Meta(min_length=1)], "must have at least 1 items"),
        ({}, Annotated[dict[str, int], msgspec.Meta(min_length=1)], "must have at least 1 entries"),
        (0, Annotated[int, msgspec.Meta(ge=1)], "must be at least 1"),
        (0, Annotated[float, msgspec.Meta(gt=1)], "must be more than 1"),
        (2.5, Annotated[float, msgspec.Meta(lt=1.5)], "must be less than 1.5"),
        (9, Annotated[int, msgspec.Meta(le=1)] | None, "must be at most 1"),
        ("x", Colour | None, "must be one of red, blue"),
        ("x", Literal["a", "b"], "must be one of a, b"),
    ],
)
def test_a_wrong_value_is_explained_in_words(value: object, kind: Any, message: str) -> None:
    holder = msgspec.defstruct("Holder", [("field", kind)])
    with pytest.raises(ValidationError) as raised:
        validation.convert({"field": value}, holder)
    assert [(error.field, error.message) for error in raised.value.errors] == [("field", message)]


def test_every_wrong_item_and_name_of_a_union_is_named() -> None:
    holder = msgspec.defstruct("Holder", [("field", tuple[_Name, ...] | dict[_Name, int] | None)])

    def told(value: object) -> dict[str, str]:
        with pytest.raises(ValidationError) as raised:
            validation.convert({"field": value}, holder)
        return {error.field: error.message for error in raised.value.errors}

    assert told(["a", "ab", 1]) == {
        "field[0]": "must have at least 2 characters",
        "field[2]": "must be text, not a whole number",
    }
    assert told({"a": 1, "ab": "x"}) == {
        "field.a": "the name must have at least 2 characters",
        "field.ab": "must be a whole number, not text",
    }
    assert told(5) == {"field": "must be an object or a list or null, not a whole number"}
    assert validation.convert({"field": {"ab": 1}}, holder) == holder({"ab": 1})
    assert validation.convert({"field": ["ab"]}, holder) == holder(("ab",))
