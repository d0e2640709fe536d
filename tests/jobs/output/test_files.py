"""The files of an output: what is kept, what is dropped, and what stays whatever happens between two writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from homed.jobs.output import order
from homed.jobs.output.files import Files
from homed.jobs.output.order import HEAD_SIZE, RECORD_SIZE, Head, Stream

LIMIT = 64
chunks = st.lists(
    st.tuples(
        st.sampled_from(Stream),
        st.binary(min_size=1, max_size=12) | st.sampled_from(["é".encode(), b"\xe2", b"\x82\xac"]),
    ),
    max_size=25,
)
# After which chunk homed is killed, looks, or is killed in the middle of a record.
acts = st.dictionaries(st.integers(0, 25), st.sampled_from(["look", "kill", "tear"]), max_size=8)


def opened(folder: Path, limit: int = LIMIT) -> Files:
    return Files(folder, lambda: limit)


def sequence(files: Files, most: int = 7) -> list[tuple[Stream, bytes]]:
    """Byte by byte, so that how it was read makes no difference."""
    position, found = 0, []
    while (piece := files.piece(position, most)) is not None:
        run, data = piece
        found += [(run.stream, data[number : number + 1]) for number in range(run.length)]
        position += run.length
    return found


@contextmanager
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


@given(chunks, acts)
def test_what_was_in_order_stays_so_whenever_homed_is_killed(
    written: list[tuple[Stream, bytes]], acts: dict[int, str]
) -> None:
    """A job writes to its files, homed looks now and then, and is killed at any moment."""
    with folder() as path:
        files = opened(path, 1 << 20)
        files.make()
        streams, known = [b"", b""], sequence(files)
        for number, (stream, data) in enumerate(written):
            with files.path(stream).open("ab") as file:
                file.write(data)
            streams[stream] += data
            match acts.get(number):
                case "look":
                    files.look()
                case "kill":
                    files = opened(path, 1 << 20)
                    files.load()
                case "tear":
                    with (path / "order").open("ab") as file:
                        file.write(b"\x6f\x03" if file.tell() else b"homed")
                    files = opened(path, 1 << 20)
                    files.load()
                case _:
                    continue
            now = sequence(files)
            assert now[: len(known)] == known
            known = now
        files.finish()
        now = sequence(files)
        assert now[: len(known)] == known
        assert now == sequence(opened_and_loaded(path))
        for stream in Stream:
            assert b"".join(data for one, data in now if one is stream) == streams[stream]
            assert files.read(stream, 0, 1 << 20) == streams[stream]


def opened_and_loaded(path: Path) -> Files:
    files = opened(path, 1 << 20)
    files.load()
    return files


@given(chunks, st.lists(st.integers(0, 25), max_size=4))
def test_what_a_runner_writes_is_in_the_order_in_which_it_wrote_it(
    written: list[tuple[Stream, bytes]], kills: list[int]
) -> None:
    with folder() as path:
        files = opened(path, 1 << 20)
        files.make()
        for number, (stream, data) in enumerate(written):
            files.append(stream, data)
            if number in kills:
                files = opened(path, 1 << 20)
        files.finish()
        for stream in Stream:
            whole = b"".join(data for one, data in written if one is stream)
            assert files.read(stream, 0, 1 << 20) == whole
            assert b"".join(data for one, data in sequence(files) if one is stream) == whole


@given(chunks)
def test_pieces_are_the_text_of_each_stream(written: list[tuple[Stream, bytes]]) -> None:
    with folder() as path:
        files = opened(path, 1 << 20)
        for stream, data in written:
            files.append(stream, data)
        files.finish()
        texts, position = ["", ""], 0
        while (piece := files.piece(position, 5)) is not None:
            run, data = piece
            texts[run.stream] += data.decode(errors="replace")
            position += run.length
        for stream in Stream:
            assert texts[stream] == files.read(stream, 0, 1 << 20).decode(errors="replace")


@given(chunks)
def test_no_more_than_the_limit_is_kept_and_the_rest_is_counted(written: list[tuple[Stream, bytes]]) -> None:
    with folder() as path:
        files = opened(path)
        for stream, data in written:
            files.append(stream, data)
        files.finish()
        again = opened(path)
        again.load()
        for stream in Stream:
            whole = b"".join(data for one, data in written if one is stream)
            assert len(files.path(stream).read_bytes() if whole else b"") <= LIMIT
            assert again.read(stream, 0, 1 << 20) == whole[:LIMIT]
            assert again.dropped(stream) == max(0, len(whole) - LIMIT)


def test_a_file_that_outgrows_the_limit_is_cut_again_and_again(tmp_path: Path) -> None:
    files = opened(tmp_path)
    files.make()
    with files.path(Stream.STDOUT).open("ab", buffering=0) as job:
        for number in range(5):
            job.write(b"x" * 100)
            files.look()
            assert files.path(Stream.STDOUT).stat().st_size == LIMIT
            assert files.dropped(Stream.STDOUT) == 100 * (number + 1) - LIMIT


def test_nothing_that_is_in_order_is_cut_when_the_limit_becomes_lower(tmp_path: Path) -> None:
    opened(tmp_path).append(Stream.STDOUT, b"x" * 50)
    files = opened(tmp_path, 10)
    files.append(Stream.STDOUT, b"y" * 5)
    files.look()
    assert files.read(Stream.STDOUT, 0, 100) == b"x" * 50
    assert files.dropped(Stream.STDOUT) == 5


def test_half_a_character_waits_for_its_rest_and_not_for_ever(tmp_path: Path) -> None:
    files = opened(tmp_path)
    files.append(Stream.STDOUT, b"a\xe2\x82")
    assert files.total == 1
    files.append(Stream.STDOUT, b"\xacb\xf0")
    assert files.total == 5
    files.finish()
    assert files.total == 6


def test_output_of_nothing_leaves_two_empty_files(tmp_path: Path) -> None:
    files = opened(tmp_path)
    files.make()
    files.look()
    files.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stderr", "stdout"]


def test_records_without_their_bytes_do_not_count(tmp_path: Path) -> None:
    """As after a power cut: the order was on the disk, the output was not."""
    files = opened(tmp_path)
    files.append(Stream.STDOUT, b"one")
    files.append(Stream.STDERR, b"two")
    os.truncate(files.path(Stream.STDERR), 1)
    again = opened(tmp_path)
    again.look()
    assert sequence(again) == [
        (Stream.STDOUT, b"o"),
        (Stream.STDOUT, b"n"),
        (Stream.STDOUT, b"e"),
        (Stream.STDERR, b"t"),
    ]


def test_an_order_without_a_whole_head_is_begun_again(tmp_path: Path) -> None:
    files = opened(tmp_path)
    files.append(Stream.STDOUT, b"one")
    os.truncate(tmp_path / "order", HEAD_SIZE - 1)
    again = opened(tmp_path)
    again.append(Stream.STDERR, b"two")
    again.finish()
    last = opened(tmp_path)
    last.load()
    assert last.finished
    assert last.total == 6


def test_a_folder_that_was_removed_costs_the_output_only(tmp_path: Path) -> None:
    path = tmp_path / "gone"
    path.mkdir()
    files = opened(path)
    files.append(Stream.STDOUT, b"before")
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    files.look()
    files.append(Stream.STDOUT, b"after")
    files.finish()
    assert files.finished
    assert files.dropped(Stream.STDOUT) == 5
    assert b"".join(data for _, data in sequence(files)) == b""


def test_looks_alone_give_places_where_the_streams_change_too_often(tmp_path: Path) -> None:
    many = 100_000
    records = (order.encode(Stream(number % 2), 1) for number in range(many))
    (tmp_path / "order").write_bytes(order.encode_head(Head()) + b"".join(records))
    files = opened(tmp_path, 1 << 20)
    for stream in Stream:
        files.path(stream).write_bytes(b"x" * (many // 2))
    for number in range(10):
        files.append(Stream(number % 2), b"y")
    assert files.total == many
    files.look()
    assert files.total == many + 10
    assert (tmp_path / "order").stat().st_size == HEAD_SIZE + (many + 2) * RECORD_SIZE
