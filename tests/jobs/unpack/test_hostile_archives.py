"""Archives made to do harm: none leaves its folder, and none takes more than it may."""

import gzip
import io
import lzma
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.errors import JobError
from homed.jobs.unpack.limits import Limits
from tests.support.hostile_archives import Entry, as_tar, as_zip, taken

Make = Callable[[list[Entry]], io.BytesIO]
_PLAIN = bytes
both = pytest.mark.parametrize("make", [as_zip, as_tar])


def _code(found: dict[str, bytes] | JobError) -> str:
    return found.code if isinstance(found, JobError) else ""


@both
@pytest.mark.parametrize(
    "name",
    [
        "/etc/x", "../beside", "a/../../beside", "a/..", "..", "C:/x", "c:x", "a\\b", "..\\beside",
        "x" * 256, "/".join("a" * 65), "a/" * 3000, ".", "./", "",
    ],
)  # fmt: skip
def test_a_name_that_leads_out_or_is_no_name_is_refused(make: Make, name: str) -> None:
    assert _code(taken(make([Entry(name, b"x")]))) in ("UNSAFE_ARCHIVE", "BAD_ARCHIVE")


@both
@pytest.mark.parametrize(
    "entries",
    [
        [Entry("l", kind="link", target="..")],
        [Entry("l", kind="link", target="/etc/passwd")],
        [Entry("a/l", kind="link", target="../../beside")],
        [Entry("a/l", kind="link", target="b/../../..")],
        [Entry("d", kind="link", target="."), Entry("e", kind="link", target="d/../beside")],
        [Entry("l", kind="link", target="."), Entry("l/x", b"through it")],
        [Entry("d/x", b""), Entry("d", kind="link", target=".")],
        [Entry("l", kind="link", target="x"), Entry("l", b"through it")],
        [Entry("l", kind="link", target="x" * 5000)],
        [Entry("a", b"1"), Entry("a", b"2")],
        [Entry("a", b"1"), Entry("./a", b"2")],
        [Entry("a", b"1"), Entry("a/b", b"2")],
        [Entry("a/b", b"1"), Entry("a", b"2")],
        [Entry("f", kind="fifo")],
        [Entry("c", kind="char")],
        [Entry("b", kind="block")],
    ],
    ids=str,
)
def test_members_that_would_do_harm_together_are_refused(make: Make, entries: list[Entry]) -> None:
    assert _code(taken(make(entries))) == "UNSAFE_ARCHIVE"


@pytest.mark.parametrize("target", ["../beside", "/etc/passwd", "later", "h", "d"])
def test_a_hard_link_to_what_is_no_file_or_link_before_it_is_refused(target: str) -> None:
    entries = [
        Entry("d", kind="dir"),
        Entry("l", kind="link", target="x"),
        Entry("h", kind="hard", target=target),
        Entry("later", b"x"),
    ]
    assert _code(taken(as_tar(entries))) == "UNSAFE_ARCHIVE"


_steps = st.sampled_from(["..", ".", "a", "b", "l", "m", "", "/", "C:"])
_paths = st.lists(_steps, min_size=1, max_size=5).map("/".join)
_entries = st.builds(
    Entry,
    _paths,
    st.binary(max_size=10),
    st.sampled_from(["file", "dir", "link", "hard", "fifo"]),
    _paths,
    st.just(0o644),
)


@both
@given(entries=st.lists(_entries, max_size=8))
def test_nothing_leaves_the_folder_whatever_the_members_are(make: Make, entries: list[Entry]) -> None:
    taken(make([entry._replace(content=b"") if entry.kind != "file" else entry for entry in entries]))


@both
@given(seed=st.integers(), flips=st.integers(1, 20))
def test_a_damaged_archive_does_no_harm(make: Make, seed: int, flips: int) -> None:
    chance = random.Random(seed)
    data = bytearray(make([Entry(f"d/{n}", b"content" * n) for n in range(6)]).getvalue())
    for _ in range(flips):
        data[chance.randrange(len(data))] = chance.randrange(256)
    taken(io.BytesIO(data))


