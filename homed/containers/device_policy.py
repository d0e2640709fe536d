"""The device policy: an allow-list of patterns, matched against the real path of a device."""

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from posixpath import normpath

_MAX_NODES = 1024
_CONSOLES = "/sys/class/tty/console/active"


def refusal(device: str, patterns: Sequence[str], resolve: Callable[[str], str]) -> str | None:
    """Explain why a device is not allowed; None if it is. A directory is allowed if all devices in it are."""
    try:
        real = resolve(device)
        nodes = list(_nodes(real))
    except FileNotFoundError:
        # The device is checked again when the container is made, which fails without it.
        nodes = [_flat(device) if real == normpath(_flat(device)) else real]
    except OSError as error:
        return f"{device} cannot be looked at: {error.strerror}"
    if len(nodes) > _MAX_NODES:
        return f"{device} has over {_MAX_NODES} devices"
    for node in nodes:
        if not all(_matches(name, patterns) for name in _names(node)):
            return f"{node} is not in containers.devices"
    return None


def _flat(path: str) -> str:
    return normpath(f"/{path.lstrip('/')}")


def _nodes(real: str) -> Iterator[str]:
    """Return the path, or all entries of a directory: the engine passes every device in it."""
    if not stat.S_ISDIR(os.stat(real).st_mode):
        yield real
        return
    empty = True
    for folder, _, names in os.walk(real):
        for name in names:
            empty = False
            yield os.path.realpath(f"{folder}/{name}")
    if empty:
        yield real


def _names(node: str) -> set[str]:
    """Return the real path, and the kernel's name for the device behind it."""
    try:
        found = os.stat(node)
    except OSError:
        return {node}
    if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        return {node}
    kind = "block" if stat.S_ISBLK(found.st_mode) else "char"
    number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    try:
        with open(f"/sys/dev/{kind}/{number}/uevent", encoding="utf-8", errors="replace") as lines:
            named = {f"/dev/{line.strip().removeprefix('DEVNAME=')}" for line in lines if line.startswith("DEVNAME=")}
    except OSError:
        # A disk under another name must not pass by that name, whatever the kernel reports.
        named = {f"/dev/{kind}/{number}"} if kind == "block" else set()
    return {node, *named}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    if name in patterns:
        return True
    # A wildcard never matches the console of the kernel and the boot loader.
    return name not in _consoles() and any(_pattern(pattern).fullmatch(name) for pattern in patterns)


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    """Compile a shell pattern: `*` stays within a directory."""
    return re.compile("".join({"*": "[^/]*", "?": "[^/]"}.get(sign) or re.escape(sign) for sign in pattern))


def _consoles() -> set[str]:
    try:
        with open(_CONSOLES, encoding="ascii", errors="replace") as file:
            return {f"/dev/{name}" for name in file.read(4096).split()}
    except OSError:
        return set()
