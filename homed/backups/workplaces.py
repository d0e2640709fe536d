"""The folders of operations: one each, removed when it ends, unless a restore left something to be done later."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from homed.errors import BackupError

JOURNAL = "journal.json"
"""A restore that is not decided: its services must not see half of it."""
LEFT = "leftovers.json"
"""A restore that has ended, and could not remove all: this keeps nobody waiting."""


@asynccontextmanager
async def workplace(root: Path, id: str) -> AsyncIterator[Path]:
    """A folder for one operation, cleared when the block is left. BackupError."""
    path = root / id
    try:
        await asyncio.to_thread(os.makedirs, path, 0o700)
    except OSError as error:
        raise BackupError(f"{path} cannot be made: {error.strerror}") from error
    try:
        yield path
    finally:
        await clear(path)


async def clear(work: Path) -> None:
    """Remove an operation's folder; what is still needed in it stays."""
    await asyncio.to_thread(_clear, work)


def _clear(work: Path) -> None:
    if (work / JOURNAL).exists():
        return
    if not (work / LEFT).exists():
        shutil.rmtree(work, ignore_errors=True)
        return
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LEFT:
            with contextlib.suppress(OSError):
                path.unlink()


def interrupted(root: Path) -> list[Path]:
    """The folders of restores that are neither done nor undone."""
    return sorted(path.parent for path in root.glob(f"*/{JOURNAL}"))


def unfinished(root: Path) -> list[Path]:
    """The folders of restores that have ended, with something that could not be removed."""
    return sorted(path.parent for path in root.glob(f"*/{LEFT}") if not (path.parent / JOURNAL).exists())
