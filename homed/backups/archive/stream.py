"""The tar in an archive: what is sealed is opened, what is compressed is unpacked, and what goes wrong is explained."""

import contextlib
import errno
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from isal import igzip_threaded, isal_zlib

from homed.backups.archive import seal
from homed.backups.worker.context import Watch
from homed.backups.worker.messages import Unlock
from homed.errors import ArchiveError, BackupError, BackupSpaceError

_igzip: Final[Any] = igzip_threaded  # it has no types
_PIECE: Final = 1 << 20
# What the unpacking raises where the archive is not as it was written.
_UNREADABLE: Final[Any] = isal_zlib.error  # typed as what it is not, a value
DAMAGE: Final[tuple[type[Exception], ...]] = (EOFError, gzip.BadGzipFile, zlib.error, _UNREADABLE)


class Stream:
    """The tar in an archive: opened where it is sealed, unpacked. Where `counted`, progress goes by what is read of the
    archive.
    """

    def __init__(self, path: Path, unlock: Unlock | None, watch: Watch, *, counted: bool = True):
        self._watch = watch
        self._advances = counted
        raw = seal.opened(path, unlock) if seal.begins_sealed(path) else path.open("rb", buffering=0)
        self._counted = _Counted(raw)
        self._told = 0
        try:
            self._file: Any = _igzip.open(self._counted, "rb", threads=1)
        except BaseException:
            self._counted.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        finally:
            self._counted.close()

    def read(self, size: int = _PIECE) -> bytes:
        """b"" at the end, which is told only where the archive's own sums were right."""
        self._watch.check()
        data: bytes = self._file.read1(size)
        count = self._counted.count
        if self._advances:
            self._watch.advance(bytes=count - self._told)
            self._told = count
        return data


class _Counted(io.RawIOBase):
    def __init__(self, raw: "BinaryIO | io.FileIO"):
        self._raw = raw
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        count: int = self._raw.readinto(buffer) or 0  # type: ignore[union-attr]
        self.count += count
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._raw.close()


@contextlib.contextmanager
def explained(act: str) -> Iterator[None]:
    """`act` is what is done with the backup: `verify`, `unpack`."""
    try:
        yield
    except DAMAGE as error:
        raise ArchiveError(f"the archive is damaged: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BackupSpaceError(f"there is no space left to {act} the backup") from error
        if error.errno == errno.EIO:
            raise ArchiveError("the archive cannot be read from its disk") from error
        raise BackupError(f"cannot {act} the backup: {error.strerror or error}") from error
