"""Follows a tar stream as it passes: where its members begin and end, what they are, the digest of what they hold.

It knows what GNU tar writes with --format=posix (ustar headers, pax headers before them, sparse files as GNU.sparse
1.0) and nothing else; what else a tar can hold is refused, as is what one reader of tar could take for one thing and
another for another. It has to keep up with tar where files are small: every line of `feed` and below is paid for
each member.
"""

import hashlib
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from homed.errors import ArchiveError

BLOCK: Final = 512
_NOTHING: Final[Mapping[bytes, bytes]] = {}
_LONGEST_PAX: Final = 8 << 20
_LONGEST_TRUSTED_PAX: Final = 64 << 20
_LONGEST_DIGITS: Final = 19
_MAGIC: Final = b"ustar\x0000"
_KINDS: Final = {
    0x30: "file",
    0x31: "hardlink",
    0x32: "symlink",
    0x33: "char",
    0x34: "block",
    0x35: "dir",
    0x36: "fifo",
}
_PAX: Final = 0x78
# What a pax header may say, beside xattrs. What is not here could change what a member is, and tar as it is called for
# a backup never says it.
_KEYS: Final = frozenset(
    {b"path", b"linkpath", b"size", b"mtime", b"uid", b"gid", b"RHT.security.selinux"}
    | {b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.name", b"GNU.sparse.realsize"}
    | {b"SCHILY.acl.access", b"SCHILY.acl.default"}
)
_XATTR: Final = b"SCHILY.xattr."


class Entry(msgspec.Struct, gc=False):
    """One member. `size` is of what stands in the archive, `start` and `end` its place in the stream, headers and
    padding included. `digest` (SHA-256, hex) is None for what is no file. `header` and `pax` are as they stand there.
    """

    name: bytes
    kind: str
    size: int
    link: bytes
    start: int
    end: int
    header: bytes
    pax: Mapping[bytes, bytes]
    digest: str | None = None


class Follower:
    """Feed it a stream piece by piece. `take` gets each member when all of it has passed.

    `emit` gets the stream without the blocks that end an archive, and without the members of which `wanted` says no,
    which are not taken either. A member named `last` ends the stream for this follower: then `ended` is true, `final`
    is that member, and `rest` is what comes after its header. It ends at the end of the archive too: `final` is None
    then, and `rest` begins with zeros. `trusted`: it comes from tar itself, so the headers' sums are not checked, and a
    pax header may be longer than in other archives (see `heavy`). Raises: ArchiveError, for an invalid tar.
    """

    def __init__(
        self,
        take: Callable[[Entry], object],
        *,
        emit: Callable[[memoryview], object] | None = None,
        wanted: Callable[[Entry], bool] | None = None,
        last: bytes | None = None,
        digest: bool = True,
        trusted: bool = False,
    ):
        self._take = take
        self._emit = emit
        self._wanted = wanted
        self._last = last
        self._digest = digest
        self._trusted = trusted
        self._longest_pax = _LONGEST_TRUSTED_PAX if trusted else _LONGEST_PAX
        self._hash = hashlib.sha256()
        self._passing: Entry | None = None  # the member whose payload is not all here
        self._dropped = False
        self._left = self._padded = 0
        self.rest = b""
        self.offset = 0  # in the stream, of what was followed
        self.name = b""  # of the last member that began: damage is in it, or after it
        self.ended = False
        self.final: Entry | None = None

    @property
    def between(self) -> bool:
        """Whether it stands between two members, or at the end: a stream may end here."""
        return self.ended or (self._passing is None and not self.rest)

    def feed(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
        view = memoryview(data)
        at = kept = 0
        if self._passing is not None:
            dropped = self._dropped
            at = self._pass(view)
            kept = at if dropped else 0
        end = len(data)
        while self._passing is None and end - at >= BLOCK:
            entry = self._header(data, at)
            if entry is None:
                break
            body = at + (entry.end - entry.start)
            if entry.name == self._last:
                self.final, self.ended, at = entry, True, body
                break
            entry.end += entry.size + -entry.size % BLOCK
            if self._wanted is not None and not self._wanted(entry):
                self._send(view[kept:at])
                at = kept = self._payload(entry, view, body, dropped=True)
            else:
                at = self._payload(entry, view, body, dropped=False)
        self._send(view[kept:at])
        self.offset += at
        self.rest = data[at:]

    def _send(self, part: memoryview) -> None:
        if self._emit is not None and part:
            self._emit(part)

    def _payload(self, entry: Entry, view: memoryview, at: int, *, dropped: bool) -> int:
        """Where the payload, or what is here of it, ends. Small files are all here, and done at once."""
        size = entry.size
        after = at + size + -size % BLOCK
        if after <= len(view):
            if not dropped:
                if self._digest and entry.kind in ("file", "sparse"):
                    entry.digest = hashlib.sha256(view[at : at + size]).hexdigest()
                self._take(entry)
            return after
        self._passing, self._dropped = entry, dropped
        self._left, self._padded = size, after - at
        self._hash = hashlib.sha256()
        return at + self._pass(view[at:])

    def _pass(self, view: memoryview) -> int:
        """The payload goes on: how much of this belongs to it."""
        length = min(self._padded, len(view))
        real = min(self._left, length)
        if real and self._digest and not self._dropped:
            self._hash.update(view[:real])
        self._left -= real
        self._padded -= length
        if not self._padded and self._passing is not None:
            entry, self._passing = self._passing, None
            if not self._dropped:
                entry.digest = self._hash.hexdigest() if self._digest else None
                self._take(entry)
        return length

    def _header(self, data: bytes, at: int) -> Entry | None:
        """The member that begins here; its `end` is yet that of its headers. None where more is needed, or it ends."""
        start = at
        header = data[at : at + BLOCK]
        if not header[0]:
            if header.strip(b"\0"):
                raise self._damaged()
            self.ended = True
            return None
        if not self._trusted and not _sound(header):
            raise self._damaged()
        pax = _NOTHING
        if header[156] == _PAX:
            size = _number(header)
            if size > self._longest_pax:
                raise unsafe(f"a pax header of {size} bytes after '{show(self.name)}'")
            body = at + BLOCK
            at = body + size + -size % BLOCK
            header = data[at : at + BLOCK]
            if len(header) < BLOCK:
                return None
            if not self._trusted and not _sound(header):
                raise self._damaged()
            pax = _records(data[body : body + size])
        kind = _KINDS.get(header[156])
        if kind is None:
            raise unsafe(f"a member of the type {chr(header[156])!r} after '{show(self.name)}'")
        entry = _entry(header, kind, pax)
        self.name = entry.name
        entry.start = self.offset + start
        entry.end = self.offset + at + BLOCK
        return entry

    def _damaged(self) -> ArchiveError:
        where = f"in or after '{show(self.name)}'" if self.name else "at its beginning"
        return ArchiveError(f"the archive is damaged {where}")


def real_size(entry: Entry) -> int:
    """Return the size of a sparse member's file, holes included."""
    return _decimal(entry.pax[b"GNU.sparse.realsize"])


def heavy(entry: Entry) -> bool:
    """Return whether its headers (xattrs) exceed the limit for archives. Its `end` is that of the member."""
    return entry.end - entry.start - entry.size - -entry.size % BLOCK > _LONGEST_PAX


def unsafe(message: str) -> ArchiveError:
    return ArchiveError(f"the archive is not safe: {message}", code="BACKUP_UNSAFE")


def show(name: bytes) -> str:
    """A member's name for people: on one line, and not without end."""
    text = name[:300].decode("utf-8", "backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _entry(header: bytes, kind: str, pax: Mapping[bytes, bytes]) -> Entry:
    name = header[:100].partition(b"\0")[0]
    if header[345]:
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    link = header[157:257].partition(b"\0")[0] if header[157] else b""
    size = _number(header)
    if pax:
        name = pax.get(b"path", name)
        link = pax.get(b"linkpath", link)
        if b"size" in pax:
            size = _decimal(pax[b"size"])
        if b"GNU.sparse.major" in pax:
            version = pax[b"GNU.sparse.major"], pax.get(b"GNU.sparse.minor")
            if kind != "file" or version != (b"1", b"0") or b"GNU.sparse.realsize" not in pax:
                raise unsafe(f"'{show(name)}' is sparse in a way that is not known")
            name, kind = pax.get(b"GNU.sparse.name", name), "sparse"
        elif b"GNU.sparse.name" in pax or b"GNU.sparse.realsize" in pax:
            raise unsafe(f"'{show(name)}' is sparse in a way that is not known")
    if size and kind != "file" and kind != "sparse":
        raise unsafe(f"'{show(name)}' is a {kind} that holds {size} bytes")
    if kind == "dir" and name[-1:] == b"/":
        name = name[:-1]
    return Entry(name, kind, size, link, 0, 0, header, pax)


def _sound(header: bytes) -> bool:
    """Whether its sum is right. Adler-32 begins with the sum of the bytes, modulo 65521: far faster than sum()."""
    digits = header[148:154]
    if not digits.isdigit() or header[154:156] != b"\0 " or header[257:265] != _MAGIC:
        return False
    total = zlib.adler32(header[156:], zlib.adler32(header[:148])) & 0xFFFF
    try:
        return int(digits, 8) % 65521 == (total - 1 + 8 * 0x20) % 65521
    except ValueError:
        return False


def _number(header: bytes) -> int:
    """The size in a header: octal, or base 256 where it is 8 GiB and more."""
    digits = header[124:135]
    try:
        if digits.isdigit() and not header[135]:
            return int(digits, 8)
    except ValueError:
        return _no_number()
    return int.from_bytes(header[125:136], "big") if header[124] == 0x80 else _no_number()


def _decimal(digits: bytes) -> int:
    return int(digits) if digits.isdigit() and len(digits) <= _LONGEST_DIGITS else _no_number()


def _no_number() -> int:
    raise ArchiveError("the archive is damaged: a size is no number")


def _records(body: bytes) -> dict[bytes, bytes]:
    """`LENGTH KEY=VALUE\\n`, one after the other; a value may hold anything."""
    if body.find(b" mtime=") == 2 and body.find(b"\n") + 1 == len(body) and body[:2] == b"%d" % len(body):
        return {b"mtime": body[9:-1]}  # as it is for nearly every member
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 12)
        length = body[at : max(space, at)]
        if not length.isdigit():
            raise ArchiveError("the archive is damaged: a pax header cannot be read")
        after = at + int(length)
        key, equals, value = body[space + 1 : after - 1].partition(b"=")
        if not equals or after > len(body) or body[after - 1] != 0x0A or after <= space + 1:
            raise ArchiveError("the archive is damaged: a pax header cannot be read")
        if key in found or (key not in _KEYS and not key.startswith(_XATTR)):
            raise unsafe(f"a pax header says '{show(key)}'")
        found[key] = value
        at = after
    return found
