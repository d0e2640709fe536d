"""Where the trees of a backup stand in its archive, and what a name below one of them may look like."""

import posixpath
import re
from typing import Final

from homed.backups.records import Section

_PREFIX: Final = re.compile(rb"state|volumes/[A-Za-z0-9][A-Za-z0-9_.-]{0,254}|paths/(?:0|[1-9][0-9]{0,5})")
_KINDS: Final = {"state": "state", "volume": "volumes", "path": "paths"}
SINGLE: Final = b"/file"
# tar reads what is deeper, but can lay it out no more: the kernel takes no longer path at once.
LONGEST: Final = 4095


def prefix_of(name: bytes) -> bytes | None:
    """The prefix that a member's name has; None where it has none that an archive may hold."""
    first = name.partition(b"/")[0]
    if first == b"state":
        return first
    parts = name.split(b"/", 2)
    prefix = b"/".join(parts[:2])
    return prefix if _PREFIX.fullmatch(prefix) else None


def fault(section: Section) -> str | None:
    """Why a section cannot be one: its prefix and what it says that it is do not go together."""
    prefix = section.prefix.encode("utf-8", "surrogatepass")
    words = section.prefix.split("/")
    if not _PREFIX.fullmatch(prefix) or _KINDS.get(section.kind) != words[0]:
        return f"a {section.kind} cannot stand under '{section.prefix}'"
    if section.kind == "volume" and section.name != words[1]:
        return f"the volume '{section.name}' stands under '{section.prefix}'"
    if section.kind == "path" and not _is_path(section.name):
        return f"'{section.name}' is no absolute path"
    return None


def _is_path(name: str) -> bool:
    plain = name.startswith("/") and not name.startswith("//") and "\0" not in name
    return plain and posixpath.normpath(name) == name
