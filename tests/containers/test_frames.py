"""Whatever the borders of the chunks, the lines are the same."""

import itertools
import struct

from hypothesis import given
from hypothesis import strategies as st

from homed.containers import frames
from homed.containers.frames import Line, Lines


def frame(stream: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(payload)) + payload


def read(chunks: list[bytes], *, tty: bool = False) -> list[Line]:
    lines = Lines(tty=tty)
    return [line for chunk in chunks for line in lines.feed(chunk)] + list(lines.finish())


def cut(data: bytes, borders: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(border % (len(data) + 1) for border in borders)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


_PAYLOADS = st.lists(
    st.tuples(
        st.sampled_from([1, 2]), st.binary(max_size=20) | st.sampled_from([b"a\n", b"\n", b"\r\n", b"a\r\n", b"a\nb"])
    ),
    max_size=12,
)


@given(_PAYLOADS, st.lists(st.integers(0, 1000), max_size=20))
def test_any_chunking_gives_the_same_lines(payloads: list[tuple[int, bytes]], borders: list[int]) -> None:
    data = b"".join(frame(stream, payload) for stream, payload in payloads)
    assert read(cut(data, borders)) == read([data])


@given(_PAYLOADS)
def test_each_streams_bytes_are_all_there_in_order(payloads: list[tuple[int, bytes]]) -> None:
    lines = read([frame(stream, payload) for stream, payload in payloads])
    for number, name in ((1, "stdout"), (2, "stderr")):
        whole = b"".join(payload for stream, payload in payloads if stream == number)
        expected = [text.removesuffix(b"\r") for text in whole.split(b"\n")]
        if whole.endswith(b"\n") or not whole:
            expected.pop()
        else:
            expected[-1] = whole.split(b"\n")[-1]
        assert [line.text for line in lines if line.stream == name] == expected


@given(st.binary(max_size=200), st.lists(st.integers(0, 1000), max_size=20))
def test_a_terminals_stream_has_no_frames(data: bytes, borders: list[int]) -> None:
    assert read(cut(data, borders), tty=True) == read([data], tty=True)


@given(st.lists(st.binary(max_size=30), max_size=10), st.booleans())
def test_no_bytes_make_it_fail(chunks: list[bytes], tty: bool) -> None:
    read(chunks, tty=tty)


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    lines = Lines(tty=True)
    given_out = 0
    for _ in range(40):
        given_out += sum(len(line.text) for line in lines.feed(b"x" * 100_000))
        assert sum(map(len, lines._partial.values())) <= frames._LONGEST_LINE
    assert given_out + sum(len(line.text) for line in lines.finish()) == 4_000_000


def test_the_streams_are_told_apart_and_partial_lines_do_not_mix() -> None:
    data = frame(1, b"out") + frame(2, b"err\n") + frame(1, b"put\n") + frame(0, b"in\n")
    assert read([data]) == [Line("stderr", b"err"), Line("stdout", b"output"), Line("stdin", b"in")]
