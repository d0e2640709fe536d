"""The output file of an archive: compressed, optionally encrypted, and verified while it is written.

All data passes through the parser and the checks of a verification, which also record each member for the manifest:
so an archive that could not be restored is never completed.
"""

import contextlib
import os
from pathlib import Path
from typing import Any, BinaryIO, Final

from isal import igzip_threaded

from homed.backups.archive import manifest, seal
from homed.backups.archive.follow import Entry, Follower
from homed.backups.archive.safety import Checks
from homed.backups.archive.spool import Spool
from homed.backups.records import Backup
from homed.backups.worker.messages import Seal
from homed.errors import ArchiveError

_igzip: Final[Any] = igzip_threaded  # it has no types
_THREADS: Final = 4


class Output:
    """An archive file at `path`, mode 0600. `level` is ISA-L's. End it by `close`, or by `abandon`, which removes it.

    `offset` is the position of the next byte in the tar. Raises: OSError; BackupError, if encryption fails;
    ArchiveError, if the data would not pass verification.
    """

    def __init__(self, path: Path, spool: Path, *, level: int, sealed: Seal | None):
        self.spool = Spool(spool)
        self.offset = 0
        self._checks = Checks(self.spool)
        self._reader = Follower(self._note, last=manifest.NAME)
        self._path = path
        self._sealed = sealed is not None
        self._raw: BinaryIO | None = None
        self._out: Any = None
        try:
            self.spool.open()
            self._raw = seal.create(path, sealed) if sealed is not None else _create(path)
            self._open(self._raw, level)
        except BaseException:
            self.abandon()
            raise

    def _open(self, raw: BinaryIO, level: int) -> None:
        threads = max(1, min(_THREADS, os.cpu_count() or 1))
        self._out = _igzip.open(_AfterHeader(raw), "wb", compresslevel=level, threads=threads)

    def write(self, part: bytes | memoryview) -> None:
        self._out.write(part)
        self.offset += len(part)
        if not self._reader.ended:
            self._reader.feed(bytes(part))

    def check(self, backup: Backup) -> None:
        """Compare the written data with the future manifest, before that is written. Raises: ArchiveError."""
        if not self._reader.between:
            raise ArchiveError("its last member is not whole")
        self._checks.finish(backup)

    def _note(self, entry: Entry) -> None:
        self._checks.see(entry)
        self.spool.add(manifest.line(entry.name, entry.kind, entry.size, entry.digest), entry.size)

    def close(self) -> int:
        """All of it is on the disk then. Returns its size in bytes."""
        assert self._raw is not None
        self._out.close()
        if not self._sealed:
            self._raw.flush()
            os.fsync(self._raw.fileno())
        self._raw.close()
        self.spool.close()
        return self._path.stat().st_size

    def abandon(self) -> None:
        """What fails here follows from what failed before; what counts is that no thread, process or file is left."""
        if self._raw is not None:
            with contextlib.suppress(Exception):
                # Not just closed: a sealed one would be ended as if it were whole.
                self._raw.__exit__(BaseException, None, None)
            self._path.unlink(missing_ok=True)
        if self._out is not None:
            with contextlib.suppress(Exception):
                self._out.close()
        self.spool.close()


class _AfterHeader:
    """A file that writes the gzip header with the data behind it.

    ISA-L's writer writes the header while it is constructed. If that fails, as on a full disk, what is left of it fails
    again when it is collected, where nobody can catch it.
    """

    def __init__(self, raw: BinaryIO):
        self._raw = raw
        self._header: bytes | None = None

    def write(self, data: bytes) -> int:
        if self._header is None:
            self._header = bytes(data)
            return len(data)
        if self._header:
            self._raw.write(self._header)
            self._header = b""
        return self._raw.write(data)

    def flush(self) -> None:
        self._raw.flush()


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb", buffering=0)
