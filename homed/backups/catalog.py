"""The backups that lie on this board: a record beside each archive, and the archive's name as what makes it one."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from homed import atomic
from homed.backups import names
from homed.backups.records import Backup, Type
from homed.errors import BackupError, NotFoundError

log = logging.getLogger(__name__)
PARTIAL = ".partial-"
RECORD = ".json"


def write(folder: Path, backup: Backup) -> None:
    """BackupError where it cannot be written."""
    write_record(folder / f"{backup.name}{RECORD}", backup)


def write_record(path: Path, backup: Backup) -> None:
    try:
        atomic.write(path, msgspec.json.format(msgspec.json.encode(backup)))
    except OSError as error:
        raise BackupError(f"the record of {backup.name} cannot be written: {error.strerror}") from error


def read(path: Path) -> Backup | None:
    """None where it is not a record that can be read, or not the one of its name."""
    try:
        backup = msgspec.json.decode(path.read_bytes(), type=Backup)
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("%s is not a record of a backup: %s", path, error)
        return None
    return backup if path.name == f"{backup.name}{RECORD}" and names.parse(backup.name) is not None else None


def is_there(folder: Path, backup: Backup) -> bool:
    """Whether its archive is; what an incremental one needs is in the repository."""
    if backup.type is Type.INCREMENTAL:
        return True
    try:
        return (folder / backup.name).stat().st_size == backup.size
    except OSError:
        return False


class Catalog:
    """What is known of the backups in a folder, held in memory: read anew by `load`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._backups: dict[str, Backup] = {}

    def load(self) -> None:
        """Read every record. BackupError where the folder cannot be used."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = {backup.name: backup for backup in self._read()}
        except OSError as error:
            raise BackupError(f"the backups in {self.folder} cannot be read: {error.strerror}") from error
        self._backups = found

    def _read(self) -> Iterator[Backup]:
        for path in sorted(self.folder.glob(f"*{RECORD}")):
            backup = read(path)
            if backup is not None and is_there(self.folder, backup):
                yield backup

    def sweep(self) -> None:
        """Remove what killed operations left: halves of archives, and records that never got their archive."""
        for path in self.folder.glob(f"{PARTIAL}*"):
            path.unlink(missing_ok=True)
        for path in self.folder.glob(f".*{RECORD}.new"):
            path.unlink(missing_ok=True)
        for path in self.folder.glob(f"*{RECORD}"):
            name = names.parse(path.name.removesuffix(RECORD))
            if name is not None and name.extension and not (self.folder / str(name)).exists():
                path.unlink(missing_ok=True)

    def drop_partial(self, id: str) -> None:
        """What an operation has left that was not brought to its end."""
        with contextlib.suppress(OSError):
            (self.folder / f"{PARTIAL}{id}").unlink(missing_ok=True)

    def unknown(self) -> list[Path]:
        """Archives without a record: put here by hand. Nothing is known of them until they were read."""
        found: list[Path] = []
        with contextlib.suppress(OSError):
            for path in sorted(self.folder.iterdir()):
                name = names.parse(path.name)
                if name is not None and name.extension and path.name not in self._backups and path.is_file():
                    found.append(path)
        return found

    def all(self) -> list[Backup]:
        """The newest first."""
        return sorted(self._backups.values(), key=lambda backup: (backup.created_at, backup.name), reverse=True)

    def find(self, name: str) -> Backup | None:
        return self._backups.get(name)

    def get(self, name: str) -> Backup:
        """NotFoundError (BACKUP_NOT_FOUND)."""
        backup = self._backups.get(name)
        if backup is None:
            raise NotFoundError(f"Backup '{name[:128]}' not found", code="BACKUP_NOT_FOUND")
        return backup

    def path(self, backup: Backup) -> Path:
        return self.folder / backup.name

    def took(self, backup: Backup) -> None:
        """The worker has made it, and written it down."""
        self._backups[backup.name] = backup

    def change(self, backup: Backup) -> None:
        """BackupError where it cannot be written: then nothing has changed."""
        write(self.folder, backup)
        self._backups[backup.name] = backup

    def remove(self, backup: Backup) -> None:
        """The archive first: a record alone is nothing. BackupError."""
        try:
            self.path(backup).unlink(missing_ok=True)
            (self.folder / f"{backup.name}{RECORD}").unlink(missing_ok=True)
            atomic.sync_folder(self.folder)
        except OSError as error:
            raise BackupError(f"{backup.name} cannot be removed: {error.strerror}") from error
        self._backups.pop(backup.name, None)
