"""What is read a second time because it changed while it was read: decided here, done by the packer.

A file that was written to is read again, and the later member of its name counts. A folder that changed may have got
files that tar did not see (a rename into it): what changed in it since is read too. The members that lead to a file
come before it, so that in each run every folder stands before what is in it.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from homed.backups.archive.follow import Entry

MOST: Final = 10_000
_CLOCK = 20_000_000  # ns: how far behind a filesystem's clock may be, which goes by the kernel's ticks
_FILES: Final = ("file", "sparse")


class Candidates(NamedTuple):
    """Names as tar gives them (`./a/b`) and what is there. `asked` are those that tar named, `gone` those of them that
    are there no more; `more` is how many there were beyond what is looked at.
    """

    names: dict[bytes, os.stat_result]
    asked: frozenset[bytes]
    gone: tuple[bytes, ...]
    more: int

    def members(self, prefix: bytes) -> set[bytes]:
        """All that has to do with them, as the archive calls it: what leads to them too."""
        names = {above for name in self.names for above in _leading(name)}.union(self.names, self.gone)
        return {prefix + name[1:] for name in names}


class Plan(NamedTuple):
    """`names` in the order in which they are to be read; `given_up` stay as they are; `size` in bytes of the former."""

    names: tuple[bytes, ...]
    given_up: tuple[bytes, ...]
    size: int


def relative(path: str, bases: Iterable[Path]) -> bytes | None:
    """A path to exclude as tar names it, `./a`; None where it is no path in one of the bases."""
    if not path.startswith("/"):
        inside = os.path.normpath(path)
        return None if inside == "." or inside.startswith("..") else b"./" + os.fsencode(inside)
    for base in bases:
        inside = os.path.relpath(path, base)
        if inside != "." and not inside.startswith(".."):
            return b"./" + os.fsencode(inside)
    return None


def candidates(tree: Path, changed: Sequence[bytes], since: int, exclude: Sequence[bytes]) -> Candidates:
    """What may have to be read again, for these names that changed. `since` in ns of the clock."""
    found: dict[bytes, os.stat_result] = {}
    gone: list[bytes] = []
    more = 0
    root = os.fsencode(tree)
    for name in changed:
        there = _look(root, name)
        if there is None:
            gone.append(name)
            continue
        found[name] = there
        if stat.S_ISDIR(there.st_mode):
            for path, one in _since(root, name, since - _CLOCK):
                if any(path == out or path.startswith(out + b"/") for out in exclude):
                    continue
                if len(found) >= MOST:
                    more += 1
                    break
                found.setdefault(path, one)
    return Candidates(found, frozenset(changed), tuple(gone), more)


def plan(found: Candidates, known: Mapping[bytes, str], prefix: bytes, room: int) -> Plan:
    """`known` are the types of what the archive holds already, by name there; `room` bytes may be read again.

    A file that has several names is not read again: put back, its names would be files of their own.
    """
    wanted: set[bytes] = set()
    given_up = [name for name in found.gone if known.get(prefix + name[1:]) in _FILES]
    size = 0
    for name, there in sorted(found.names.items(), key=lambda one: one[1].st_size):
        before = known.get(prefix + name[1:])
        more = there.st_size if before in _FILES else 0
        if _fits(before, there) and size + more <= room:
            size += more
            wanted.add(name)
        elif name in found.asked:
            given_up.append(name)
    names = {above for name in wanted for above in _leading(name)} | wanted
    ordered = sorted(names, key=lambda name: name.split(b"/"))
    return Plan(tuple(ordered), tuple(given_up), size)


class Guard:
    """Lets pass, of what is read again, only what can stand beside what the archive holds: never two kinds of thing
    under one name, and nothing whose folder is none any more (a link in its place would lead out of the tree).
    """

    def __init__(self, known: Mapping[bytes, str], prefix: bytes):
        self._known = known
        self._prefix = prefix
        self._folders: set[bytes] = set()

    def allows(self, entry: Entry) -> bool:
        before = self._known.get(entry.name)
        if entry.name != self._prefix and entry.name.rpartition(b"/")[0] not in self._folders:
            return False
        if entry.kind == "dir":
            allowed = before in (None, "dir")
        elif entry.kind in _FILES:
            allowed = before is None or before in _FILES
        else:
            allowed = before is None
        if allowed and entry.kind == "dir":
            self._folders.add(entry.name)
        return allowed


def _fits(before: str | None, there: os.stat_result) -> bool:
    if stat.S_ISDIR(there.st_mode):
        return before in (None, "dir")
    if before is None:
        return not stat.S_ISSOCK(there.st_mode)
    return before in _FILES and stat.S_ISREG(there.st_mode) and there.st_nlink == 1


def _leading(name: bytes) -> Iterator[bytes]:
    parts = name.split(b"/")
    for i in range(1, len(parts)):
        yield b"/".join(parts[:i])


def _look(root: bytes, name: bytes) -> os.stat_result | None:
    try:
        return os.lstat(root + b"/" + name)
    except OSError:
        return None


def _since(root: bytes, name: bytes, since: int) -> Iterator[tuple[bytes, os.stat_result]]:
    """What in a folder changed, with all that is in a folder that did."""
    pending = [name]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(root + b"/" + folder) as entries:
                inside = [(folder + b"/" + one.name, one.stat(follow_symlinks=False)) for one in entries]
        except OSError:
            continue
        for path, there in inside:
            if there.st_ctime_ns < since:
                continue
            yield path, there
            if stat.S_ISDIR(there.st_mode):
                pending.append(path)
