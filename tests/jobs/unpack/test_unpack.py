"""Archives as people make them come out as they were."""

import bz2
import gzip
import io
import lzma
import os
import stat
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

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
