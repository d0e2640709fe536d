"""What a service mounts, as a backup sees it: what is captured, where it lies, and what is left out with why.

Of what is left out the path is told too, where there is one: the service writes there all the same.
"""

import os
import posixpath
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from homed.containers import policy
from homed.containers.mappings import VolumeMapping
from homed.containers.model import Volume
from homed.containers.protected import Protected, inside
from homed.model import Source

# Of the options of a local volume: these mount something from elsewhere in the place of its folder.
_FROM_ELSEWHERE = ("device", "o", "type")
_EXCLUDED = "its service excludes it by label"
_KINDS = (
    (stat.S_ISSOCK, "it is a socket"), (stat.S_ISCHR, "it is a device"), (stat.S_ISBLK, "it is a device"),
    (stat.S_ISFIFO, "it is a pipe"),
)  # fmt: skip


def mounted(mappings: Iterable[VolumeMapping]) -> tuple[list[str], list[str]]:
    """The names of the volumes and the paths that these mount, each once."""
    named = {_spelled(mapping.name) if mapping.is_path else mapping.name: mapping.is_path for mapping in mappings}
    return [name for name, is_path in named.items() if not is_path], [
        name for name, is_path in named.items() if is_path
    ]


def _spelled(path: str) -> str:
    """Normalize an absolute path: `/srv/data` for `/srv//data/`."""
    return "/" + posixpath.normpath(path).lstrip("/")


def of_volume(name: str, volume: Volume | None, exclude: frozenset[str]) -> Source:
    if volume is None:
        return Source("volume", name, "", "there is no such volume yet")
    return Source("volume", name, volume.path, _EXCLUDED if name in exclude else why_not(volume))


def why_not(volume: Volume) -> str:
    """Why a volume's folder is not where its data is; empty where it is."""
    if volume.driver != "local":
        return f"its driver is '{volume.driver}': only local volumes are captured"
    elsewhere = {key: volume.options[key] for key in _FROM_ELSEWHERE if volume.options.get(key)}
    if elsewhere:
        return f"it is mounted from elsewhere ({', '.join(f'{k}={v}' for k, v in elsewhere.items())})"
    return ""


def of_path(name: str, protected: Protected, engine_socket: str, exclude: frozenset[str]) -> Source:
    """Looks at the board: on a thread, since a disk or a server may hang."""
    real = policy.real_path(name)
    excluded = name in {_spelled(one) if one.startswith("/") else one for one in exclude}
    return Source("path", name, real, _EXCLUDED if excluded else _why_no_path(real, protected, engine_socket))


def _why_no_path(real: str, protected: Protected, engine_socket: str) -> str:
    if policy.is_the_systems(real, protected):
        return "it is the system's"
    try:
        mode = os.stat(real).st_mode
    except FileNotFoundError:
        return "it is not there"
    except OSError as error:
        return f"it cannot be looked at: {error.strerror}"
    for is_kind, why in _KINDS:
        if is_kind(mode):
            return why
    if engine_socket and policy.real_path(engine_socket).startswith(f"{real}/"):
        return "it holds Docker's socket"
    return ""


def anonymous(inspection: Mapping[str, Any], named: Iterable[str]) -> list[Source]:
    """The volumes that a container has only because its image wants them."""
    known = set(named)
    return [
        Source(
            "volume",
            mount["Name"],
            mount.get("Source") or "",
            f"it has no name of its own: mount a volume at {mount['Destination']}",
        )
        for mount in inspection.get("Mounts") or ()
        if mount.get("Type") == "volume" and mount.get("Name") not in known
    ]


def touches(inspection: Mapping[str, Any], paths: Sequence[str]) -> bool:
    """Whether a container mounts one of these, or something in it; or can write to it, through a folder above it."""
    for mount in inspection.get("Mounts") or ():
        if not mount.get("Source"):
            continue
        source = policy.real_path(mount["Source"])
        for path in paths:
            if inside(source, path) or (mount.get("RW") and inside(path, source)):
                return True
    return False
