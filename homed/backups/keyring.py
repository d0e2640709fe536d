"""The board's own key for passphrase-protected archives: created once, so that backups are encrypted unattended.

The passphrase encrypts an X25519 identity; its recipient is stored in the same file, so that a power cut leaves the old
pair or the new one. Each archive carries the encrypted identity, and opens with the passphrase that was set when the
archive was made.

Creating and decrypting a key take scrypt's memory for about a second (see `passphrase.py`); encrypting a backup does
not.
"""

from pathlib import Path

import msgspec

from homed import atomic
from homed.backups.archive import age
from homed.backups.worker.messages import Seal
from homed.errors import ArchiveError, BackupError, FieldError, ValidationError

FILE = "key.json"
_SHORTEST, _LONGEST = 8, 1024


class _Key(msgspec.Struct, frozen=True):
    """`identity` is sealed by the passphrase."""

    recipient: str
    identity: str


def make(folder: Path, passphrase: str) -> Seal:
    """Make a new key in `folder` (made where it is not there), in the place of the one that it held.

    Archives that were sealed before keep to their own passphrase. ValidationError where it is too weak; OSError.
    """
    passphrase = checked(passphrase)
    recipient, identity = age.generate()
    key = _Key(recipient, age.wrap(identity, passphrase))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic.write(folder / FILE, msgspec.json.format(msgspec.json.encode(key)))
    atomic.sync_folder(folder.parent)
    return _seal(key)


def load(folder: Path) -> Seal | None:
    """How to seal for the board's own key; None where none was made. BackupError where it cannot be read."""
    key = _read(folder)
    return None if key is None else _seal(key)


def open(folder: Path, passphrase: str) -> str:
    """The identity. BackupError: BACKUP_KEY_MISSING where no key was made, BACKUP_KEY_WRONG where it does not fit."""
    key = _read(folder)
    if key is None:
        raise ArchiveError("No passphrase was set for this board's backups", code="BACKUP_KEY_MISSING")
    try:
        return age.unwrap(key.identity, stripped(passphrase))
    except age.AgeError as error:
        code = {age.Exit.KEY_WRONG: "BACKUP_KEY_WRONG", age.Exit.COSTLY: "BACKUP_KEY_COSTLY"}.get(error.exit)
        if code is not None:
            raise ArchiveError(error.message, code=code) from error
        raise BackupError(error.message) from error


def checked(passphrase: str) -> str:
    """The passphrase without the line's end that a file or a pipe brings. ValidationError where it is too weak."""
    passphrase = stripped(passphrase)
    why = None
    if len(passphrase) < _SHORTEST:
        why = f"must have at least {_SHORTEST} characters"
    elif len(passphrase) > _LONGEST:
        why = f"must have at most {_LONGEST} characters"
    elif len(set(passphrase)) < _SHORTEST // 2:
        why = "is the same few characters again and again"
    elif any(each in passphrase for each in "\0\r\n"):
        why = "must be one line, without NUL"
    if why is not None:
        raise ValidationError([FieldError("passphrase", why)])
    return passphrase


def stripped(passphrase: str) -> str:
    """Only the line's end: spaces belong to a passphrase."""
    return passphrase.removesuffix("\n").removesuffix("\r")


def _read(folder: Path) -> _Key | None:
    try:
        key = msgspec.json.decode((folder / FILE).read_bytes(), type=_Key)
        age.check(key.identity)  # never encrypt for an identity that nobody could decrypt
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, age.AgeError) as error:
        raise BackupError(f"The key of this board's backups cannot be read: {error}") from error
    return key


def _seal(key: _Key) -> Seal:
    return Seal((key.recipient,), key.identity)
