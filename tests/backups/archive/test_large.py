"""Trees of a size that memory must not grow with."""

import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from homed.backups.archive import safety
from homed.errors import ArchiveError
from tests.support.archives import Forged, check, header

_FILES = 200_000
_MEMORY = 64 << 10  # KiB, beside what the process needs to start

_WORKER = """
import resource, sys
from pathlib import Path
from tests.support.archives import VOLUME, check, pack
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path = Path(sys.argv[1])
made = pack(path, [(VOLUME, Path(sys.argv[2]))])
assert check(path).members == made.members
print(made.members, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def packed_apart(path: Path, tree: Path) -> tuple[int, int]:
    """In a process of its own: (members, by how many KiB its memory grew)."""
    ran = subprocess.run(
        [sys.executable, "-c", _WORKER, path, tree],
        cwd=Path(__file__).parents[3],
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    members, grown = ran.stdout.split()
    return int(members), int(grown)


def test_two_hundred_thousand_small_files(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    # In memory they are made and removed at once.
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g,nr_inodes=0", "tmpfs", tree], capture_output=True)
    try:
        subprocess.run(["tar", "-x", "-C", tree], input=b"".join(_entries()), check=True)
        members, grown = packed_apart(tmp_path / "b.tar.gz", tree)
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", tree], check=True)
    assert members == _FILES + 200 + 2
    assert grown < _MEMORY


def _entries() -> list[bytes]:
    """A tar of them: far quicker than to make each from here. The half of them are links."""
    made = [header(b"%d/" % folder, flag=b"5") for folder in range(200)]
    for i in range(_FILES):
        name = b"%d/file%d" % (i % 200, i)
        if i < _FILES // 20:
            made.append(header(name, 5) + b"hello" + bytes(507))
        elif i < _FILES // 2:
            made.append(header(name))
        else:
            made.append(header(name, flag=b"1", link=b"%d/file%d" % (i % 200, i - _FILES // 2)))
    return [*made, bytes(1024)]


def test_a_large_file(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with (tree / "large").open("wb") as file:
        for _ in range(40):
            file.write(os.urandom(1 << 20) + bytes(7 << 20))
    members, grown = packed_apart(tmp_path / "b.tar.gz", tree)
    assert members == 3
    assert grown < _MEMORY


def test_names_are_looked_up_in_many_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are looked up at once, over and over, and where nearly every name may have come twice."""
    monkeypatch.setattr(safety, "_AT_ONCE", 3)
    monkeypatch.setattr(safety, "_BITS", 8)
    forged = Forged()
    with forged.section():
        for i in range(40):
            forged.add(b"volumes/data/f%d" % i, b"x")
            forged.add(b"volumes/data/h%d" % i, kind="hardlink", link=b"volumes/data/f%d" % (i // 2))
    check(forged.write(tmp_path / "b.tar.gz"))
    for add in (("symlink", b"volumes/data/f9"), ("hardlink", b"volumes/data/h9")):
        wrong = Forged()
        with wrong.section():
            for i in range(40):
                wrong.add(b"volumes/data/f%d" % i, b"x")
            wrong.add(b"volumes/data/h9", kind="hardlink", link=b"volumes/data/f9")
            wrong.add(add[1], kind=add[0], link=b"volumes/data/f1")
            for i in range(40):
                wrong.add(b"volumes/data/g%d" % i, b"x")
        with pytest.raises(ArchiveError, match="twice"):
            check(wrong.write(tmp_path / "b.tar.gz"))


def test_the_digest_of_the_manifest_is_of_its_lines(tmp_path: Path) -> None:
    forged = Forged()
    data = gzip.decompress(forged.write(tmp_path / "b.tar.gz").read_bytes())
    body = data[data.index(b'{"format"') :].rstrip(b"\0")
    *lines, last = body.splitlines(keepends=True)
    assert hashlib.sha256(b"".join(lines)).hexdigest().encode() in last
