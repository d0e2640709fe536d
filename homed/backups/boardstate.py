"""homed's own state in a backup: written into a folder as files, and read again from what a backup had."""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from homed.backups.failures import is_full
from homed.backups.ports import Services
from homed.errors import ArchiveError, BackupError, BackupSpaceError
from homed.store import snapshot
from homed.store.base import Store

DATABASE, OVERLAY, CONFIG, RECORDS = "homed.db", "config.json", "homed.toml", "records.json"


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
        records: dict[str, dict[str, str]] = {
            "services": {name: value.decode() for name, value in self._services.records().items()}
        }
        for bucket in self._buckets:
            records[bucket] = {one.key: one.value.decode() for one in await self._store.list(bucket)}
        try:
            await asyncio.to_thread(self._write, folder, json.dumps(records, indent=1).encode())
        except OSError as error:
            kind = BackupSpaceError if is_full(error) else BackupError
            raise kind(f"the state cannot be copied: {error.strerror}") from error

    def _write(self, folder: Path, records: bytes) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        snapshot.copy(self._state / DATABASE, folder / DATABASE)
        _write(folder / RECORDS, records)
        for source, name in ((self._state / OVERLAY, OVERLAY), (self.config_file, CONFIG)):
            with contextlib.suppress(FileNotFoundError):
                _write(folder / name, source.read_bytes())

    async def commit(self) -> None:
        """End the state of a board whose database was lost: what was put is its own from now on. StoreError."""
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


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)
