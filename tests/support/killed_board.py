"""A board that is killed and started again: what it is told of services lies on the disk, as homed's store does."""

import asyncio
import json
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from homed import atomic
from homed.backups.launcher import Start
from homed.backups.ports import Mode
from homed.backups.records import Operation
from homed.backups.workplaces import interrupted
from tests.support.backup_board import BackupBoard, Folders

_PATIENCE = 20.0


def write(path: Path, value: object) -> None:
    """For another process to read: never half of it."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(value))
    beside.rename(path)


class KeptFolders(Folders):
    """Their records in a file, each written by itself; `put` does not mind being killed in between."""

    def __init__(self, root: Path, file: Path):
        super().__init__(root)
        self._file = file
        if file.exists():
            self.stored = {name: record.encode() for name, record in json.loads(file.read_text()).items()}

    async def put(self, records: Mapping[str, bytes]) -> None:
        for name, record in records.items():
            self.stored[name] = record
            self.keep()
            await asyncio.sleep(0.001)

    def keep(self) -> None:
        atomic.write(self._file, json.dumps({name: record.decode() for name, record in self.stored.items()}).encode())

    async def captures(self) -> Sequence[object]:  # type: ignore[override]
        return [one for one in self.made if one.service in self.stored]


def board(root: Path, start: Start) -> BackupBoard:
    """The folders in `root/data` are the data of the services `one`, `two` …, of which each second one is paused."""
    made = BackupBoard(root, start=start)
    made.services = kept = KeptFolders(root / "volumes", root / "services.json")
    stored = dict(kept.stored)
    for i, path in enumerate(sorted((root / "data").iterdir())):
        if not path.name.startswith("."):
            kept.add(path.name, path, mode=Mode.PAUSED if i % 2 else Mode.LIVE)
    kept.stored = stored
    return made


async def main(root: Path, start: Start, act: str, *arguments: str) -> None:
    """`create`, `restore NAME` or `look`: ends what was interrupted; `root/told` says what became of it."""
    logging.basicConfig(level=logging.WARNING)
    one = board(root, start)
    ended: Operation | None = None
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with one:
        await _settled(one)
        write(root / "ready", os.getpid())
        if act != "look":
            doing = asyncio.create_task(one.create(name="b") if act == "create" else _restored(one, *arguments))
            stop = asyncio.create_task(stopping.wait())
            await asyncio.wait((doing, stop), return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            ended = doing.result() if doing.done() else None
            doing.cancel()
        told = {
            "backups": [backup.name for backup in one.backups.all()],
            "held": sorted(one.services.held),
            "paused": sorted(one.services.paused),
            "state": str(ended.state) if ended else None,
            "failure": ended.failure.code if ended and ended.failure else None,
        }
        write(root / "told", told)


async def _restored(one: BackupBoard, name: str) -> Operation:
    return await one.restore(name, config=False)


async def _settled(one: BackupBoard) -> None:
    """What the start has found is ended, and nobody is held for it."""
    work = one.state / "backup-work"
    async with asyncio.timeout(_PATIENCE):
        while one.services.held or interrupted(work) or one.backups.operations.running or one.backups.catalog.unknown():
            await asyncio.sleep(0.005)
