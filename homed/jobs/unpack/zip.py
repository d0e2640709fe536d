"""Members of a zip archive, judged by what is in it and not by what it says of itself."""

import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final

from homed.jobs.unpack.limits import Budget, Limits, bad, shown, unsafe
from homed.jobs.unpack.tree import Tree

_CHUNK: Final = 1 << 18
# LZMA's own headers may ask for 4 GiB of memory.
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_ENTRY: Final = b"PK\1\2"
_LONGEST_ENTRY: Final = 1024
_UNIX: Final = 3
_ENCRYPTED: Final = 1
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
        for info in opened.infolist():
            budget.member()
            _member(opened, info, tree, limits)


def _member(opened: zipfile.ZipFile, info: zipfile.ZipInfo, tree: Tree, limits: Limits) -> None:
    name = info.orig_filename
    if info.flag_bits & _ENCRYPTED:
        raise bad(f"{shown(name)} is encrypted")
    if info.compress_type not in _METHODS:
        raise bad(f"{shown(name)} is packed by method {info.compress_type}, which is not known here")
    mode = info.external_attr >> 16 if info.create_system == _UNIX else 0
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
