"""Incremental backups: what homed has restic do with its repository. Each is one run of restic on the usual path."""

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from homed.backups.records import Backup
from homed.backups.worker import disk
from homed.backups.worker.context import Watch
from homed.backups.worker.messages import Repository
from homed.backups.worker.restic_process import AbsentError, Restic, UnknownError
from homed.errors import ArchiveError, BackupConflictError, BackupError, RemoteError

TAG = "homed"
RECORD = "homed-backup.json"
_SINGLE = "file"
_HELD = ".restic"
_MAGIC = "*?[]\\"
_SPARSE_FROM = (0, 15)


class Saved(NamedTuple):
    """A snapshot that was made: `size` bytes in `files` files, of which `added` bytes were new to the repository.

    `snapshot` is its id, of which restic tells the first eight letters before version 0.17.
    """

    snapshot: str
    added: int
    size: int
    files: int
    unread: tuple[str, ...]
    unread_count: int


class Snapshot(msgspec.Struct, frozen=True):
    id: str
    time: datetime
    paths: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    hostname: str = ""


def backup(
    repository: Repository,
    paths: Sequence[Path],
    work: Path,
    watch: Watch,
    *,
    tags: Sequence[str] = (),
    parent: str | None = None,
    exclude: Sequence[str] = (),
    cloned: bool = False,
    known: bool = True,
) -> Saved:
    """Save these paths in one snapshot. `parent` is the snapshot that files are compared with; where the repository has
    lost it, all are read. `cloned`: inodes and their change times tell nothing, as the files were cloned just now.

    A repository that is not there is made only where none of ours is `known` to have been in it.
    """
    restic = Restic(repository, work, watch)
    arguments = ["backup", "--json", *_each("--tag", [TAG, *tags]), *_each("--exclude", [_literal(e) for e in exclude])]
    if cloned:
        arguments += ["--ignore-inode", "--ignore-ctime"]
    after = ["--", *map(str, paths)]
    compared = ["--parent", parent] if parent is not None else []
    try:
        return _save(restic, watch, [*arguments, *compared, *after])
    except UnknownError:
        if parent is None:
            raise
        return _save(restic, watch, [*arguments, *after])
    except AbsentError:
        if known or not _may_be_made(repository):
            raise
        restic.run("init", locks=False)
        return _save(restic, watch, [*arguments, *after])


def _save(restic: Restic, watch: Watch, arguments: Sequence[str]) -> Saved:
    progress = _Progress(watch)
    summary: dict[str, Any] = {}

    def take(told: Mapping[str, Any]) -> None:
        if told.get("message_type") == "summary":
            summary.update(told)
        else:
            progress.take(told)

    said = restic.run(*arguments, line=take)
    snapshot = summary.get("snapshot_id")
    if not isinstance(snapshot, str):
        raise BackupError("restic has made no snapshot")
    size, files = int(summary.get("total_bytes_processed", 0)), int(summary.get("total_files_processed", 0))
    progress.reach(size, files)
    added = int(summary.get("data_added_packed", summary.get("data_added", 0)))
    return Saved(snapshot, added, size, files, said.unread, said.unread_count)


def _may_be_made(repository: Repository) -> bool:
    """A folder on the board with something in it has held, or is to hold, something else. Of others restic tells."""
    url = repository.url.removeprefix("local:")
    if not url.startswith("/"):
        return True
    path = Path(url)
    return path.parent.is_dir() and (not path.exists() or (path.is_dir() and not any(path.iterdir())))


def snapshots(repository: Repository, work: Path, watch: Watch) -> list[Snapshot]:
    """Those that homed made, the oldest first."""
    said = Restic(repository, work, watch).run("snapshots", "--json", "--no-lock", "--tag", TAG)
    try:
        found = msgspec.json.decode(said.output or b"[]", type=list[Snapshot] | None) or []
    except ValueError as error:
        raise BackupError(f"restic's list of snapshots cannot be understood: {error}") from error
    return sorted(found, key=lambda one: one.time)


def listed(
    repository: Repository,
    snapshot: str,
    folders: Iterable[str] | None,
    work: Path,
    watch: Watch,
    take: Callable[[Mapping[str, Any]], None],
) -> None:
    """Call `take` with each node of a snapshot; with `folders`, only these and their direct children."""

    def line(told: Mapping[str, Any]) -> None:
        if told.get("struct_type") == "node":
            take(told)

    Restic(repository, work, watch).run("ls", "--json", "--no-lock", snapshot, *sorted(folders or ()), line=line)


