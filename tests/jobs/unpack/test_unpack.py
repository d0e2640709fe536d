"""Archives as people make them come out as they were."""

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homed.jobs.unpack.unpack import Limits, unpack
from tests.support.hostile_archives import LIMITS, Entry, as_tar, as_zip, taken

_TREE = {
    "README": b"read me\n",
    "bin/run": b"#!/bin/sh\n",
    "deep/er/est": os.urandom(700_000),
    "nothing": b"",
}
_PLAIN: dict[str, Callable[[bytes], bytes]] = {
    "tar": lambda data: data,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "xz in two streams": lambda data: lzma.compress(data[:5000]) + lzma.compress(data[5000:]),
}


def _source(folder: Path) -> Path:
    for name, content in _TREE.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "bin/run").chmod(0o4751)
    (folder / "README").chmod(0o604)
    (folder / "empty").mkdir(mode=0o750)
    (folder / "bin/link").symlink_to("../deep/er/est")
    return folder


def _is_as_it_was(folder: Path) -> None:
    for name, content in _TREE.items():
        assert (folder / name).read_bytes() == content
    assert stat.S_IMODE((folder / "bin/run").stat().st_mode) == 0o751
    assert stat.S_IMODE((folder / "README").stat().st_mode) == 0o604
    assert stat.S_IMODE((folder / "empty").stat().st_mode) == 0o750
    assert os.readlink(folder / "bin/link") == "../deep/er/est"


@pytest.mark.parametrize("form", [*_PLAIN])
def test_what_tar_makes_comes_out_as_it_was(tmp_path: Path, form: str) -> None:
    source, into = _source(tmp_path / "source"), tmp_path / "into"
    into.mkdir()
    data = subprocess.run(["tar", "-c", "."], cwd=source, check=True, capture_output=True).stdout
    assert unpack(io.BytesIO(_PLAIN[form](data)), into, LIMITS) == 10
    _is_as_it_was(into)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_what_zip_makes_comes_out_as_it_was(tmp_path: Path, method: int) -> None:
    source, into = _source(tmp_path / "source"), tmp_path / "into"
    into.mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        for path in sorted(source.rglob("*")):
            name = path.relative_to(source).as_posix()
            if path.is_symlink():
                info = zipfile.ZipInfo(name)
                info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
                archive.writestr(info, os.readlink(path))
            else:
                archive.write(path, name)
    with (tmp_path / "a.zip").open("rb") as file:
        unpack(file, into, LIMITS)
    _is_as_it_was(into)


def test_hard_links_and_sparse_files_come_out(tmp_path: Path) -> None:
    source, into = tmp_path / "source", tmp_path / "into"
    for folder in (source, into):
        folder.mkdir()
    with (source / "sparse").open("wb") as file:
        file.truncate(3_000_000)
        file.seek(1_000_000)
        file.write(b"x")
    os.link(source / "sparse", source / "twin")
    data = subprocess.run(["tar", "-cS", "."], cwd=source, check=True, capture_output=True).stdout
    unpack(io.BytesIO(data), into, LIMITS)
    assert (into / "sparse").read_bytes() == (source / "sparse").read_bytes()
    assert (into / "twin").samefile(into / "sparse")


def test_a_zip_made_elsewhere_has_ordinary_permissions(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in ("a", "b/"):
            info = zipfile.ZipInfo(name)
            info.create_system = 0
            archive.writestr(info, b"")
    unpack(made, tmp_path, LIMITS)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o755


def _zip(*members: tuple[bytes, int, int, bytes]) -> io.BytesIO:
    """Members of one byte each: the name's bytes, the system that made it, flags, and fields beside."""
    data, directory = b"", b""
    for name, system, flags, extra in members:
        content = b"" if name.endswith((b"/", b"\\")) else b"x"
        common = struct.pack("<HHHHHIIIHH", 20, flags, 0, 0, 33, zlib.crc32(content), *[len(content)] * 2, len(name),
                             len(extra))  # fmt: skip
        directory += b"PK\1\2" + struct.pack("<BB", 20, system) + common + struct.pack("<HHHII", 0, 0, 0, 0, len(data))
        directory += name + extra
        data += b"PK\3\4" + common + name + extra + content
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, *[len(members)] * 2, len(directory), len(data), 0)
    return io.BytesIO(data + directory + end)


def _listed(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() + "/" * path.is_dir() for path in folder.rglob("*"))


