"""Making a full backup: written to its end and synced before it has a name."""

import hashlib
import os
import time
from pathlib import Path

import msgspec

from homed import atomic
from homed.backups import catalog
from homed.backups.archive import seal, state
from homed.backups.archive.pack import Packer
from homed.backups.records import Backup, Section
from homed.backups.worker.capture import Capturing, state_section
from homed.backups.worker.channel import Channel
from homed.backups.worker.context import Watch
from homed.backups.worker.messages import Create
from homed.errors import BackupError

_PIECE = 1 << 20


def full(request: Create, channel: Channel) -> Backup:
    """An archive of its own. Nothing of it is left where this fails."""
    folder, started = Path(request.folder), time.monotonic()
    partial = folder / f"{catalog.PARTIAL}{Path(request.work).name}"
    watch = channel.context
    capturing = Capturing(request, channel)
    try:
        with Packer(
            partial, Path(request.work) / "manifest", request.draft, level=request.level, seal=request.seal, watch=watch
        ) as packer:
            watch.phase("capturing", total=request.expected)
            packer.add(state_section(), Path(request.state))

            def pack(section: Section, tree: Path) -> Section:
                watch.phase("capturing", total=request.expected, service=", ".join(section.users) or None)
                return packer.add(section, tree, exclude=request.exclude)

            for group in request.groups:
                capturing.capture(group, pack)
            backup = packer.finish()
        state.check_made(backup)
        _check_sealed(request, partial)
        if request.seal is not None:
            watch.phase("verifying", total=backup.size)
            backup = msgspec.structs.replace(backup, digest=digest(partial, watch))
        watch.check()
        backup = msgspec.structs.replace(backup, duration=round(time.monotonic() - started, 3))
        publish(folder, partial, backup)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return backup


def digest(path: Path, watch: Watch) -> str:
    """The SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            watch.check()
            watch.advance(bytes=len(piece))
            found.update(piece)
    return found.hexdigest()


def publish(folder: Path, partial: Path, backup: Backup) -> None:
    """The record first: the archive's name is what makes it a backup."""
    catalog.write(folder, backup)
    try:
        os.rename(partial, folder / backup.name)
    except OSError:
        (folder / f"{backup.name}{catalog.RECORD}").unlink(missing_ok=True)
        raise
    atomic.sync_folder(folder)


def _check_sealed(request: Create, partial: Path) -> None:
    """What was to be sealed and is not must never get a name."""
    if request.must_seal and (request.seal is None or not seal.is_sealed(partial)):
        raise BackupError("the backup was to be encrypted and is not: it was thrown away")
