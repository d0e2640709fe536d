"""Members of a zip archive, judged by what is in it and not by what it says of itself."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

from homed.jobs.unpack.limits import Budget, Limits, bad, shown, unsafe
from homed.jobs.unpack.tree import Tree

_CHUNK: Final = 1 << 18
# LZMA's own headers may ask for 4 GiB of memory.
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_ENTRY: Final = b"PK\1\2"
_HEADER_SIZE: Final = 30
_LONGEST_ENTRY: Final = 1024
_UNIX, _MACOS = 3, 19
_WINDOWS: Final = (0, 10, 14)  # MS-DOS, NTFS, VFAT
_ENCRYPTED, _UTF8 = 1, 1 << 11
_UNICODE_NAME: Final = 0x7075
_WRONG = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, NotImplementedError, RuntimeError, IndexError)


class _Archive(io.BufferedIOBase):
    """While `opening` its directory is read, all of it at once: not a longer one than its members need."""

    def __init__(self, archive: BinaryIO, limits: Limits):
        self._archive = archive
        self._limits = limits
        self.opening = True

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._archive.seek(offset, whence)

    def tell(self) -> int:
        return self._archive.tell()

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.opening:
            return self._archive.read(-1 if size is None else size)
        most = max(1 << 20, self._limits.members * _LONGEST_ENTRY)
        data = self._archive.read(most + 1 if size is None or size < 0 else min(size, most + 1))
        if len(data) > most or data.count(_ENTRY) > self._limits.members:
            raise unsafe(f"it holds more than {self._limits.members} members")
        return data


def unpack(archive: BinaryIO, tree: Tree, budget: Budget, limits: Limits) -> None:
    file = _Archive(archive, limits)
    try:
        opened = zipfile.ZipFile(file)
    except _WRONG as error:
        raise bad(f"{error}") from error
    file.opening = False
    with opened:
        members = opened.infolist()
        _check_places(members)
        for info in members:
            budget.member()
            _member(opened, info, tree, limits)


def _check_places(members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse members that share their data, by which a small archive becomes a large one. Some Pythons only warn."""
    end = 0
    for info in sorted(members, key=lambda one: one.header_offset):
        if info.header_offset < end:
            raise bad(f"{shown(info.orig_filename)} shares its data with another member")
        end = info.header_offset + _HEADER_SIZE + info.compress_size


def name_of(info: zipfile.ZipInfo) -> str:
    """Return a member's name with `/` between its parts, whatever system it was made on.

    MS-DOS and Windows have backslashes. Without the flag for UTF-8 a name is in the code page of old PCs, says the
    format; macOS leaves the flag out and writes UTF-8, and others put the right name beside it (field 0x7075).
    """
    name = info.orig_filename
    if not info.flag_bits & _UTF8:
        name = _other_name(info, name)
    return name.replace("\\", "/") if info.create_system in _WINDOWS else name


def _other_name(info: zipfile.ZipInfo, name: str) -> str:
    try:
        raw = name.encode("cp437")
    except UnicodeError:
        return name  # it was given as UTF-8
    at = 0
    while at + 4 <= len(info.extra):
        kind, length = struct.unpack_from("<HH", info.extra, at)
        field, at = info.extra[at + 4 : at + 4 + length], at + 4 + length
        if kind == _UNICODE_NAME and field[:1] == b"\1" and field[1:5] == struct.pack("<I", zlib.crc32(raw)):
            return _as_utf8(field[5:], name)
    return _as_utf8(raw, name) if info.create_system in (_UNIX, _MACOS) else name


def _as_utf8(raw: bytes, name: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return name


def _member(opened: zipfile.ZipFile, info: zipfile.ZipInfo, tree: Tree, limits: Limits) -> None:
    name = name_of(info)
    if info.flag_bits & _ENCRYPTED:
        raise bad(f"{shown(name)} is encrypted")
    if info.compress_type not in _METHODS:
        raise bad(f"{shown(name)} is packed by method {info.compress_type}, which is not known here")
    mode = info.external_attr >> 16 if info.create_system in (_UNIX, _MACOS) else 0
    kind = stat.S_IFMT(mode)
    if name.endswith("/") and kind in (0, stat.S_IFDIR):
        tree.folder(name, stat.S_IMODE(mode) or 0o755)
    elif kind in (0, stat.S_IFREG):
        tree.file(name, stat.S_IMODE(mode) or 0o644, _data(opened, info))
    elif kind == stat.S_IFLNK:
        tree.link(name, _target(opened, info, limits))
    else:
        raise unsafe(f"{shown(name)} is neither a file, a folder nor a link")


def _target(opened: zipfile.ZipFile, info: zipfile.ZipInfo, limits: Limits) -> str:
    target = b""
    for chunk in _data(opened, info):
        target += chunk
        if len(target) > limits.name:
            raise unsafe(f"the link {shown(info.orig_filename)} is too long")
    return target.decode("utf-8", "surrogateescape")


def _data(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    name = shown(info.orig_filename)
    try:
        file = opened.open(info)
    except _WRONG as error:
        raise bad(f"{name}: {error}") from error
    with file:
        while True:
            try:
                chunk = file.read(_CHUNK)
            except _WRONG as error:
                raise bad(f"{name}: {error}") from error
            if not chunk:
                return
            yield chunk
