"""The worker's main: one request over the socket in its folder, one answer."""

import contextlib
import errno
import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import assert_never

import msgspec

from homed.backups.failures import failure_of
from homed.backups.records import Backup
from homed.backups.worker.channel import Channel
from homed.backups.worker.context import Stopped
from homed.backups.worker.messages import (
    Adopt,
    Clean,
    Copy,
    Create,
    Done,
    Failed,
    Forget,
    Free,
    Recover,
    Request,
    Restore,
    Verify,
)
from homed.errors import HomedError

log = logging.getLogger(__name__)
_NICE, _LAST = 10, 19
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(work: Path) -> int:
    """0 where homed was told how it ended, 1 where homed could not be reached."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    os.umask(0o077)
    _step_back()
    try:
        with _alone(work), Channel(work) as channel:
            try:
                channel.send(_done(channel.request(), channel))
            except Stopped:
                channel.send(Failed("BACKUP_CANCELLED", "it was cancelled: the board is as it was", cancelled=True))
            except HomedError as error:
                failure = failure_of(error)
                channel.send(Failed(failure.code, failure.message, failure.details))
            except Exception as error:
                log.exception("The operation failed")
                channel.send(_failed(error))
    except OSError as error:
        print(f"homed: {work}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _step_back() -> None:
    """The board's work comes first, the API's before all. As a unit it is systemd that sees to it."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        # Where the kernel shares processors out by session, this one's weight is what counts.
        Path("/proc/self/autogroup").write_text(str(_LAST))


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """One worker at a time in a folder: what recovers waits until the one that was left alone has ended."""
    folder = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _failed(error: Exception) -> Failed:
    if not isinstance(error, OSError | subprocess.SubprocessError):
        return Failed("INTERNAL_ERROR", f"an internal error of the backup worker, which the journal tells: {error!r}")
    number = error.errno if isinstance(error, OSError) else None
    full = number in _FULL
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return Failed("BACKUP_NO_SPACE" if full else "BACKUP_ERROR", f"{where}{said}")


def _done(request: Request, channel: Channel) -> Done:
    """Each kind imports what it needs: what lies on the board is seldom all used."""
    match request:
        case Create():
            return Done(_created(request, channel))
        case Verify():
            from homed.backups.worker import inspect

            return Done(inspect.verify(request, channel.context))
        case Restore():
            from homed.backups.worker import restore

            return Done(data=restore.restore(request, channel))
        case Recover():
            from homed.backups.worker import restore

            return Done(data=restore.recover(request, channel))
        case Clean():
            from homed.backups.worker import swap

            return Done(data={"left": swap.clean_up(Path(request.work))})
        case Copy():
            return Done(data=_copied(request, channel))
        case Forget():
            from homed.backups.worker import restic

            restic.forget(request.repository, request.snapshots, Path(request.work), channel.context)
            return Done()
        case Free():
            from homed.backups.worker import restic

            removed = restic.unlock(request.repository, Path(request.work), channel.context, force=request.force)
            return Done(data={"removed": [msgspec.to_builtins(lock) for lock in removed]})
        case Adopt():
            return Done(data=_adopted(request, channel))
        case _:
            assert_never(request)


def _created(request: Create, channel: Channel) -> Backup:
    if request.repository is not None:
        from homed.backups.worker import incremental

        return incremental.create(request, request.repository, channel)
    from homed.backups.worker import create

    return create.full(request, channel)


def _copied(request: Copy, channel: Channel) -> Mapping[str, object]:
    from homed.backups.worker import copies

    copies.copy(request, channel.context)
    return {}


def _adopted(request: Adopt, channel: Channel) -> Mapping[str, object]:
    from homed.backups import catalog, names
    from homed.backups.worker import restic
    from homed.backups.worker.restic_process import AbsentError

    folder, found = Path(request.folder), []
    try:
        backups = restic.adopt(request.repository, Path(request.work), channel.context)
    except AbsentError:
        return {"found": []}  # nobody has made a backup yet
    for backup in backups:
        name = names.parse(backup.name)
        if name is not None and not name.extension and not (folder / f"{name}{catalog.RECORD}").exists():
            # What another board's schedule has made is not for this one's retention to remove.
            catalog.write(folder, msgspec.structs.replace(backup, uploaded=True))
            found.append(backup.name)
    return {"found": found}
