"""Bytes as text: where they are split, and what is shown of too many."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.jobs.output import text
from homed.jobs.output.order import Stream

# Parts of characters of every length, whole ones, and what is no UTF-8 at all.
_PARTS = [b"a", "é".encode(), "€".encode(), "😀".encode(), b"\xf0", b"\x9f", b"\xe2\x82", b"\xff", b"\xc3", b"\xed\xa0"]
odd = st.lists(st.sampled_from(_PARTS)).map(b"".join) | st.binary(max_size=60)


@given(odd)
def test_what_is_incomplete_is_what_a_decoder_would_wait_for(data: bytes) -> None:
    _, used = codecs.utf_8_decode(data, "replace", False)
    assert text.incomplete(data) == len(data) - used


@given(st.lists(odd, max_size=8))
def test_pieces_split_where_they_may_be_are_the_text_of_the_whole(chunks: list[bytes]) -> None:
    shown, waiting = "", b""
    for chunk in chunks:
        waiting += chunk
        whole = len(waiting) - text.incomplete(waiting)
        shown, waiting = shown + text.decode(waiting[:whole]), waiting[whole:]
    assert shown + text.decode(waiting) == text.decode(b"".join(chunks))


@pytest.mark.parametrize(("data", "count"), [(b"abc", 0), (b"\x82\xacb", 2), (b"\x80\x80\x80\x80", 3), (b"", 0)])
def test_what_began_before_is_told_by_its_first_bytes(data: bytes, count: int) -> None:
    assert text.began_before(data) == count


def test_a_cut_says_how_much_of_what() -> None:
    assert text.cut_mark(Stream.STDERR, 12) == "\n[output cut: 12 bytes of stderr were dropped]\n"


def test_beginning_and_end_are_joined_between_characters() -> None:
    data = "€".encode() * 10
    shown = text.joined(data[:4], len(data) - 8, data[-4:])
    assert shown == "€\n[23 bytes are not shown here]\n€"
