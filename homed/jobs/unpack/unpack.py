"""Unpacks zip, and tar plain or compressed by gzip, bzip2 or xz: which one it is, is seen by how it begins."""

import os
from pathlib import Path
from typing import BinaryIO

from homed.jobs.unpack import tar, zip
from homed.jobs.unpack.limits import Budget, Limits, bad
from homed.jobs.unpack.tree import Tree

__all__ = ["Limits", "unpack"]
_OTHERS = {
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x28\xb5\x2f\xfd": "packed by Zstandard",
    b"\x04\x22\x4d\x18": "packed by LZ4",
    b"!<arch>\n": "an archive of ar, or a Debian package",
    b"\x1f\x9d": "packed by compress",
}


def unpack(archive: BinaryIO, folder: Path, limits: Limits) -> int:
    """Into a folder that is there and empty; how many members it had. `archive` must be seekable. Permissions are kept
    (set-user-ID and the like are not), times and owners are not.

    JobError UNSAFE_ARCHIVE or BAD_ARCHIVE, and OSError of the disk: then part of it may lie in the folder.
    """
    packed = archive.seek(0, os.SEEK_END)
    archive.seek(0)
    head = archive.read(8)
    archive.seek(0)
    if not head:
        raise bad("it is empty")
    for begin, name in _OTHERS.items():
        if head.startswith(begin):
            raise bad(f"it is {name}, which is not known here: use zip, or tar with gzip, bzip2 or xz")
    budget = Budget(limits, packed)
    tree = Tree(folder, limits, budget)
    try:
        kind = zip if head[:4] in (b"PK\3\4", b"PK\5\6") else tar
        kind.unpack(archive, tree, budget, limits)
        tree.finish()
    finally:
        tree.close()
    return budget.members