def restore(
    repository: Repository,
    snapshot: str,
    stored: str,
    into: Path,
    work: Path,
    watch: Watch,
    *,
    only: Sequence[str] = (),
) -> None:
    """Restore what was saved as the path `stored` into the empty folder `into`, which becomes it; a file: `into/file`.

    `only`: these names in the folder `stored` alone. What restic restores lies beside until it is whole.
    ArchiveError (BACKUP_DAMAGED) if it is not in the snapshot.
    """
    restic = Restic(repository, work, watch)
    sparse = ["--sparse"] if _version(restic) >= _SPARSE_FROM else []
    progress = _Progress(watch)
    wanted = [_literal(f"{stored}/{name}") for name in only] or [_literal(stored)]
    with _held(into) as held:
        restic.run(
            *("restore", snapshot, "--json", "--target", str(held), *_each("--include", wanted), *sparse),
            line=progress.take,
        )
        found = held.joinpath(*Path(stored).parts[1:])
        if not os.path.lexists(found):
            raise ArchiveError(f"the snapshot {snapshot} does not hold {stored}")
        os.rename(found, into if found.is_dir() and not found.is_symlink() else into / _SINGLE)


def keeps_holes(repository: Repository, work: Path, watch: Watch) -> bool:
    """Return whether this restic restores the holes of sparse files."""
    return _version(Restic(repository, work, watch)) >= _SPARSE_FROM


@contextmanager
def _held(into: Path) -> Iterator[Path]:
    with disk.folder(into.parent) as above:
        disk.remove((above, _HELD))
        disk.make((above, _HELD))
        try:
            yield into.with_name(_HELD)
        finally:
            disk.remove((above, _HELD))


def _version(restic: Restic) -> tuple[int, ...]:
    """`restic 0.14.0 compiled with …`"""
    words = restic.run("version", locks=False).output.decode(errors="replace").split()
    try:
        return tuple(int(part) for part in words[1].split("-")[0].split("."))
    except (IndexError, ValueError):
        return (0,)


def check(repository: Repository, work: Path, watch: Watch, *, read_data: bool = True) -> None:
    """Is the repository whole: ArchiveError (BACKUP_DAMAGED) where it is not. `read_data`: every byte of it."""
    Restic(repository, work, watch).run("check", *(["--read-data"] if read_data else []))


def forget(repository: Repository, ids: Sequence[str], work: Path, watch: Watch) -> None:
    """Take these snapshots out, and what only they held. Those that are gone already are no error."""
    if ids:
        Restic(repository, work, watch).run("forget", "--prune", *ids)


class Lock(msgspec.Struct, frozen=True):
    """A lock of the repository, as restic reports it."""

    time: str
    hostname: str
    pid: int
    exclusive: bool = False


def unlock(repository: Repository, work: Path, watch: Watch, *, force: bool) -> list[Lock]:
    """Remove all locks of the repository, and return them.

    Raises: BackupConflictError (BACKUP_LOCKED), without removing any, if a running process of this host holds one and
    `force` is not set. Processes of other hosts cannot be checked.
    """
    restic = Restic(repository, work, watch)
    ids = restic.run("list", "locks", "--no-lock", locks=False).output.decode().split()
    found = []
    for id in ids:
        try:
            found.append(msgspec.json.decode(restic.run("cat", "lock", id, "--no-lock", locks=False).output, type=Lock))
        except (RemoteError, msgspec.MsgspecError):
            continue  # it disappeared in the meantime
    living = [one for one in found if one.hostname == socket.gethostname() and Path(f"/proc/{one.pid}").exists()]
    if living and not force:
        raise BackupConflictError(
            f"a restic of this board works on the repository (PID {living[0].pid}): end it first, or use --force",
            code="BACKUP_LOCKED",
            details={"pid": living[0].pid, "host": living[0].hostname},
        )
    if ids:
        restic.run("unlock", "--remove-all", locks=False)
    return found


def adopt(repository: Repository, work: Path, watch: Watch) -> list[Backup]:
    """The records of all backups in the repository, for a board that has none: each was saved as a file RECORD."""
    restic = Restic(repository, work, watch)
    found = []
    for snapshot in snapshots(repository, work, watch):
        for path in snapshot.paths:
            if Path(path).name == RECORD:
                data = restic.run("dump", "--no-lock", snapshot.id, path).output
                found += [] if (record := _record(data, snapshot, repository)) is None else [record]
    return found


def _record(data: bytes, snapshot: Snapshot, repository: Repository) -> Backup | None:
    try:
        record = msgspec.json.decode(data, type=Backup)
    except ValueError:
        return None  # of another version, or not of homed
    return msgspec.structs.replace(record, snapshot=snapshot.id, repository=repository.url)


class _Progress:
    """restic tells sums, and a Watch wants what came to them."""

    def __init__(self, watch: Watch):
        self._watch = watch
        self._bytes = self._files = 0

    def take(self, told: Mapping[str, Any]) -> None:
        if told.get("message_type") == "status":
            self.reach(
                int(told.get("bytes_done", told.get("bytes_restored", 0))),
                int(told.get("files_done", told.get("files_restored", 0))),
            )

    def reach(self, size: int, files: int) -> None:
        size, files = max(size, self._bytes), max(files, self._files)
        self._watch.advance(bytes=size - self._bytes, files=files - self._files)
        self._bytes, self._files = size, files


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _literal(path: str) -> str:
    """As a pattern that only this path fits."""
    return "".join(f"\\{letter}" if letter in _MAGIC else letter for letter in path)