@pytest.mark.parametrize(
    ("make", "pack"), [(as_zip, _PLAIN), (as_tar, _PLAIN), (as_tar, gzip.compress), (as_tar, lzma.compress)]
)
def test_a_truncated_archive_is_no_whole_one(make: Make, pack: Callable[[bytes], bytes]) -> None:
    data = pack(make([Entry(str(n), random.Random(n).randbytes(5000)) for n in range(3)]).getvalue())
    for part in (0, 3, 100, len(data) // 3, len(data) // 2):
        assert _code(taken(io.BytesIO(data[:part]))) == "BAD_ARCHIVE", part


@both
def test_more_bytes_than_allowed_are_refused(make: Make) -> None:
    entries = [Entry(str(n), random.Random(n).randbytes(1 << 20)) for n in range(5)]
    assert _code(taken(make(entries))) == "UNSAFE_ARCHIVE"
    assert len(taken(make(entries[:3]))) == 3  # type: ignore[arg-type]


@both
def test_more_members_than_allowed_are_refused(make: Make) -> None:
    entries = [Entry(str(n)) for n in range(1001)]
    assert _code(taken(make(entries))) == "UNSAFE_ARCHIVE"
    assert len(taken(make(entries[:1000]))) == 1000  # type: ignore[arg-type]


@pytest.mark.parametrize(("make", "pack"), [(as_zip, _PLAIN), (as_tar, gzip.compress), (as_tar, lzma.compress)])
def test_a_bomb_is_stopped_by_how_much_more_it_is_than_it_was(make: Make, pack: Callable[[bytes], bytes]) -> None:
    limits = Limits(size=1 << 40, members=10)
    entries = [Entry("zeros", bytes(100 << 20))]
    found = taken(io.BytesIO(pack(make(entries).getvalue())), limits)
    assert _code(found) == "UNSAFE_ARCHIVE"
    assert "200 times" in str(found)


def test_a_zip_that_lies_about_its_size_is_not_believed() -> None:
    data = as_zip([Entry("zeros", bytes(8 << 20))]).getvalue()
    found = taken(io.BytesIO(data.replace(struct.pack("<I", 8 << 20), struct.pack("<I", 10))))
    assert _code(found) in ("BAD_ARCHIVE", "UNSAFE_ARCHIVE")


@pytest.mark.parametrize("size", [1 << 20, 100])
@pytest.mark.filterwarnings("error")
def test_members_that_share_their_data_are_refused(size: int) -> None:
    """Many names in the directory for one member."""
    data = as_zip([Entry("\x01", random.Random(1).randbytes(size))]).getvalue()
    at = data.index(b"PK\1\2")
    entry, end = data[at : data.index(b"PK\5\6")], data[data.index(b"PK\5\6") :]
    tail = struct.pack("<4sHHHHIIH", end[:4], 0, 0, 2, 2, 2 * len(entry), at, 0)
    found = taken(io.BytesIO(data[:at] + 2 * entry + tail))
    assert _code(found) == "BAD_ARCHIVE"
    assert "shares its data" in str(found)


def test_a_link_is_no_way_out_by_a_twin_that_lies_elsewhere() -> None:
    entries = [Entry("d/l", kind="link", target="../f"), Entry("f", b"x"), Entry("d/twin", kind="hard", target="d/l")]
    assert not isinstance(taken(as_tar(entries)), JobError)
    assert _code(taken(as_tar([*entries, Entry("out", kind="hard", target="d/l")]))) == "UNSAFE_ARCHIVE"


@pytest.mark.parametrize("name", ["..\\x", "a\\..\\..\\x", "C:\\x", "c:x", "\\x", "\\\\host\\share\\x"])
def test_a_path_of_windows_that_leads_out_is_refused(name: str) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = info.orig_filename = name
        info.create_system = 0
        archive.writestr(info, b"x")
    assert _code(taken(made)) == "UNSAFE_ARCHIVE"


def test_a_header_of_gigabytes_is_not_read() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 31
    found = taken(io.BytesIO(gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(4 << 20))))
    assert _code(found) == "UNSAFE_ARCHIVE"


def test_a_directory_of_gigabytes_is_not_read() -> None:
    data = as_zip([Entry("a")]).getvalue()
    entry = data[data.index(b"PK\1\2") : data.index(b"PK\5\6")]
    entries = entry * 100_000
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(entries), data.index(b"PK\1\2"), 0)
    found = taken(io.BytesIO(data[: data.index(b"PK\1\2")] + entries + tail))
    assert _code(found) == "UNSAFE_ARCHIVE"


def test_an_xz_that_asks_for_gigabytes_of_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 29}]
    packed = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=[{**filters[0], "dict_size": 1 << 20}])
    small = packed.compress(as_tar([Entry("a", b"x")]).getvalue()) + packed.flush()
    assert taken(io.BytesIO(small)) == {"a": b"x"}
    greedy = bytearray(small)
    # The dictionary's size stands in the block's header, of which the checksum is put right.
    at = greedy.index(b"\x21\x01", 12)
    greedy[at + 2] = 37
    length = (greedy[12] + 1) * 4
    greedy[12 + length - 4 : 12 + length] = zlib.crc32(greedy[12 : 12 + length - 4]).to_bytes(4, "little")
    assert _code(taken(io.BytesIO(greedy))) == "BAD_ARCHIVE"


def test_an_encrypted_zip_says_that_it_is() -> None:
    data = bytearray(as_zip([Entry("a", b"x")]).getvalue())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    found = taken(io.BytesIO(data))
    assert _code(found) == "BAD_ARCHIVE"
    assert "encrypted" in str(found)


def test_a_method_that_is_not_known_is_named() -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", b"x")
    found = taken(made)
    assert _code(found) == "BAD_ARCHIVE"
    assert "method 14" in str(found)


@pytest.mark.parametrize(
    ("begin", "name"),
    [(b"7z\xbc\xaf\x27\x1c", "7-Zip"), (b"Rar!\x1a\x07\x01\0", "RAR"), (b"\x28\xb5\x2f\xfd", "Zstandard")],
)
def test_an_archive_of_another_kind_is_named(begin: bytes, name: str) -> None:
    found = taken(io.BytesIO(begin + bytes(600)))
    assert _code(found) == "BAD_ARCHIVE"
    assert name in str(found)


@pytest.mark.parametrize(
    "data", [b"", b"x", b"hello, world\n" * 100, b"PK\3\4", b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh9", b"PK\5\6"]
)
def test_what_is_no_archive_is_told_so(data: bytes) -> None:
    assert _code(taken(io.BytesIO(data))) == "BAD_ARCHIVE"
