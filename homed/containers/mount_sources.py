"""Missing mount sources: Docker Engine would create each of them as a directory."""

import os
import re
from collections.abc import Callable

from homed.containers.mappings import VolumeMapping, parse_volume
from homed.containers.spec import ServiceSpec

# As files are named: app.conf, .env, data.sqlite3, docker.sock; not conf.d nor a folder with a slash at its end.
_FILE_NAME = re.compile(r"\.?[^/]*\.[a-zA-Z0-9_-]{1,12}")


def missing(spec: ServiceSpec, exists: Callable[[str], bool] | None = None) -> list[tuple[str, str]]:
    """List the mounts whose missing source must not be created, by field, each with the reason and the remedy."""
    found = []
    for i, text in enumerate(spec.volumes):
        volume = parse_volume(text)
        if not volume.is_path or spec.create_missing or (exists or _exists)(volume.source):
            continue
        if spec.create_missing is False:
            why = "create_missing is false: make it first"
        elif looks_like_a_file(volume):
            why = "its name is a file's: make it first, or set create_missing to true for an empty directory"
        else:
            continue
        found.append((f"volumes[{i}]", f"{volume.source} is not there, and {why}"))
    return found


def looks_like_a_file(volume: VolumeMapping) -> bool:
    """Return whether a mount is meant for a file, judging by its source and target names (pure)."""
    return any(
        _FILE_NAME.fullmatch(path.rpartition("/")[2]) is not None and not path.endswith((".d", "/"))
        for path in (volume.source, volume.target)
    )


def _exists(path: str) -> bool:
    """Return False only if the path certainly does not exist: the engine may see into closed directories."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
