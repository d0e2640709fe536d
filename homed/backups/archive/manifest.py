"""The manifest: a line of JSON for each member, so that it can be written and compared as the members pass.

The first line is the backup's record, with `format`; then one line a member, `["name","type",size,"sha256"|null]`, in
the order of the archive; then `{"members":N,"size":TOTAL,"sha256":DIGEST}`, the digest being of all lines before it.

A name is bytes, JSON is not: a name stands there as UTF-8, and what of it is not UTF-8, and the percent sign itself, as
%XX for each byte. It can be had back byte for byte, and a name that is plain text stands as it is.
"""

import re
from collections.abc import Container, Iterable, Iterator
from typing import Any, Final

import msgspec

from homed.backups.records import Backup
from homed.errors import ArchiveError

FORMAT: Final = 1
NAME: Final = b"manifest.jsonl"
README: Final = b"README"
LONGEST_LINE: Final = 16 << 20
_NO_JSON: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_PLAIN: Final = bytes(one for one in range(0x20, 0x7F) if one not in b'"\\%')
_SURROGATE: Final = re.compile("[\udc80-\udcff]")
_ESCAPE: Final = re.compile(rb"%([0-9A-F]{2})")

TEXT: Final = b"""This is a backup made by homed.

Unpack it by hand, as root:
    tar --xattrs --xattrs-include='*' --numeric-owner -xpzf NAME.tar.gz
One that is sealed (NAME.age.tar) is opened first, with age (https://age-encryption.org):
    tar -xf NAME.age.tar
    age -d identity.age > identity.txt        (asks for the passphrase; not there if it was sealed for a key of yours)
    age -d -i identity.txt backup.tar.gz.age | tar --xattrs --xattrs-include='*' --numeric-owner -xpz

state/             homed's own state: its database, configuration, services
volumes/NAME/      one named volume each
paths/N/           one bind mount each: manifest.jsonl tells of which path ("sections" in its first line)
manifest.jsonl     what the archive holds: the backup's record, then each member with its size and SHA-256.
                   An archive that does not end with it is not whole.
"""


class Total(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last line."""

    members: int
    size: int
    sha256: str


class _Format(msgspec.Struct, frozen=True):
    format: int


def encode(name: bytes) -> str:
    """A name as it stands in the manifest."""
    text = name.replace(b"%", b"%25").decode("utf-8", "surrogateescape")
    return text if text.isascii() else _SURROGATE.sub(lambda one: f"%{ord(one[0]) - 0xDC00:02X}", text)


def decode(text: str) -> bytes:
    return _ESCAPE.sub(lambda one: bytes([int(one[1], 16)]), text.encode("utf-8"))


def line(name: bytes, kind: str, size: int, digest: str | None) -> bytes:
    plain = name if not name.translate(None, _PLAIN) else b""
    if plain and digest is not None:
        return b'["%b","%b",%d,"%b"]\n' % (plain, kind.encode(), size, digest.encode())
    return msgspec.json.encode([encode(name), kind, size, digest]) + b"\n"


def header(draft: Backup) -> bytes:
    """The first line. `size` is not in it: it is known only when the archive is done."""
    fields: dict[str, Any] = {"format": FORMAT, **msgspec.to_builtins(draft)}
    del fields["size"]
    return msgspec.json.encode(fields) + b"\n"


def record(text: bytes, size: int) -> Backup:
    """The backup that the first line tells of. ArchiveError: BACKUP_VERSION where a newer homed has made it."""
    try:
        newest = msgspec.json.decode(text, type=_Format).format
        if newest > FORMAT:
            raise ArchiveError(
                f"the archive is of format {newest}, and this homed reads up to {FORMAT}: a newer homed has made it",
                code="BACKUP_VERSION",
            )
        fields = msgspec.json.decode(text, type=dict[str, Any])
        return msgspec.convert({**fields, "size": size}, Backup)
    except _NO_JSON as error:
        raise ArchiveError(f"the archive is damaged: its manifest cannot be read ({error})") from error


def name_in(text: bytes) -> bytes:
    """The name in a line that `line` has made."""
    encoded, *_ = msgspec.json.decode(text)
    return decode(encoded)


def total(text: bytes) -> Total:
    try:
        return msgspec.json.decode(text, type=Total)
    except _NO_JSON as error:
        raise ArchiveError("the archive is damaged: its manifest does not end as it should") from error


def last(counted: Total) -> bytes:
    return msgspec.json.encode(counted) + b"\n"


def kinds(lines: Iterable[bytes], names: Container[bytes]) -> Iterator[tuple[int, bytes, str]]:
    """(index, name, type) of each member that is one of these, in their order. Lines as `line` makes them."""
    for index, text in enumerate(lines):
        if text[-3:-1] == b'"]' and b"\\" not in text and b"%" not in text and text.isascii():
            # As nearly all are: much cheaper than JSON. A name here holds no quotation mark.
            _, name, _, kind, _ = text.split(b'"', 4)
            if name in names:
                yield index, name, kind.decode()
            continue
        encoded, of, *_ = msgspec.json.decode(text)
        name = decode(encoded)
        if name in names:
            yield index, name, of