def test_a_zip_from_windows_has_its_folders(tmp_path: Path) -> None:
    made = _zip(
        (b"top\\", 0, 0, b""), (b"top\\in\\a.txt", 0, 0, b""), (b"other\\b", 10, 0, b""), (b"c/d\\e", 14, 0, b"")
    )
    assert unpack(made, tmp_path, LIMITS) == 4
    assert _listed(tmp_path) == ["c/", "c/d/", "c/d/e", "other/", "other/b", "top/", "top/in/", "top/in/a.txt"]
    assert (tmp_path / "top/in/a.txt").read_bytes() == b"x"


def test_names_in_a_zip_are_what_they_were_where_it_was_made(tmp_path: Path) -> None:
    raw = "gr\u00fc\u00df".encode("cp437")
    field = b"\1" + struct.pack("<I", zlib.crc32(b"?")) + "\u96ea".encode()
    beside = struct.pack("<HH", 0x7075, len(field)) + field
    unpack(
        _zip(
            (b"old " + raw, 0, 0, b""),
            ("flag \u00fc".encode(), 0, 1 << 11, b""),
            ("mac \u00fc".encode(), 3, 0, b""),
            (b"unix \x81", 3, 0, b""),
            (b"?", 0, 0, beside),
            (b"a", 0, 0, beside + b"\1"),
        ),
        tmp_path,
        LIMITS,
    )
    assert _listed(tmp_path) == sorted(
        ["old gr\u00fc\u00df", "flag \u00fc", "mac \u00fc", "unix \u00fc", "\u96ea", "a"]
    )


def test_a_zip_whose_sizes_stand_behind_its_data_is_taken(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        """Cannot seek, so the sizes are written after the data."""

        data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"x" * 1000)
        archive.writestr("b", b"")
    unpack(io.BytesIO(pipe.data), tmp_path, LIMITS)
    assert (tmp_path / "a").read_bytes() == b"x" * 1000


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "v7", "oldgnu"])
def test_every_dialect_of_tar_comes_out_with_links_to_links(tmp_path: Path, form: str) -> None:
    source, into = tmp_path / "source", tmp_path / "into"
    (source / "d").mkdir(parents=True)
    into.mkdir()
    (source / "f").write_bytes(b"x")
    (source / "._f").write_bytes(b"AppleDouble")
    (source / "a").symlink_to("l")
    os.link(source / "a", source / "l2", follow_symlinks=False)
    (source / "d" / "up").symlink_to("../f")
    os.link(source / "d" / "up", source / "d" / "up2", follow_symlinks=False)
    data = subprocess.run(
        ["tar", f"--format={form}", "--sort=name", "-c", "a", "l2", "d", "f", "f", "._f"],
        cwd=source, check=True, capture_output=True,
    ).stdout  # fmt: skip
    unpack(io.BytesIO(data + b"trailing"), into, LIMITS)
    assert [os.readlink(into / name) for name in ("a", "l2", "d/up", "d/up2")] == ["l", "l", "../f", "../f"]
    assert ((into / "f").read_bytes(), (into / "._f").read_bytes()) == (b"x", b"AppleDouble")


def test_a_zip64_is_taken(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive, archive.open("a", "w", force_zip64=True) as file:
        file.write(b"a")
    unpack(made, tmp_path, LIMITS)
    assert (tmp_path / "a").read_bytes() == b"a"


def test_an_archive_in_an_archive_is_a_file(tmp_path: Path) -> None:
    inner = as_zip([Entry(str(n)) for n in range(50)]).getvalue()
    unpack(as_zip([Entry("inner.zip", inner)]), tmp_path, Limits(1 << 20, 2))
    assert (tmp_path / "inner.zip").read_bytes() == inner


_names = st.lists(
    st.text(st.characters(exclude_characters="/\\\0:", codec="utf-8"), min_size=1, max_size=20), min_size=1, max_size=4
)


@pytest.mark.parametrize("make", [as_zip, as_tar])
@given(tree=st.dictionaries(_names.map("/".join), st.binary(max_size=300), max_size=8))
def test_any_names_come_out_or_are_refused(make: Callable[[list[Entry]], io.BytesIO], tree: dict[str, bytes]) -> None:
    found = taken(make([Entry(name, content) for name, content in tree.items()]))
    if isinstance(found, dict):
        assert sorted(found.values()) == sorted(tree.values())
