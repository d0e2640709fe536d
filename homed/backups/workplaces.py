"""The working directories of operations, removed when they end unless a restore has work left to do."""

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
    """Provide a working directory for one operation, cleared at the end of the block. Raises: BackupError."""
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
    """Remove an operation's directory, except for files that are still needed."""
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
    """Return the directories of restores that are neither committed nor undone."""
    return sorted(path.parent for path in root.glob(f"*/{JOURNAL}"))


def unfinished(root: Path) -> list[Path]:
    """Return the directories of ended restores with leftovers that could not be removed."""
    return sorted(path.parent for path in root.glob(f"*/{LEFT}") if not (path.parent / JOURNAL).exists())
