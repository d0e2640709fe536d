"""Forms: the one file that is looked for, and nothing that could not be meant."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.api.forms import found
from homed.errors import ValidationError

TYPE = "multipart/form-data; boundary=B"


def form(*parts: tuple[str, bytes]) -> bytes:
    """(disposition, data) each."""
    return (
        b"".join(
            b"--B\r\nContent-Disposition: form-data; " + disposition.encode() + b"\r\n\r\n" + data + b"\r\n"
            for disposition, data in parts
        )
        + b"--B--\r\n"
    )


def test_the_file_of_the_field_is_found_among_others() -> None:
    body = form(('name="other"', b"x"), ('name="pem_file"; filename="my key.pem"', b"KEY\r\nLINES\n"))
    assert found(TYPE, body, "pem_file") == ("my key.pem", b"KEY\r\nLINES\n")


def test_a_field_without_a_filename_does_too() -> None:
    assert found(TYPE, form(('name="pem_file"', b"KEY")), "pem_file") == ("pem_file", b"KEY")


@pytest.mark.parametrize("body", [b"", b"no form", form(), form(('name="file"; filename="a"', b"x")), form(("", b"x"))])
def test_a_form_without_it_is_refused(body: bytes) -> None:
    with pytest.raises(ValidationError):
        found(TYPE, body, "pem_file")


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=", "text/plain", "multipart/é"])
def test_a_type_that_names_no_boundary_is_refused(kind: str) -> None:
    with pytest.raises(ValidationError):
        found(kind, form(('name="pem_file"', b"x")), "pem_file")


@given(st.binary(max_size=300))
def test_bytes_at_random_are_a_file_or_refused(data: bytes) -> None:
    for body in (data, b"--B\r\n" + data, form(('name="pem_file"; filename="a"', data))):
        with contextlib.suppress(ValidationError):
            assert isinstance(found(TYPE, body, "pem_file").data, bytes)


@given(st.binary(max_size=300).filter(lambda data: b"--B" not in data))
def test_a_file_comes_out_as_it_was_put_in(data: bytes) -> None:
    assert found(TYPE, form(('name="f"; filename="a"', data)), "f").data == data
