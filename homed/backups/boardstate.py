"""homed's own state in a backup: written into a folder as files, and read again from what a backup had."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from homed.backups.archive.state import CONFIG, DATABASE, OVERLAY, RECORDS
from homed.backups.failures import is_full
from homed.backups.ports import Services
from homed.errors import ArchiveError, BackupError, BackupSpaceError
from homed.store import snapshot
from homed.store.base import Store, pages


class Saved(NamedTuple):
    """What a backup had of homed's own: services as they are stored, other records by bucket, the configuration."""

    services: Mapping[str, bytes]
    buckets: Mapping[str, Mapping[str, bytes]]
    overlay: bytes | None
    has_config: bool


class BoardState:
    """`state` is homed's state directory, `config_file` the owner's file; `buckets` are kept beside the services."""

    def __init__(self, state: Path, config_file: Path, store: Store, services: Services, buckets: Sequence[str]):
        self.config_file = config_file
        self._state = state
        self._store = store
        self._services = services
        self._buckets = buckets

    async def write(self, folder: Path) -> None:
        """All of it as it is now, into a folder that is made anew. BackupError, BackupSpaceError."""
        services = self._services.records()
        try:
            records = await asyncio.to_thread(_Records, folder)
            try:
                await asyncio.to_thread(records.add, "services", services.items())
                for bucket in self._buckets:
                    await asyncio.to_thread(records.add, bucket, ())
                    async for page in pages(self._store, bucket):
                        await asyncio.to_thread(records.add, bucket, [(one.key, one.value) for one in page])
                await asyncio.to_thread(records.end)
            finally:
                await asyncio.to_thread(records.close)
            await asyncio.to_thread(self._copy, folder)
        except OSError as error:
            kind = BackupSpaceError if is_full(error) else BackupError
            raise kind(f"the state cannot be copied: {error.strerror}") from error

    def _copy(self, folder: Path) -> None:
        snapshot.copy(self._state / DATABASE, folder / DATABASE)
        for source, name in ((self._state / OVERLAY, OVERLAY), (self.config_file, CONFIG)):
            with contextlib.suppress(FileNotFoundError), source.open("rb") as file, _created(folder / name) as copy:
                shutil.copyfileobj(file, copy)

    async def commit(self) -> None:
        """Make the restored state permanent on a board whose database was lost. Raises: StoreError."""
        await self._store.start_anew()

    async def put(self, saved: Saved, *, keys: bool) -> None:
        """The records of the other buckets, where they are asked for: what is there already stays."""
        if not keys:
            return
        for bucket in self._buckets:
            known = {one.key for one in await self._store.list(bucket)}
            for key, value in saved.buckets.get(bucket, {}).items():
                if key not in known:
                    await self._store.put(bucket, key, value, 0)


def read(folder: Path) -> Saved:
    """From the files of a backup, verified. ArchiveError where they are not what homed writes."""
    try:
        records = msgspec.json.decode((folder / RECORDS).read_bytes(), type=dict[str, dict[str, str]])
        overlay = folder / OVERLAY
        return Saved(
            services={name: value.encode() for name, value in records.pop("services", {}).items()},
            buckets={
                bucket: {key: value.encode() for key, value in found.items()} for bucket, found in records.items()
            },
            overlay=overlay.read_bytes() if overlay.exists() else None,
            has_config=(folder / CONFIG).exists(),
        )
    except (OSError, msgspec.MsgspecError, UnicodeError) as error:
        raise ArchiveError(f"homed's state in the backup cannot be read: {error}") from error


class _Records:
    """records.json in a folder that is made anew, written record by record, so that memory holds a page at most."""

    def __init__(self, folder: Path):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        self._file = _created(folder / RECORDS)
        self._bucket: str | None = None
        self._between = b""

    def add(self, bucket: str, records: Iterable[tuple[str, bytes]]) -> None:
        """Write records of a bucket; those of one bucket follow each other."""
        if bucket != self._bucket:
            self._file.write((b"{\n" if self._bucket is None else b"\n},\n") + msgspec.json.encode(bucket) + b": {")
            self._bucket, self._between = bucket, b"\n"
        for key, value in records:
            encode = msgspec.json.encode
            self._file.write(self._between + encode(key) + b": " + encode(value.decode()))
            self._between = b",\n"

    def end(self) -> None:
        self._file.write(b"\n}\n}\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _created(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")
