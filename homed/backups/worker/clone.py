"""A tree copied in an instant, where its filesystem shares blocks between files (btrfs, xfs): so a pause is short."""

import fcntl
import os
import stat
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path

from homed.backups.worker import disk, staging
from homed.backups.worker.context import Watch
from homed.errors import BackupError

PREFIX = ".homed-clone-"
_FICLONE = 0x40049409
_BLOCK = 4096


def clone(source: Path, name: str, watch: Watch, *, writable: Sequence[Path] = ()) -> Path | None:
    """A copy of a folder or file that shares its blocks; None, and nothing left, where there can be none.

    It stands beside its source as `name` (with PREFIX) and a suffix of the source's own: the same each time. There is
    none for a mount point, nor where it could only stand in a folder that containers can write (`writable`).
    """
    try:
        place = staging.place(source, "clone", single=not stat.S_ISDIR(source.lstat().st_mode), writable=writable)
    except (OSError, BackupError):
        return None  # whoever reads the source itself will say what is wrong with it
    if place.kind is staging.Kind.INSIDE or place.exposed or not can_clone(place.base):
        return None
    made = place.base / f"{name}-{place.holder.name.rpartition('-')[2]}"
    try:
        remove(made)
    except BackupError:
        return None  # another file has its name: read the original in place
    try:
        if _copy(place.target, made, watch):
            return made
    except BaseException:
        remove(made)
        raise
    remove(made)
    return None


def can_clone(folder: Path) -> bool:
    """Tried on two files without names, as no name of a filesystem tells."""
    try:
        with _nameless(folder) as one, _nameless(folder) as other:
            one.write(bytes(_BLOCK))
            fcntl.ioctl(other.fileno(), _FICLONE, one.fileno())
    except OSError:
        return False
    return True


def remove(made: Path) -> None:
    """BackupError where it cannot be removed; nothing where it is not there."""
    try:
        with disk.folder(made.parent) as above:
            disk.remove((above, made.name))
    except FileNotFoundError:
        return
    except OSError as error:
        raise BackupError(f"{made} cannot be removed: {error.strerror}") from error


def sweep(sources: Iterable[Path], *, writable: Sequence[Path] = ()) -> list[Path]:
    """Remove what killed workers have left of clones of these. Only where no worker runs; returns what was removed."""
    removed = []
    for base in sorted({found for source in sources if (found := _base(source, writable)) is not None}):
        for made in sorted(base.glob(f"{PREFIX}*")):
            with suppress(BackupError):
                remove(made)
                removed.append(made)
    return removed


def _base(source: Path, writable: Sequence[Path]) -> Path | None:
    try:
        return staging.place(source, "clone", writable=writable).base
    except (OSError, BackupError):
        return None


def _nameless(folder: Path) -> FileIO:
    return FileIO(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), "r+b")


def _copy(source: Path, target: Path, watch: Watch) -> bool:
    process = subprocess.Popen(
        ["cp", "-a", "--reflink=always", "--no-target-directory", "--", str(source), str(target)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with watch.run(process):
        done = process.wait() == 0
    watch.check()
    return done
