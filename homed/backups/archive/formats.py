"""File type detection by the first bytes, so that a foreign file is named instead of reported as damaged."""

import contextlib
import zlib
from collections.abc import Mapping
from typing import Final

from homed.backups import names
from homed.errors import ArchiveError

HEAD: Final = 1536
"""The number of leading bytes that `check` needs."""
_MAGIC: Final[Mapping[bytes, str]] = {
    b"\x28\xb5\x2f\xfd": "a file compressed by zstd",
    b"\xfd7zXZ\0": "a file compressed by xz",
    b"BZh": "a file compressed by bzip2",
    b"\x04\x22\x4d\x18": "a file compressed by lz4",
    b"PK\x03\x04": "a zip",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"age-encryption.org/": "a file encrypted by age alone, without what homed puts around it",
    b"-----BEGIN AGE ENCRYPTED FILE-----": "a file encrypted by age alone, without what homed puts around it",
    b"SQLite format 3\0": "a database",
    b"hsqs": "a squashfs image",
    b"<": "a page of HTML or XML",
    b"{": "a text (JSON)",
}
_GZIP: Final = b"\x1f\x8b"
_SEALED: Final = b" comment=homed sealed "


def check(name: str, head: bytes) -> None:
    """Check that the first bytes fit the file's name. Raises: ArchiveError (BACKUP_FORMAT)."""
    found = recognised(head)
    if name.endswith(names.SEALED):
        wanted = "sealed"
        if found == "gzip":
            raise _wrong("a gzip", f"an archive that is not encrypted has a name that ends in {names.PLAIN}")
        if found == "tar":
            raise _wrong("a tar, but not one that homed sealed", f"the name of a plain archive ends in {names.PLAIN}")
    else:
        wanted = "gzip"
        if found == "sealed":
            raise _wrong("an encrypted archive", f"its name ends in {names.SEALED}")
        if found == "tar":
            raise _wrong(
                "a plain tar",
                f"an archive is compressed ({names.PLAIN}): send the file as it is, and without a Content-Encoding, "
                "which has it decompressed on its way",
            )
        if found == "gzip" and _inside(head).startswith(_GZIP):
            raise _wrong("compressed twice", "send the file as homed has written it")
    if found not in ("", wanted):
        raise _wrong(found, f"send an archive that homed has written ({names.PLAIN}, {names.SEALED})")


def recognised(head: bytes) -> str:
    """Return `gzip`, `tar`, `sealed` (homed's tar around an encrypted archive), or a description; empty if unknown."""
    if not head:
        return "an empty file"
    if head.startswith(_GZIP):
        return "gzip"
    if head[257:262] == b"ustar":
        return "sealed" if _SEALED in head[512:1024] else "tar"
    return next((words for magic, words in _MAGIC.items() if head.startswith(magic)), "")


def _inside(head: bytes) -> bytes:
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(31).decompress(head, 512)
    return b""


def _wrong(what: str, instead: str) -> ArchiveError:
    return ArchiveError(f"this is {what}: {instead}", code="BACKUP_FORMAT")
