"""Names and lines of the manifest."""

import json

from hypothesis import given
from hypothesis import strategies as st

from homed.backups.archive import manifest
from tests.support.archives import draft


@given(st.binary(max_size=200))
def test_any_name_comes_back_byte_for_byte(name: bytes) -> None:
    assert manifest.decode(manifest.encode(name)) == name
    (first, kind, size, digest) = json.loads(manifest.line(name, "file", 5, "ab"))
    assert (manifest.decode(first), kind, size, digest) == (name, "file", 5, "ab")
    manifest.encode(name).encode("utf-8")


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_two_names_are_never_one(a: bytes, b: bytes) -> None:
    assert (manifest.encode(a) == manifest.encode(b)) == (a == b)


def test_a_plain_name_stands_as_it_is() -> None:
    assert manifest.encode("größe/文件 1.txt".encode()) == "größe/文件 1.txt"
    assert manifest.encode(b"50%\xff") == "50%25%FF"


@given(st.lists(st.tuples(st.binary(max_size=12), st.sampled_from(["file", "dir"])), max_size=20))
def test_names_are_found_in_the_lines(members: list[tuple[bytes, str]]) -> None:
    lines = [manifest.line(name, kind, 1, "ab" if kind == "file" else None) for name, kind in members]
    wanted = {name for name, _ in members[::2]}
    expected = [(i, name, kind) for i, (name, kind) in enumerate(members) if name in wanted]
    assert list(manifest.kinds(lines, wanted)) == expected


def test_the_header_is_the_record_but_for_its_size() -> None:
    text = manifest.header(draft(size=77, services=("a", "b")))
    assert json.loads(text)["format"] == manifest.FORMAT
    assert "size" not in json.loads(text)
    assert manifest.record(text, 99) == draft(size=99, services=("a", "b"))
