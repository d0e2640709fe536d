"""Archives with whatever members one likes, and what becomes of them."""

import io
import os
import stat
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from homed.errors import JobError
from homed.jobs.unpack.unpack import Limits, unpack

LIMITS = Limits(size=4 << 20, members=1000)
_KINDS = {
    "file": (stat.S_IFREG, tarfile.REGTYPE),
    "dir": (stat.S_IFDIR, tarfile.DIRTYPE),
    "link": (stat.S_IFLNK, tarfile.SYMTYPE),
    "hard": (stat.S_IFREG, tarfile.LNKTYPE),
    "fifo": (stat.S_IFIFO, tarfile.FIFOTYPE),
    "char": (stat.S_IFCHR, tarfile.CHRTYPE),
    "block": (stat.S_IFBLK, tarfile.BLKTYPE),
}


class Entry(NamedTuple):
    """`target` is of links."""

    name: str
    content: bytes = b""
    kind: str = "file"
    target: str = ""
    mode: int = 0o644


def as_zip(entries: Iterable[Entry]) -> io.BytesIO:
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # of names that stand there twice
        for entry in entries:
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = entry.name
            info.create_system, info.external_attr = 3, (_KINDS[entry.kind][0] | entry.mode) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, entry.target.encode() or entry.content)
    return made


_MOST_HOPS = 40


def as_tar(entries: Iterable[Entry]) -> io.BytesIO:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.linkname, info.mode = _KINDS[entry.kind][1], entry.target, entry.mode
            info.size = len(entry.content)
            archive.addfile(info, io.BytesIO(entry.content))
    return made


def _leads(link: Path) -> Path:
    """Return the path that a link leads to, whether something is there or not.

    As path_resolution(7) has it; os.path.realpath takes the loop `a -> a//` for the root. A loop leads to itself.
    """
    here = Path(os.path.realpath(link.parent))
    left, hops = [link.name], 0
    while left:
        part = left.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            here = here.parent
            continue
        there = here / part
        if not there.is_symlink():
            here = there
            continue
        hops += 1
        if hops > _MOST_HOPS:
            return there
        target = os.readlink(there)
        here = Path("/") if target.startswith("/") else here
        left = target.split("/") + left
    return here


def taken(archive: io.BytesIO, limits: Limits = LIMITS) -> dict[str, bytes] | JobError:
    """The files that came out, or why it was refused. Nothing came to lie, or was changed, beside the folder."""
    with tempfile.TemporaryDirectory() as outer:
        folder, beside = Path(outer, "a", "into"), Path(outer, "a", "beside")
        folder.mkdir(parents=True)
        beside.write_bytes(b"untouched")
        refused = None
        try:
            unpack(archive, folder, limits)
        except JobError as error:
            refused = error
        assert sorted(p.name for p in Path(outer, "a").iterdir()) == ["beside", "into"]
        assert [p.name for p in Path(outer).iterdir()] == ["a"]
        assert beside.read_bytes() == b"untouched"
        for path in folder.rglob("*"):
            assert not path.is_symlink() or _leads(path).is_relative_to(os.path.realpath(folder)), path
        files = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
        return refused or {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
