"""systemd credentials: files that the service manager hands to the unit."""

import os
from pathlib import Path
from typing import Final

# homed.service sets this for each credential that the owner may give but did not: systemd would report each missing one
# at every start.
ABSENT: Final = b"none"


def directory() -> Path | None:
    """Return the directory of the unit's credentials, None if the unit has none."""
    path = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(path) if path else None


def find(name: str, where: Path | None) -> Path | None:
    """Return the path of a credential in the directory `where`, None if it was not given. Raises: OSError."""
    if where is None:
        return None
    path = where / name
    try:
        with path.open("rb") as file:
            return None if file.read(len(ABSENT) + 1).strip() == ABSENT else path
    except FileNotFoundError:
        return None
