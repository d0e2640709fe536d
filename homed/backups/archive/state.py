"""homed's own state in a backup: the files that a restore reads of it, and how large they may be.

Create, verify, upload and restore all judge by this: what one accepts, the others accept. The database has no limit, as
no restore reads it: it is there to be looked at by hand.
"""

from collections.abc import Mapping
from typing import Final

from homed.backups.records import Backup, Section
from homed.errors import ArchiveError, BackupError

DATABASE: Final = "homed.db"
RECORDS: Final = "records.json"
OVERLAY: Final = "config.json"
CONFIG: Final = "homed.toml"
PREFIX: Final = b"state"
# homed reads each as a whole, so it must have the memory for it.
MAX_BYTES: Final[Mapping[str, int]] = {RECORDS: 64 << 20, OVERLAY: 1 << 20, CONFIG: 1 << 20}


def fault(name: str, kind: str, size: int) -> str | None:
    """Return why a restore would refuse this file of the state; None if it would not, or does not read it.

    `size` is in bytes, holes included.
    """
    limit = MAX_BYTES.get(name)
    if limit is None:
        return None
    if kind not in ("file", "sparse"):
        return f"its {name} is no plain file"
    if size > limit:
        return f"its {name} has {size} bytes, and a restore reads at most {limit}"
    return None


def section_of(backup: Backup) -> Section:
    """Return the section of homed's own state. ArchiveError if there is none: no such backup can be restored."""
    for section in backup.sections:
        if section.kind == "state" and section.members:
            return section
    raise ArchiveError("the backup holds no state of homed's")


def check_made(backup: Backup) -> None:
    """BackupError if the state is missing in a backup that was just made."""
    try:
        section_of(backup)
    except ArchiveError as error:
        raise BackupError(f"the backup was thrown away, as it could not be restored: {error.message}") from error
