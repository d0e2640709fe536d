"""What backups are sealed with and where snapshots go: read from the board's files when it is needed, and not kept."""

import contextlib
import os
import secrets
from pathlib import Path

from homed import atomic
from homed.backups import keyring
from homed.backups.worker.messages import Repository, Seal
from homed.config.backups import BackupRepository, Backups
from homed.errors import ArchiveError, BackupConflictError, BackupError

KEYRING = "backup-key"
_PASSWORD = "restic-password"  # noqa: S105  a file's name
_LONGEST = 64 * 1024


def seal(config: Backups, state: Path) -> Seal | None:
    """None only where encryption is off. ArchiveError (BACKUP_KEY_MISSING) where it is on and there is no key yet."""
    if config.encryption == "off":
        return None
    if config.encryption == "recipients":
        return Seal(config.recipients)
    own = keyring.load(state / KEYRING)
    if own is None:
        raise ArchiveError(
            "backups are to be encrypted and there is no passphrase yet: set one by `homed backup passphrase`",
            code="BACKUP_KEY_MISSING",
        )
    return own


def repository(config: BackupRepository, state: Path) -> Repository:
    """BackupConflictError (NO_REPOSITORY) where none is configured; BackupError where its files cannot be read."""
    if not config.url:
        raise BackupConflictError(
            "there is no repository for incremental backups: set backups.repository.url", code="NO_REPOSITORY"
        )
    password = Path(config.password_file) if config.password_file else _own_password(state)
    return Repository(config.url, _read(password).strip(), _environment(config))


def _own_password(state: Path) -> Path:
    path = state / _PASSWORD
    if not path.exists():
        try:
            atomic.write(path, secrets.token_urlsafe(32).encode() + b"\n")
        except OSError as error:
            raise BackupError(f"{path} cannot be written: {error.strerror}") from error
    return path


def _environment(config: BackupRepository) -> dict[str, str]:
    """`NAME=value` a line, as in systemd's EnvironmentFile=, without its quoting."""
    if not config.environment_file:
        return {}
    found = {}
    for line in _read(Path(config.environment_file)).splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name and not name.startswith("#"):
            found[name] = value
    return found


def _read(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.closing(os.fdopen(descriptor, encoding="utf-8")) as file:
            return file.read(_LONGEST)
    except (OSError, UnicodeDecodeError) as error:
        raise BackupError(f"{path} cannot be read: {error}") from error
