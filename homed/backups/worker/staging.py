"""Where a tree is staged: so that one rename puts it in the place of its target, and no container can reach it."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from homed.backups.worker import disk
from homed.errors import ArchiveError, BackupConflictError, BackupError

STAGED = ".homed-new-"
_TREE, _SINGLE = "new", "file"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MOST_LINKS = 40
_MOST_NAMED = 20
BLOCKED = "BACKUP_TARGET_BLOCKED"


class Kind(StrEnum):
    """`beside`: in another folder of the target's filesystem. `inside`: in the target, which is a mount point."""

    BESIDE = "beside"
    INSIDE = "inside"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where the new tree of one target is laid. `target` has no links in it any more.

    `holder` is a folder of homed's own in `base`, which is there already. `parents` are the folders above the target
    that are missing, the uppermost first. `single`: the tree is one file. `exposed`: containers that run may reach the
    staged tree, so they must be held before anything is put there.
    """

    target: Path
    base: Path
    holder: Path
    kind: Kind
    parents: tuple[Path, ...] = ()
    single: bool = False
    exposed: bool = False

    @property
    def tree(self) -> Path:
        """The folder that is to be filled; of a `single` one the file is `tree / "file"`."""
        return self.holder / _TREE

    @property
    def item(self) -> Path:
        """What takes the target's place."""
        return self.tree / _SINGLE if self.single else self.tree


def place(target: Path, id: str, *, single: bool = False, writable: Sequence[Path] = ()) -> Place:
    """Where to stage what is to become `target`. Nothing is changed. BackupError, OSError where it cannot be done.

    `writable` are the folders that containers can write (mounted volumes and paths): in them no link is followed
    (ArchiveError, BACKUP_UNSAFE), and nothing is staged, if it can be helped.
    """
    if _ID.fullmatch(id) is None:
        raise BackupError(f"'{id}' is not an operation's id")
    real = resolve(target, writable)
    if mounts := disk.mounts_below(real):
        raise BackupConflictError(
            f"{target} cannot be put back as a whole: {mounts[0]} is mounted in it",
            code=BLOCKED,
            details={"path": str(target), "mounts": [str(mount) for mount in mounts[:_MOST_NAMED]]},
        )
    above = list(_existing(real.parent))
    parents = tuple(reversed([real.parent, *real.parent.parents][: len(real.parent.parts) - len(above)]))
    name = f"{STAGED}{id}-{hashlib.sha256(os.fsencode(real)).hexdigest()[:8]}"
    if not parents and _is_mount(real):
        if single or not real.is_dir():
            raise BackupConflictError(
                f"{target} cannot be put back: it is a file that is mounted",
                code=BLOCKED,
                details={"path": str(target)},
            )
        return Place(target=real, base=real, holder=real / name, kind=Kind.INSIDE, exposed=True)
    base, exposed = _base(above, writable)
    return Place(
        target=real, base=base, holder=base / name, kind=Kind.BESIDE, parents=parents, single=single, exposed=exposed
    )


def resolve(path: Path, writable: Sequence[Path] = ()) -> Path:
    """The path without links. One is followed only where root made it, in a folder that nobody else can write."""
    if not path.is_absolute() or ".." in path.parts or path == Path("/"):
        raise BackupError(f"{path} is not a place where data can be put back")
    done, rest, links = Path("/"), list(path.parts[1:]), 0
    while rest:
        part = rest.pop(0)
        status = _status(done / part)
        if status is None:
            return done.joinpath(part, *rest)
        if not stat.S_ISLNK(status.st_mode):
            done = done.parent if part == ".." else done / part
            continue
        links += 1
        if links > _MOST_LINKS or not _is_trusted(done, status, writable):
            raise ArchiveError(
                f"{path} cannot be put back: {done / part} is a link that others could have made",
                code="BACKUP_UNSAFE",
            )
        leads = Path(os.readlink(done / part))
        done = Path("/") if leads.is_absolute() else done
        rest = [*leads.parts[leads.is_absolute() :], *rest]
    return done


def _is_trusted(folder: Path, link: os.stat_result, writable: Sequence[Path]) -> bool:
    owners = {0, os.geteuid()}
    if link.st_uid not in owners or _is_within(folder, writable):
        return False
    for one in (folder, *folder.parents):
        status = one.stat()
        # In a sticky folder a link of root's cannot be replaced by others.
        if status.st_uid not in owners or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
            return False
    return True


def _is_within(path: Path, folders: Sequence[Path]) -> bool:
    return any(path == one or one in path.parents for one in folders)


def _existing(folder: Path) -> Iterator[Path]:
    """The folder and those above it, from / on, as far as they are there."""
    for one in (*reversed(folder.parents), folder):
        status = _status(one)
        if status is None:
            return
        if not stat.S_ISDIR(status.st_mode):
            raise BackupConflictError(
                f"{folder} cannot be had: {one} is not a folder", code=BLOCKED, details={"path": str(one)}
            )
        yield one


def _base(above: Sequence[Path], writable: Sequence[Path]) -> tuple[Path, bool]:
    """The nearest folder that no container can write, from which a rename to the target's suffices."""
    own = _filesystem(above[-1])
    for one in reversed(above):
        if _filesystem(one) != own:
            break
        if not _is_within(one, writable):
            return one, False
    return above[-1], True


def _filesystem(path: Path) -> tuple[int, int]:
    """A subvolume of btrfs is a filesystem of its own, without being a mount."""
    with disk.folder(path) as descriptor:
        return disk.mount_of(descriptor), os.fstat(descriptor).st_dev


def _is_mount(path: Path) -> bool:
    with disk.folder(path.parent) as parent:
        try:
            descriptor = os.open(path.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        except FileNotFoundError:
            return False
        try:
            return disk.mount_of(descriptor) != disk.mount_of(parent)
        finally:
            os.close(descriptor)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
