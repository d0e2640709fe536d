"""Members of a tar archive, compressed or not, read once from its beginning to its end."""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final, Protocol

from homed.errors import JobError
from homed.jobs.unpack.limits import Budget, Limits, bad, shown, unsafe
from homed.jobs.unpack.tree import Tree

_CHUNK: Final = 1 << 18
_LONGEST_HEADER: Final = 1 << 20
_HEADERS: Final = 4096  # what a member may take beside its data
_XZ_MEMORY: Final = 128 << 20
_WRONG = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, OSError, OverflowError)


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Xz(io.RawIOBase):
    """As lzma.LZMAFile, with a bound for the memory that the archive may ask for."""

    def __init__(self, archive: BinaryIO):
        self._archive = archive
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while True:
            if self._decompressor.eof:
                rest = self._decompressor.unused_data or self._archive.read(_CHUNK)
                if not rest.strip(b"\0"):
                    return b""
                self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)
            else:
                rest = self._archive.read(_CHUNK) if self._decompressor.needs_input else b""
                if not rest and self._decompressor.needs_input:
                    raise EOFError("it ends too early")
            data = self._decompressor.decompress(rest, size)
            if data:
                return data


class _Forward(io.RawIOBase):
    """What tarfile reads from: never back, no more than may come out of the archive, and no header of gigabytes."""

    def __init__(self, source: _Source, most: int):
        self._source = source
        self._most = most
        self._at = 0
        self.last = b""

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence != 0 or offset < self._at:
            raise bad("its parts do not follow one another")
        while self._at < offset and self.read(min(_CHUNK, offset - self._at)):
            pass
        return self._at

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise unsafe("one of its headers is too long")
        data = bytearray()
        while len(data) < size:
            chunk = self._source.read(size - len(data))
            if not chunk:
                break
            data += chunk
        self._at += len(data)
        if self._at > self._most:
            raise unsafe("more comes out of it than it may hold")
        self.last = bytes(data)
        return self.last


def unpack(archive: BinaryIO, tree: Tree, budget: Budget, limits: Limits) -> None:
    most = limits.size + limits.members * _HEADERS
    try:
        # What follows the last member is not looked at.
        source = _Forward(_plain(archive), most)
        with tarfile.open(fileobj=source, mode="r:") as opened:
            while (member := opened.next()) is not None:
                budget.member()
                _member(opened, member, tree)
                opened.members = []  # type: ignore[attr-defined]  # it keeps all that it has seen
        if source.last.strip(b"\0"):
            raise bad("one of its headers is damaged")
    except JobError:
        raise
    except _WRONG as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise bad(f"{error}") from error


def _plain(archive: BinaryIO) -> _Source:
    head = archive.read(6)
    archive.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=archive)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(archive)
    if head == b"\xfd7zXZ\0":
        return _Xz(archive)
    return archive


def _member(opened: tarfile.TarFile, member: tarfile.TarInfo, tree: Tree) -> None:
    name, mode = member.name, member.mode & 0o777
    if member.isdir():
        tree.folder(name, mode)
    elif member.issym():
        tree.link(name, member.linkname)
    elif member.islnk():
        tree.hard_link(name, member.linkname)
    elif member.isreg():
        tree.file(name, mode, _data(opened, member))
    else:
        raise unsafe(f"{shown(name)} is neither a file, a folder nor a link")


def _data(opened: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    file = opened.extractfile(member)
    if file is None:
        raise bad(f"{shown(member.name)} has no content")
    with file:
        left = member.size
        while left:
            chunk = file.read(min(_CHUNK, left))
            if not chunk:
                raise bad(f"{shown(member.name)} ends too early")
            left -= len(chunk)
            yield chunk
