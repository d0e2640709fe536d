"""What happens to an archive that lies around: a bit flips, its end is lost. It is always noticed."""

import gzip
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homed.errors import ArchiveError
from tests.support.archives import BLOCK, VOLUME, check, pack, packed, unpacked


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("damage")
    tree = work / "tree"
    tree.mkdir()
    noise = random.Random(4)
    for i in range(8):
        (tree / f"file {i}").write_bytes(noise.randbytes(300 * i))
    (tree / "large").write_bytes(noise.randbytes(1_500_000))
    with (tree / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x" * 4096)
    os.symlink("large", tree / "link")
    os.link(tree / "large", tree / "hard")
    path = work / "b.tar.gz"
    pack(path, [(VOLUME, tree)])
    assert check(path).members == 14
    return path


def damaged(path: Path, code: str | None = "BACKUP_DAMAGED") -> str:
    with pytest.raises(ArchiveError) as caught:
        check(path)
    assert caught.value.code == code or (code is None and caught.value.code in ("BACKUP_DAMAGED", "BACKUP_UNSAFE"))
    return caught.value.message


def test_a_flipped_bit_in_what_any_member_holds_is_noticed_and_the_member_named(archive: Path, tmp_path: Path) -> None:
    """With sums of the compression that are right: as if the bit had flipped before."""
    data = unpacked(archive)
    noise = random.Random(1)
    contents = {f"file {i}".encode(): 300 * i for i in range(1, 8)} | {b"large": 1_500_000, b"sparse": 4096}
    first_of_links = b"hard" if b"volumes/data/hard\0" in data and _holds(data, b"hard") else b"large"
    contents[first_of_links] = contents.pop(b"large")
    for name, size in contents.items():
        start = _start(data, name)
        flipped = bytearray(data)
        flipped[start + noise.randrange(size)] ^= 1 << noise.randrange(8)
        message = damaged(packed(tmp_path / "b.tar.gz", bytes(flipped)))
        assert f"volumes/data/{name.decode()}" in message


def _holds(data: bytes, name: bytes) -> bool:
    header = data.index(b"volumes/data/" + name + b"\0")
    return data[header + 156 : header + 157] == b"0"


def _start(data: bytes, name: bytes) -> int:
    if name == b"sparse":
        return data.index(b"x" * 4096)
    return data.index(b"volumes/data/" + name + b"\0") + BLOCK


def test_a_flipped_bit_in_any_header_or_in_the_manifest_is_noticed(archive: Path, tmp_path: Path) -> None:
    data = unpacked(archive)
    noise = random.Random(2)
    manifest = data.index(b"manifest.jsonl\0")
    places = [_start(data, f"file {i}".encode()) - BLOCK + noise.randrange(BLOCK) for i in range(8)]
    places += [manifest + noise.randrange(len(data) - manifest - 3 * BLOCK) for _ in range(25)]
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << noise.randrange(8)
        damaged(packed(tmp_path / "b.tar.gz", bytes(flipped)), None)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_in_the_archive_is_noticed(
    archive: Path, tmp_path: Path, where: float, bit: int
) -> None:
    data = bytearray(archive.read_bytes())
    # The header of gzip (10 bytes) tells nothing of what is in it: only its first four are looked at.
    data[10 + int(where * (len(data) - 10))] ^= 1 << bit
    path = tmp_path / "flipped.tar.gz"
    path.write_bytes(data)
    damaged(path, None)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True))
def test_an_archive_that_is_cut_off_anywhere_is_noticed(archive: Path, tmp_path: Path, where: float) -> None:
    data = archive.read_bytes()
    path = tmp_path / "cut.tar.gz"
    path.write_bytes(data[: int(where * len(data))])
    damaged(path)


def test_the_last_byte_counts(archive: Path, tmp_path: Path) -> None:
    data = archive.read_bytes()
    path = tmp_path / "cut.tar.gz"
    for cut in (1, 4, 8, 9):
        path.write_bytes(data[:-cut])
        damaged(path)


def test_a_tar_that_is_cut_off_between_two_members_is_noticed(archive: Path, tmp_path: Path) -> None:
    data = unpacked(archive)
    for name in (b"file 1", b"file 7"):
        place = _start(data, name) - BLOCK
        while data[place + 156 - BLOCK * 2 : place + 157 - BLOCK * 2] == b"x":
            place -= 2 * BLOCK
        damaged(packed(tmp_path / "b.tar.gz", data[:place]))
        damaged(packed(tmp_path / "b.tar.gz", data[:place] + bytes(2 * BLOCK)))
    end = len(data.rstrip(b"\0"))
    damaged(packed(tmp_path / "b.tar.gz", data[:end]))
    damaged(packed(tmp_path / "b.tar.gz", data[: end + -end % BLOCK + BLOCK]))


def test_members_that_were_left_out_or_swapped_are_noticed(archive: Path, tmp_path: Path) -> None:
    data = unpacked(archive)
    end = data.index(b"manifest.jsonl\0")
    one = data.rindex(b"PaxHeaders", 0, end)
    start = data.rindex(b"./", 0, one + 1) // BLOCK * BLOCK
    message = damaged(packed(tmp_path / "b.tar.gz", data[:start] + data[end:]), None)
    assert message


def test_a_compression_that_ends_early_is_noticed(archive: Path, tmp_path: Path) -> None:
    """Half of it, but as a whole gzip file."""
    half = gzip.compress(unpacked(archive)[: 500 * BLOCK], 1)
    path = tmp_path / "b.tar.gz"
    path.write_bytes(half)
    damaged(path)
