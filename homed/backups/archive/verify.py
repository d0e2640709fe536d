"""Reads an archive to its end: is it whole, is it what its manifest says, and can it be unpacked without harm."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from homed.backups.archive import manifest
from homed.backups.archive.follow import BLOCK, Entry, Follower, real_size, show, unsafe
from homed.backups.archive.safety import Checks
from homed.backups.archive.spool import Spool
from homed.backups.archive.stream import DAMAGE, Stream, explained
from homed.backups.records import Backup, Section
from homed.backups.worker.context import Watch
from homed.backups.worker.messages import Unlock
from homed.errors import ArchiveError

_MOST_SPOOLED: Final = 8 << 30


class Member(NamedTuple):
    """`name` is relative to the section, "" its root; bytes that are not UTF-8 as the os module's functions take them.
    `size` is that of the file, holes included; `mtime` in seconds.
    """

    name: str
    kind: str
    size: int
    mtime: float
    mode: int
    uid: int
    gid: int
    link: str


def verify(
    path: Path,
    spool: Path,
    unlock: Unlock | None,
    watch: Watch,
    *,
    visit: Callable[[Section, Member], None] | None = None,
    limit: int | None = None,
) -> Backup:
    """The backup that an archive holds, read to its end and compared with its manifest.

    `spool` is a file that is made for the time. `visit` gets each member, once all of the archive is found to be good.
    `limit` is how many bytes it may hold, unpacked. ArchiveError: BACKUP_DAMAGED, BACKUP_UNSAFE, BACKUP_VERSION,
    BACKUP_KEY_MISSING, BACKUP_KEY_WRONG; BackupSpaceError where there is no room for the spool.
    """
    lines = Spool(spool)
    with contextlib.closing(lines), explained("verify"):
        lines.open()
        with Stream(path, unlock, watch) as stream:
            backup = _Reading(stream, lines, path.stat().st_size, limit).run()
    if visit is not None:
        _tour(path, unlock, watch, backup, visit)
    return backup


class _Reading:
    """One pass over an archive."""

    def __init__(self, stream: Stream, lines: Spool, size: int, limit: int | None):
        self._stream = stream
        self._lines = lines
        self._size = size
        self._limit = limit
        self._checks = Checks(lines)

    def run(self) -> Backup:
        follower = Follower(self._take, last=manifest.NAME)
        try:
            while not follower.ended:
                data = self._stream.read()
                if not data:
                    raise ArchiveError(f"the archive is cut off {_where(follower)}")
                follower.feed(data)
                if self._limit is not None and follower.offset > self._limit:
                    raise unsafe(f"it holds more than {self._limit} bytes")
        except DAMAGE as error:
            raise ArchiveError(f"the archive is damaged {_where(follower)}") from error
        if follower.final is None or follower.final.kind != "file":
            raise ArchiveError("the archive has no manifest: it was never finished, or is no backup of homed's")
        try:
            backup = self._compare(follower)
        except DAMAGE as error:
            raise ArchiveError("the archive is damaged in its manifest") from error
        self._checks.finish(backup)
        return backup

    def _take(self, entry: Entry) -> None:
        self._checks.see(entry)
        self._lines.add(manifest.line(entry.name, entry.kind, entry.size, entry.digest), entry.size)
        if self._lines.length > _MOST_SPOOLED:
            raise unsafe("it has more members than any backup")

    def _compare(self, follower: Follower) -> Backup:
        """Read the manifest, and all that comes after it, which is nothing."""
        assert follower.final is not None
        size = follower.final.size
        body = _Body(self._stream, follower.rest, size)
        first = body.line()
        backup = manifest.record(first, self._size)
        digest = hashlib.sha256(first)
        for own in self._lines.lines():
            line = body.line()
            if line != own:
                name = show(manifest.name_in(own))
                raise ArchiveError(f"the archive is damaged: '{name}' is not what the manifest says")
            digest.update(line)
        last = manifest.total(body.line())
        expected = manifest.Total(self._lines.total.members, self._lines.total.size, digest.hexdigest())
        if last != expected or (backup.members, backup.data_size) != (last.members, last.size):
            raise ArchiveError("the archive is damaged: its manifest does not add up")
        body.end()
        return backup


class _Body:
    """The payload of the last member, line by line."""

    def __init__(self, stream: Stream, rest: bytes, size: int):
        self._stream = stream
        self._data = rest
        self._at = 0
        self._left = size
        self._padding = -size % BLOCK

    def line(self) -> bytes:
        """ArchiveError where there is none, or it has no end."""
        parts: list[bytes] = []
        length = 0
        while True:
            end = self._data.find(b"\n", self._at, self._at + self._left) + 1
            part = self._data[self._at : end or self._at + self._left]
            self._at += len(part)
            self._left -= len(part)
            if end and not parts:
                return part
            parts.append(part)
            length += len(part)
            if end:
                return b"".join(parts)
            if not self._left or length > manifest.LONGEST_LINE:
                raise ArchiveError("the archive is damaged: its manifest does not end as it should")
            self._more()

    def end(self) -> None:
        """Nothing may follow but the zeros that end a tar."""
        if self._left:
            raise ArchiveError("the archive is damaged: its manifest goes on after its end")
        rest, blank = self._data[self._at :], 0
        while rest or (rest := self._stream.read()):
            if rest.strip(b"\0"):
                raise unsafe("something follows its manifest")
            blank += len(rest)
            rest = b""
        if blank < self._padding + 2 * BLOCK:
            raise ArchiveError("the archive is cut off after its manifest")

    def _more(self) -> None:
        self._data = self._stream.read()
        self._at = 0
        if not self._data:
            raise ArchiveError("the archive is cut off in its manifest")


def _tour(
    path: Path, unlock: Unlock | None, watch: Watch, backup: Backup, visit: Callable[[Section, Member], None]
) -> None:
    sections = {section.prefix.encode(): section for section in backup.sections}
    current: tuple[bytes, Section] | None = None

    def take(entry: Entry) -> None:
        nonlocal current
        if current is None or not (entry.name + b"/").startswith(current[0] + b"/"):
            parts = entry.name.split(b"/")
            found = sections.get(parts[0]) or sections.get(b"/".join(parts[:2]))
            if found is None:
                return
            current = found.prefix.encode(), found
        visit(current[1], described(entry, len(current[0]) + 1))

    with explained("verify"), Stream(path, unlock, watch) as stream:
        follower = Follower(take, last=manifest.NAME, digest=False)
        while not follower.ended and (data := stream.read()):
            follower.feed(data)


def described(entry: Entry, skipped: int) -> Member:
    """A member as it would be put back; the first `skipped` bytes of its name are its section's."""
    header, pax = entry.header, entry.pax
    try:
        mtime = float(pax[b"mtime"]) if b"mtime" in pax else float(_octal(header[136:148]))
        size = real_size(entry) if entry.kind == "sparse" else entry.size
        uid = int(pax[b"uid"]) if b"uid" in pax else _octal(header[108:116])
        gid = int(pax[b"gid"]) if b"gid" in pax else _octal(header[116:124])
        mode = _octal(header[100:108])
    except ValueError as error:
        raise ArchiveError(f"the archive is damaged in the header of '{show(entry.name)}'") from error
    link = entry.link[skipped:] if entry.kind == "hardlink" else entry.link
    return Member(os.fsdecode(entry.name[skipped:]), entry.kind, size, mtime, mode, uid, gid, os.fsdecode(link))


def _octal(field: bytes) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b"\0 ") or b"0", 8)


def _where(follower: Follower) -> str:
    return f"in or after '{show(follower.name)}'" if follower.name else "at its beginning"
