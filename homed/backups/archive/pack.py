"""Makes an archive: README, then section by section, and the manifest last."""

import contextlib
import errno
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import msgspec

from homed.backups.archive import manifest, prefixes, tar
from homed.backups.archive.blocks import END, member
from homed.backups.archive.output import Output
from homed.backups.archive.taking import Taking
from homed.backups.records import Backup, Section
from homed.backups.worker.context import Watch
from homed.backups.worker.messages import Seal
from homed.errors import ArchiveError, BackupError, BackupSpaceError


class Packer:
    """A new archive at `path`. In a `with` block: left by an exception, or without `finish`, nothing of it is left.

    `spool` is a file for the manifest's lines; it is made, and gone at the end. `level` is that of ISA-L, 0 to 3.
    BackupError; BackupSpaceError where the disk is full; FileExistsError.
    """

    def __init__(self, path: Path, spool: Path, draft: Backup, *, level: int, seal: Seal | None, watch: Watch):
        self._path = path
        self._spool = spool
        self._draft = draft
        self._level = level
        self._seal = seal
        self._watch = watch
        self._out: Output | None = None
        self._sections: list[Section] = []

    def __enter__(self) -> Self:
        tar.check()
        with _explained():
            self._out = Output(self._path, self._spool, level=self._level, sealed=self._seal)
            try:
                self._readme(self._out)
            except BaseException:
                self._out.abandon()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._out is not None:
            self._out.abandon()
            self._out = None

    def add(self, section: Section, tree: Path, *, exclude: Sequence[str] = ()) -> Section:
        """Take a folder, or a single file, into the archive; returns the section with what became known of it.

        `exclude` are paths, absolute (as the section's `stored` or the tree is) or relative to the tree. A tree that
        is not there (any more) is warned of, and its section is empty. Sockets are not kept; device nodes neither,
        which is warned of.
        """
        fault = prefixes.fault(section)
        if any(one.prefix == section.prefix for one in self._sections):
            fault = f"'{section.prefix}' is there already"
        if fault is not None:
            raise BackupError(f"the backup cannot hold this: {fault}")
        with _explained():
            filled = Taking(self._opened(), self._watch, section, tree, exclude).run()
        self._sections.append(filled)
        return filled

    def finish(self) -> Backup:
        """Write the manifest and sync all. Returns the record, filled."""
        out = self._opened()
        with _explained():
            self._watch.check()
            backup = self._manifest(out)
            backup = msgspec.structs.replace(backup, size=out.close())
        self._out = None
        return backup

    def _opened(self) -> Output:
        if self._out is None:
            raise BackupError("the archive is not open")
        return self._out

    def _readme(self, out: Output) -> None:
        header, padding = member(manifest.README, len(manifest.TEXT), int(self._draft.created_at.timestamp()))
        out.write(header + manifest.TEXT + padding)

    def _manifest(self, out: Output) -> Backup:
        total = out.spool.total
        backup = msgspec.structs.replace(
            self._draft, members=total.members, data_size=total.size, sections=tuple(self._sections)
        )
        first = manifest.header(backup)
        if manifest.record(first, backup.size) != backup:
            raise ArchiveError("its record is not read as it was written")
        out.check(backup)
        last = manifest.last(msgspec.structs.replace(total, sha256=out.spool.digest(first)))
        header, padding = member(manifest.NAME, len(first) + out.spool.length + len(last), int(time.time()))
        out.write(header + first)
        for piece in out.spool.pieces():
            self._watch.check()
            out.write(piece)
        out.write(last + padding + END)
        return backup


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except ArchiveError as error:
        raise BackupError(f"the backup was thrown away, as it could not be restored: {error.message}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BackupSpaceError("there is no space left for the backup") from error
        raise BackupError(f"the backup cannot be written: {error.strerror or error}") from error
