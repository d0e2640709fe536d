"""Following a stream of tar's, in whatever pieces it comes."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homed.backups.archive import tar
from homed.backups.archive.follow import Entry, Follower
from homed.errors import ArchiveError
from tests.support.archives import BLOCK, header, padded, summed


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    tree = tmp_path_factory.mktemp("tree")
    for i in range(6):
        (tree / f"{i}").write_bytes(bytes([i]) * (i * 700))
    (tree / ("long" * 40)).write_bytes(b"x" * 5000)
    os.link(tree / "3", tree / "hard")
    os.symlink("x" * 300, tree / "link")
    os.truncate(tree / "4", 1 << 20)
    return subprocess.run(tar.create(tree, "volumes/data"), capture_output=True, check=True).stdout


def followed(stream: bytes, sizes: list[int], drop: bytes | None = None) -> tuple[list[Entry], bytes]:
    taken: list[Entry] = []
    emitted = bytearray()
    follower = Follower(taken.append, emit=emitted.extend, wanted=lambda entry: entry.name != drop)
    at = i = 0
    while at < len(stream) and not follower.ended:
        size = sizes[i % len(sizes)]
        follower.feed(stream[at : at + size])
        at, i = at + size, i + 1
    assert follower.between
    return taken, bytes(emitted)


def test_what_is_emitted_is_the_stream_without_its_end(stream: bytes) -> None:
    taken, emitted = followed(stream, [1 << 20])
    assert stream.startswith(emitted)
    assert not stream[len(emitted) :].strip(b"\0")
    assert [(entry.start, entry.end) for entry in taken] == [
        (before, entry.end) for before, entry in zip([0, *(one.end for one in taken)], taken, strict=False)
    ]
    assert {entry.kind for entry in taken} == {"file", "dir", "symlink", "hardlink", "sparse"}
    digests = {entry.name: entry.digest for entry in taken}
    assert digests[b"volumes/data/2"] == hashlib.sha256(b"\2" * 1400).hexdigest()
    assert digests[b"volumes/data/link"] is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=20))
def test_the_pieces_do_not_matter(stream: bytes, sizes: list[int]) -> None:
    assert followed(stream, sizes) == followed(stream, [1 << 20])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=20), which=st.integers(0, 11))
def test_what_is_not_wanted_is_cut_out_whole(stream: bytes, sizes: list[int], which: int) -> None:
    everything, _ = followed(stream, [1 << 20])
    one = everything[which % len(everything)]
    taken, emitted = followed(stream, sizes, drop=one.name)
    assert [entry.name for entry in taken] == [entry.name for entry in everything if entry is not one]
    assert emitted == stream[: one.start] + stream[one.end : everything[-1].end]


def test_a_member_named_last_ends_it() -> None:
    taken: list[Entry] = []
    follower = Follower(taken.append, last=b"end")
    follower.feed(header(b"a", 3) + padded(b"abc") + header(b"end", 5) + b"conte")
    assert follower.ended
    assert follower.final is not None
    assert (follower.final.size, follower.rest, [entry.name for entry in taken]) == (5, b"conte", [b"a"])


def test_sizes_in_base_256() -> None:
    taken: list[Entry] = []
    follower = Follower(taken.append)
    block = header(b"a")
    follower.feed(summed(block[:124] + b"\x80" + (600).to_bytes(11, "big") + block[136:]) + padded(b"x" * 600))
    assert [(entry.size, entry.end) for entry in taken] == [(600, 3 * BLOCK)]


def test_a_wrong_sum_is_damage(stream: bytes) -> None:
    for at in (0, 100, 130, 148, 151, 155, 156, 257, 300, 511):
        block = bytearray(header(b"a"))
        block[at] ^= 1
        with pytest.raises(ArchiveError):
            Follower(lambda _: None).feed(bytes(block))


def test_names_in_two_parts_are_one(tmp_path: Path) -> None:
    taken: list[Entry] = []
    Follower(taken.append).feed(header(b"file", prefix=b"volumes/data"))
    assert taken[0].name == b"volumes/data/file"
