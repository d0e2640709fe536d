"""The description of a tree, for archives and snapshots alike: its real path, its type, its sizes and counts."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from homed.backups.worker.context import Watch

_BLOCK = 512
_CHECK_EVERY = 1000


class Located(NamedTuple):
    """A resolved tree: `path` has no links in it; `single` is true for a file, false for a directory."""

    path: Path
    single: bool


class Measured(NamedTuple):
    """Sizes in bytes: `size` without holes, `apparent_size` with them. `devices` counts skipped device nodes."""

    members: int = 0
    size: int = 0
    apparent_size: int = 0
    devices: int = 0


def locate(tree: Path) -> Located | str:
    """Resolve the tree's path, or return why a backup cannot include it (to follow its name). Raises: OSError."""
    try:
        path = tree.resolve(strict=True)
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "is not there (any more): the backup holds nothing of it"
    if stat.S_ISDIR(mode):
        return Located(path, single=False)
    if stat.S_ISREG(mode):
        return Located(path, single=True)
    return "is neither a folder nor a file: it is not part of the backup"


def measure(found: Located, exclude: Sequence[str], watch: Watch) -> Measured:
    """Measure the tree as it is now. Files that disappear in the meantime are not counted."""
    skipped = {os.fsencode(path) for path in exclude}
    members = size = apparent = devices = 0
    links: set[tuple[int, int]] = set()
    root = os.fsencode(found.path)
    pending, looked = [root], 0
    while pending:
        path = pending.pop()
        looked += 1
        if looked % _CHECK_EVERY == 0:
            watch.check()
        try:
            there = os.lstat(path)
            if stat.S_ISDIR(there.st_mode):
                pending += [path + b"/" + name for name in os.listdir(path) if path + b"/" + name not in skipped]
        except OSError:
            continue
        if stat.S_ISCHR(there.st_mode) or stat.S_ISBLK(there.st_mode):
            devices += 1
            continue
        if stat.S_ISSOCK(there.st_mode):
            continue
        members += 1
        number = there.st_dev, there.st_ino
        if not stat.S_ISREG(there.st_mode) or number in links:
            continue
        if there.st_nlink > 1:
            links.add(number)
        size += min(there.st_size, there.st_blocks * _BLOCK)
        apparent += there.st_size
    return Measured(members, size, apparent, devices)
