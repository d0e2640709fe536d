"""An archive to be copied, and what is told while it is."""

import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from homed.backups.records import Backup, Progress, Type
from homed.backups.worker import copies
from homed.backups.worker.context import Context
from homed.backups.worker.messages import Copy
from tests.support.tools import program

MIB = 1 << 20
NAME = "board-20260102-030405.tar.gz"
CONTENT = random.Random(11).randbytes(6 * MIB + 7)


@dataclass
class Copying:
    """Copies `archive` to a target of these settings; `told` and `warned` are what was said meanwhile."""

    folder: Path
    content: bytes = CONTENT
    told: list[Progress] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.archive = self.folder / NAME
        self.archive.write_bytes(self.content)
        self.work = self.folder / "work"
        self.work.mkdir()
        self.watch = Context(self.told.append, self.warned.append)
        at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        self.record = Backup(name=NAME, type=Type.FULL, created_at=at, size=len(self.content))

    def run(self, settings: Mapping[str, str], *, stall: float = 20.0) -> None:
        request = Copy(
            name=NAME, path=str(self.archive), work=str(self.work), settings=settings, record=self.record
        )  # fmt: skip
        copies.copy(request, self.watch, wait=lambda attempt: 0.05, stall=stall, rclone=rclone())


def rclone() -> str:
    return shutil.which("rclone") or str(program("rclone", "usr/bin/rclone"))


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process(os.getpid()).children() if each.name() == "rclone"]
