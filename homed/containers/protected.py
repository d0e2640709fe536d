"""Protected paths that no container may mount, whatever the configuration allows: homed's code, secrets and state.

A path is compared by the file system that it lies on and its place in it, so that a bind mount or a second mount of
the same disk does not make it another one.
"""

import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import homed
from homed.config import Config

_SECRETS = (
    "/etc/homed", "/etc/credstore", "/etc/credstore.encrypted", "/run/credstore", "/run/credstore.encrypted",
    "/run/credentials", "/run/homed",
)  # fmt: skip
# Jobs have their directories here, directly or in those that systemd makes for PrivateTmp=.
_JOBS = re.compile(r"(/var)?/tmp/(homed|systemd-private)-.*")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108  compared, not used


class Mount(NamedTuple):
    """A line of mountinfo: `device` is major:minor, `root` the path in its filesystem that is mounted at `point`."""

    device: str
    root: str
    point: str


class Place(NamedTuple):
    """A path identified by its filesystem and its path within it."""

    device: str
    path: str


class Protected(NamedTuple):
    """The protected real paths: `code` is what homed executes, `private` what it stores."""

    code: tuple[str, ...] = ()
    private: tuple[str, ...] = ()

    def conflict(self, real: str, table: "MountTable | None" = None, *, code: bool = True) -> str | None:
        """Return the protected path that a real path equals, lies in, or contains; None if there is none."""
        if _JOBS.fullmatch(f"{real}/") or real in _TEMPORARY:
            return real
        return overlapping(real, (*self.private, *(self.code if code else ())), table)


def of_daemon(config: Config, file: Path, state: Path) -> Protected:
    """Collect the paths of this homed: `file` is its configuration, wherever that lies."""
    backups = config.backups
    named = [
        str(state), str(file.absolute()), config.backups.directory, config.updates.directory,
        os.environ.get("CREDENTIALS_DIRECTORY", ""), config.api.tls.certificate, config.api.tls.key,
        backups.repository.url, backups.repository.password_file, backups.repository.environment_file,
        *(address.removeprefix("unix:") for address in config.api.listen if address.startswith("unix:")),
        *(path for target in backups.targets for path in (target.key_file, target.credentials_file)),
    ]  # fmt: skip
    private = (*_SECRETS, *(path for path in named if path and path.startswith("/")))
    return Protected(tuple(_real(_code())), tuple(_real(private)))


def _code() -> Iterator[str]:
    """Return the paths of the interpreter, its libraries, and homed itself."""
    yield from (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, sys.executable)
    yield from (path for name, path in sysconfig.get_paths().items() if name in ("stdlib", "platstdlib", "purelib"))
    yield os.path.dirname(os.path.realpath(sys.executable))
    yield os.path.dirname(os.path.abspath(homed.__file__))
    yield from (path for path in sys.path if os.path.isabs(path))


def _real(paths: Iterable[str]) -> list[str]:
    # A root directory would refuse everything; the other paths cover what lies below it.
    found = dict.fromkeys(one for path in paths for one in (os.path.normpath(path), os.path.realpath(path)))
    return [path for path in found if path not in ("/", "//")]


class MountTable:
    """A snapshot of this process's mounts, with a cache of the locations of each path."""

    def __init__(self) -> None:
        self._mounts = read_mounts()
        self._known: dict[str, list[Place]] = {}

    def places(self, path: str) -> list[Place]:
        if path not in self._known:
            self._known[path] = places(path, self._mounts)
        return self._known[path]


def overlapping(real: str, paths: Iterable[str], table: MountTable | None = None) -> str | None:
    """Return the first of `paths` that overlaps with `real`, by name or by mount."""
    table = table or MountTable()
    given = table.places(real)
    for path in paths:
        if inside(real, path) or inside(path, real) or _same_file(real, path):
            return path
        if any(_meet(one, other) for other in table.places(path) for one in given):
            return path
    return None


def inside(path: str, folder: str) -> bool:
    folder = folder.rstrip("/")
    return not folder or path == folder or path.startswith(f"{folder}/")


def read_mounts() -> list[Mount]:
    """Read this process's mounts, the latest last; empty if /proc is unavailable."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            return [mount for line in lines if (mount := _mount(line)) is not None]
    except OSError:
        return []


def places(real: str, mounts: Iterable[Mount]) -> list[Place]:
    """List the locations visible through a path: its own, and the roots of the mounts below it (pure)."""
    own: Mount | None = None
    found = []
    for mount in mounts:
        if inside(real, mount.point):
            if own is None or len(mount.point) >= len(own.point):  # a later one hides an earlier one
                own = mount
        elif inside(mount.point, real):
            found.append(Place(mount.device, mount.root))
    if own is not None:
        rest = real[len(own.point.rstrip("/")) :]
        found.append(Place(own.device, f"{own.root.rstrip('/')}{rest}" or "/"))
    return found


def _mount(line: str) -> Mount | None:
    fields = line.split()
    return Mount(fields[2], _plain(fields[3]), _plain(fields[4])) if len(fields) > 4 else None


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _meet(one: Place, other: Place) -> bool:
    return one.device == other.device and (inside(one.path, other.path) or inside(other.path, one.path))


def _same_file(one: str, other: str) -> bool:
    """Return whether two names refer to one file, as hard links do."""
    try:
        first, second = os.stat(one), os.stat(other)
    except OSError:
        return False
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
