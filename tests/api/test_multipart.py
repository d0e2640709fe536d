"""The form parser: however a form is cut its parts are the same, and hostile forms are refused at little cost."""

import time
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.api.multipart import End, FormParser, Part, boundary_of, parameters
from homed.errors import ValidationError
from tests.support.hostile_forms import END, HEAD, HOSTILE

TYPE = "multipart/form-data; boundary=B"
_MIB = 1 << 20


def parsed(pieces: Iterable[bytes]) -> list[tuple[Part, bytes]]:
    parser = FormParser(TYPE)
    found: list[tuple[Part, bytes]] = []
    open_ = False
    for piece in pieces:
        for event in parser.feed(piece):
            if isinstance(event, Part):
                assert not open_
                found.append((event, b""))
            elif isinstance(event, bytes):
                assert open_
                assert event
                found[-1] = (found[-1][0], found[-1][1] + event)
            open_ = not isinstance(event, End)
    parser.close()
    return found


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters='"\\\r\n\0'), max_size=20)),
            st.lists(
                st.sampled_from([b"x", b"\r", b"\n", b"-", b"\r\n", b"\r\n-", b"\r\n--", b"--b", b"\0\xff"]),
                max_size=12,
            ),
        ),
        max_size=5,
    ),
    st.integers(1, 40),
)
def test_a_form_comes_out_as_it_was_put_in_however_it_is_cut(
    given_parts: list[tuple[str | None, list[bytes]]], size: int
) -> None:
    form, expected = b"", []
    for filename, pieces in given_parts:
        data = b"".join(pieces)
        more = "" if filename is None else f'; filename="{filename}"'
        form += f'--B\r\nContent-Disposition: form-data; name="f"{more}\r\nX-Other: 1\r\n\r\n'.encode() + data + b"\r\n"
        expected.append((Part("f", filename), data))
    form += b"--B--\r\n"
    assert parsed(cut(form, size)) == parsed([form]) == expected


def test_a_preamble_an_epilogue_and_parts_without_headers_are_taken() -> None:
    assert parsed([b"see RFC 2046\r\n" + HEAD + b"x" + END + b"anything\r\n" * 1000]) == [(Part("a", None), b"x")]
    assert parsed([b"--B\r\n\r\nx\r\n--B\r\n\r\n\r\n--B--"]) == [(Part("", None), b"x"), (Part("", None), b"")]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('form-data; name="a"; filename="b c.pem"', {"name": "a", "filename": "b c.pem"}),
        ("form-data; name=a;filename=b", {"name": "a", "filename": "b"}),
        (r'form-data; name="a\"b\\c"', {"name": r'a"b\c'}),
        ('form-data; NAME="a"', {"name": "a"}),
        ('form-data; name="a;b=c"', {"name": "a;b=c"}),
        ("form-data; filename*=utf-8''%41; name=a", {"filename*": "utf-8''%41", "name": "a"}),
        ("form-data", {}),
        ("form-data; name", {}),
        ('form-data; name="open', {}),
        ("((((((((", {}),
        (";;;;;;", {}),
    ],
)
def test_the_parameters_of_a_header_are_read_as_far_as_they_are_some(header: str, expected: dict[str, str]) -> None:
    assert parameters(header) == expected


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "B" * 71,
        'multipart/form-data; boundary="\r\n"',
        "multipart/form-data; boundary=é",
        "multipart/form-data" + "; a=b" * 2000,
        "multipart/form-data" + ";" * 8000,
        "multipart/form-data; a=" + "(" * 8000,
    ],
)
def test_a_type_without_one_boundary_that_could_be_is_refused(kind: str) -> None:
    before = time.thread_time()
    with pytest.raises(ValidationError):
        boundary_of(kind)
    assert time.thread_time() - before < 0.05


@pytest.mark.parametrize("size", [1 << 30, 32 * 1024])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_form_is_refused_in_milliseconds(name: str, size: int) -> None:
    pieces = cut(HOSTILE[name], size)
    before = time.thread_time()
    with pytest.raises(ValidationError) as raised:
        parsed(pieces)
    assert time.thread_time() - before < 0.1
    assert raised.value.status == 400
    assert len(raised.value.message) < 300


@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - {"a preamble without an end", "a head without an end"}))
def test_a_hostile_form_byte_by_byte_costs_little(name: str) -> None:
    pieces = cut(HOSTILE[name][:20_000], 1)
    before = time.thread_time()
    with pytest.raises(ValidationError):
        parsed(pieces)
    assert time.thread_time() - before < 0.5


def test_data_that_nearly_is_a_boundary_costs_little() -> None:
    for unit in (b"\r", b"\r\n", b"\r\n-", b"\r\n--", b"\r\n--A", b"-"):
        data = unit * (4 * _MIB // len(unit))
        pieces = cut(HEAD + data + END, 32 * 1024)
        before = time.thread_time()
        parser = FormParser(TYPE)
        got = sum(len(event) for piece in pieces for event in parser.feed(piece) if isinstance(event, bytes))
        parser.close()
        assert time.thread_time() - before < 0.5
        assert got == len(data)
