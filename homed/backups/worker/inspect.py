"""Reading a backup to its end: is it whole, and, where it came from elsewhere, what is it."""

from pathlib import Path

import msgspec

from homed.backups import names
from homed.backups.archive import formats, seal, state, unlocking
from homed.backups.archive import verify as archive
from homed.backups.records import Backup, Type
from homed.backups.worker import create
from homed.backups.worker.context import Watch
from homed.backups.worker.messages import Verify
from homed.clock import now
from homed.errors import ArchiveError


def verify(request: Verify, watch: Watch) -> Backup | None:
    """The record, as it is found to be. None where all there is to say is that it is whole: of a snapshot in its
    repository, and of a sealed archive that is not opened.
    """
    if request.repository is not None:
        from homed.backups.worker import restic, snapshots

        work = Path(request.work)
        if request.record is not None:
            snapshots.Snapshots(request.repository, request.record, work, watch).verify()
        restic.check(request.repository, work, watch)
        return None
    path = Path(request.path)
    size = path.stat().st_size
    if request.upload:
        with path.open("rb") as file:
            formats.check(request.name, file.read(formats.HEAD))
    watch.phase("verifying", total=size)
    if request.unlock is None and request.digest is not None:
        if create.digest(path, watch) != request.digest:
            raise ArchiveError(f"{request.name} is not what was written: it was changed, or its disk fails")
        return None
    unlock = unlocking.unlocked(path, request.unlock, watch)
    backup = archive.verify(path, Path(request.work) / "manifest", unlock, watch)
    _check_name(request.name, path, backup)
    state.section_of(backup)
    return msgspec.structs.replace(
        backup,
        name=request.name,
        size=size,
        encrypted=seal.is_sealed(path),
        verified_at=now(),
        damage=None,
        uploaded=request.upload,
        # What only the board that has them knows.
        copies=(),
        snapshot=None,
        repository=None,
        digest=create.digest(path, watch) if seal.is_sealed(path) else None,
    )


def _check_name(name: str, path: Path, backup: Backup) -> None:
    """ArchiveError where the name tells of another backup, or of a sealed one that is not; or its record cannot be."""
    given, own = names.parse(name), names.parse(backup.name)
    if given is None or own is None or given.at != own.at:
        raise ArchiveError(f"this is {backup.name}, and not {name}", code="BACKUP_UNSAFE")
    if backup.type is not Type.FULL or backup.created_at.tzinfo is None or backup.created_at != own.at:
        raise ArchiveError(f"{name} says of itself what no archive of homed's says", code="BACKUP_UNSAFE")
    if (given.extension == names.SEALED) != seal.is_sealed(path):
        raise ArchiveError(f"what {name} holds is not what its name says", code="BACKUP_UNSAFE")
