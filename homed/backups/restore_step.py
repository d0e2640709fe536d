"""homed's part of a restore, kept on the disk: so that a homed that was killed before it can do it later."""

from pathlib import Path

import msgspec

from homed import atomic
from homed.errors import BackupError

STEP = "restore.json"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What homed has to do once the trees are swapped: kept on the disk, so that a homed that was killed can.

    `file_settings`: the owner's file is one of the trees. Older homeds had it always so.
    """

    held: tuple[str, ...]
    services: tuple[str, ...]
    config: bool
    keys: bool
    file_settings: bool = True


def write_step(work: Path, step: Step) -> None:
    """BackupError if it cannot be written."""
    try:
        atomic.write(work / STEP, msgspec.json.encode(step))
    except OSError as error:
        raise BackupError(f"the restore cannot be written down: {error.strerror}") from error


def read_step(work: Path) -> Step:
    """What was to be done there; nothing, where it had not come so far."""
    try:
        return msgspec.json.decode((work / STEP).read_bytes(), type=Step)
    except (OSError, msgspec.MsgspecError):
        return Step(held=(), services=(), config=False, keys=False)
