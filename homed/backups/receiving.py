"""Archives that come from elsewhere: written beside the backups, and backups only when they were read to their end."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from homed import atomic
from homed.backups import catalog, names
from homed.backups.archive import formats, seal
from homed.backups.catalog import Catalog
from homed.backups.failures import is_full
from homed.backups.records import Backup, Type
from homed.errors import (
    ArchiveError,
    BackupConflictError,
    BackupError,
    BackupSpaceError,
    NotFoundError,
    TooLargeError,
)

_RESERVE = 64 << 20


class Receiving:
    """`most` gives how many bytes an archive may have."""

    def __init__(self, shelf: Catalog, most: Callable[[], int]):
        self._catalog = shelf
        self._most = most

    def check(self, name: str) -> None:
        """NotFoundError where it is no name of an archive, BackupConflictError where there is one of that name."""
        if not names.known(name).extension:
            raise NotFoundError(f"{name} is not the name of an archive", code="BACKUP_NOT_FOUND")
        if self._catalog.find(name) is not None or (self._catalog.folder / name).exists():
            raise BackupConflictError(f"there is a backup {name} already", code="BACKUP_EXISTS")

    async def take(self, name: str, chunks: AsyncIterator[bytes]) -> Path:
        """Write what comes to a file of its own, and return it. Nothing is left where this fails or is cancelled."""
        partial = self._catalog.folder / f"{catalog.PARTIAL}{os.urandom(8).hex()}"
        head: bytes | None = b""
        try:
            with partial.open("xb", buffering=0) as file:
                os.fchmod(file.fileno(), 0o600)
                size = 0
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self._most():
                        raise TooLargeError(f"an archive may have {self._most()} bytes here: see backups.max_upload")
                    if head is not None and len(head := head + chunk[: formats.HEAD]) >= formats.HEAD:
                        formats.check(name, head)  # before waiting for the rest
                        head = None
                    await asyncio.to_thread(self._write, file.fileno(), chunk)
                if head is not None:
                    formats.check(name, head)
                await asyncio.to_thread(os.fsync, file.fileno())
        except OSError as error:
            partial.unlink(missing_ok=True)
            kind = BackupSpaceError if is_full(error) else BackupError
            raise kind(f"the archive cannot be written: {error.strerror}") from error
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return partial

    def _write(self, descriptor: int, chunk: bytes) -> None:
        free = os.fstatvfs(descriptor)
        if free.f_bavail * free.f_frsize < _RESERVE + len(chunk):
            raise BackupSpaceError("the disk is nearly full: nothing more is taken")
        view = memoryview(chunk)
        while view:
            view = view[os.write(descriptor, view) :]

    def unopened(self, name: str, partial: Path) -> Backup:
        """What can be said of a sealed archive that nobody opened. ArchiveError where it is not one."""
        if not seal.is_sealed(partial):
            raise ArchiveError(f"what came as {name} is not a sealed archive", code="BACKUP_UNSAFE")
        return Backup(
            name=name,
            type=Type.FULL,
            created_at=names.known(name).at,
            size=partial.stat().st_size,
            encrypted=True,
            uploaded=True,
        )

    def publish(self, partial: Path, backup: Backup) -> None:
        """The record first: the archive's name is what makes it a backup. BackupConflictError, BackupError."""
        folder = self._catalog.folder
        # Asked anew: it may have come by hand while this one was read, and its record must stay its own.
        self.check(backup.name)
        catalog.write(folder, backup)
        try:
            os.link(partial, folder / backup.name)  # and not rename: what came meanwhile is not written over
            atomic.sync_folder(folder)
        except OSError as error:
            if not (folder / backup.name).exists():
                (folder / f"{backup.name}{catalog.RECORD}").unlink(missing_ok=True)
            raise BackupError(f"the archive cannot be named: {error.strerror}") from error
        self._catalog.took(backup)
