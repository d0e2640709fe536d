"""The order of two streams, and the file that keeps it."""

from hypothesis import given
from hypothesis import strategies as st

from homed.jobs.output import order
from homed.jobs.output.order import HEAD_SIZE, RECORD_SIZE, Head, Order, Run, Stream

records = st.lists(st.tuples(st.sampled_from(Stream), st.integers(1, 1 << 40)), max_size=40)
heads = st.builds(Head, st.tuples(st.integers(0, 1 << 60), st.integers(0, 1 << 60)), st.booleans())


def encoded(head: Head, runs: list[tuple[Stream, int]]) -> bytes:
    return order.encode_head(head) + b"".join(order.encode(*run) for run in runs)


@given(heads, records)
def test_what_is_written_is_read(head: Head, runs: list[tuple[Stream, int]]) -> None:
    assert order.decode(encoded(head, runs)) == (head, runs)


@given(heads, records, st.data())
def test_a_file_that_was_torn_anywhere_keeps_its_whole_records(
    head: Head, runs: list[tuple[Stream, int]], data: st.DataObject
) -> None:
    whole = encoded(head, runs)
    length = data.draw(st.integers(0, len(whole)))
    kept = order.decode(whole[:length])
    assert kept.records == runs[: max(0, length - HEAD_SIZE) // RECORD_SIZE]
    assert kept.head == (head if length >= HEAD_SIZE else Head())


def test_zeros_that_a_power_cut_left_are_no_records() -> None:
    data = encoded(Head(), [(Stream.STDOUT, 5)]) + bytes(RECORD_SIZE) + order.encode(Stream.STDERR, 3)
    assert order.decode(data).records == [(Stream.STDOUT, 5)]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    assert all(length > 0 for _, length in order.decode(data).records)


@given(records, st.integers(0, 1 << 41), st.integers(0, 1 << 41))
def test_only_records_whose_bytes_are_there_count(runs: list[tuple[Stream, int]], stdout: int, stderr: int) -> None:
    kept = order.within(runs, (stdout, stderr))
    assert list(kept) == runs[: len(kept)]
    lengths = Order(kept).lengths
    assert lengths[0] <= stdout
    assert lengths[1] <= stderr
    if len(kept) < len(runs):
        stream, length = runs[len(kept)]
        assert lengths[stream] + length > (stdout, stderr)[stream]


@given(st.lists(st.tuples(st.sampled_from(Stream), st.integers(1, 9)), max_size=30))
def test_every_position_is_found_where_its_byte_is(runs: list[tuple[Stream, int]]) -> None:
    """Beside a plain list of (stream, place in the stream), one for each byte."""
    made = Order(runs)
    counts = [0, 0]
    plain: list[tuple[Stream, int]] = []
    for stream, length in runs:
        plain += [(stream, counts[stream] + number) for number in range(length)]
        counts[stream] += length
    assert made.total == len(plain)
    assert made.lengths == counts
    for position, (stream, start) in enumerate(plain):
        run = made.at(position)
        assert run is not None
        assert (run.stream, run.start) == (stream, start)
        assert plain[position : position + run.length] == [(stream, start + number) for number in range(run.length)]
    assert made.at(len(plain)) is None
    assert made.at(-1) is None


def test_neighbouring_runs_of_a_stream_are_one() -> None:
    made = Order([(Stream.STDOUT, 2), (Stream.STDOUT, 3), (Stream.STDERR, 1), (Stream.STDOUT, 4)])
    assert made.runs == 3
    assert made.at(0) == Run(Stream.STDOUT, 0, 5)
    assert made.at(6) == Run(Stream.STDOUT, 5, 4)
