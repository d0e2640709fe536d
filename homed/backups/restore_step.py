"""The daemon's step of a restore, stored on disk so that it can be completed after a crash."""

from pathlib import Path

import msgspec

from homed import atomic
from homed.errors import BackupError

STEP = "restore.json"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon's work once the trees are swapped, stored on disk so that it can be completed after a crash.

    `file_settings`: the owner's file is one of the trees, as it always was in older versions.
    """

    held: tuple[str, ...]
    services: tuple[str, ...]
    config: bool
    keys: bool
    file_settings: bool = True


def write_step(work: Path, step: Step) -> None:
    """Store the step durably. Raises: BackupError."""
    try:
        atomic.write(work / STEP, msgspec.json.encode(step))
    except OSError as error:
        raise BackupError(f"the restore cannot be written down: {error.strerror}") from error


def read_step(work: Path) -> Step:
    """Read the stored step; return an empty one if the restore had not got that far."""
    try:
        return msgspec.json.decode((work / STEP).read_bytes(), type=Step)
    except (OSError, msgspec.MsgspecError):
        return Step(held=(), services=(), config=False, keys=False)
