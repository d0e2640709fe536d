"""Secrets at rest: sealed by a key that this board alone has, each for the record that it belongs to.

The key is the credential `homed.secret.key`, where the unit was given one, else `secret.key` in the state directory. It
is in no backup and in no copy of the state that an update makes: what was sealed here opens here. On another board, or
on this one set up anew, secrets have to be given again, unless whoever restores carries the key's file over by hand.
"""

import base64
import binascii
import contextlib
import hashlib
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from homed import atomic
from homed import credentials as credential_files
from homed.errors import SecretError

log = logging.getLogger(__name__)
FILE: Final = "secret.key"
CREDENTIAL: Final = "homed.secret.key"
_SIZE: Final = 32
_NONCE: Final = 12
_PREFIX: Final = "sealed-1:"


class Vault:
    """`id` tells keys apart, and says nothing of the key; `trouble` why there is none, where there is none."""

    trouble = ""

    def __init__(self, key: bytes):
        self.id = hashlib.sha256(b"homed secret key\0" + key).hexdigest()[:16]
        self._cipher = AESGCM(key)

    def __repr__(self) -> str:
        return f"Vault({self.id})"

    def seal(self, text: str, about: str) -> str:
        """Never twice the same. `about` names the record: only with the same it opens."""
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._cipher.encrypt(nonce, text.encode(), about.encode())
        return f"{_PREFIX}{self.id}:{base64.b64encode(nonce + sealed).decode()}"

    def open(self, sealed: str, about: str) -> str:
        """SecretError: of another key, of another record, damaged, or not sealed at all."""
        id, colon, data = sealed.removeprefix(_PREFIX).partition(":")
        if not is_sealed(sealed) or not colon:
            raise SecretError("the secret is not one that homed has sealed")
        if id != self.id:
            raise SecretError("the secret was sealed with another key than this board has: it must be given again")
        try:
            raw = base64.b64decode(data, validate=True)
            return self._cipher.decrypt(raw[:_NONCE], raw[_NONCE:], about.encode()).decode()
        except (binascii.Error, ValueError, InvalidTag) as error:
            raise SecretError("the secret is damaged, or of another record: it must be given again") from error


class ClosedVault(Vault):
    """Stands where the key cannot be had: a board that cannot open its secrets does all else."""

    def __init__(self, trouble: str):
        self.id = ""
        self.trouble = trouble

    def seal(self, text: str, about: str) -> str:
        raise SecretError(self.trouble)

    def open(self, sealed: str, about: str) -> str:
        raise SecretError(self.trouble)


def is_sealed(text: str) -> bool:
    return text.startswith(_PREFIX)


def load(state: Path, credentials: Path | None = None) -> Vault:
    """The board's own, with its key made where there is none. It blocks.

    SecretError where the key cannot be read or made, or somebody else could read it.
    """
    try:
        # systemd answers for who may read a credential.
        given = credential_files.find(CREDENTIAL, credentials)
        if given is not None:
            return Vault(_checked(given.read_bytes(), given))
        return Vault(_own(state / FILE))
    except OSError as error:
        raise SecretError(f"the key that secrets are sealed with cannot be had: {error}") from error


def open_or_closed(state: Path) -> Vault:
    """The same with the unit's credentials, for a start that goes on without: whoever asks is told why. It blocks."""
    try:
        return load(state, credential_files.directory())
    except SecretError as error:
        log.error("%s", error.message)  # noqa: TRY400  its message says all
        return ClosedVault(error.message)


def _own(path: Path) -> bytes:
    if not path.exists():
        _make(path)
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise SecretError(f"{path} is no file")
        if status.st_mode & 0o077:
            raise SecretError(
                f"{path} may be read by others (mode {status.st_mode & 0o7777:04o}): its mode must be 0600"
            )
        return _checked(file.read(_SIZE + 1), path)


def _make(path: Path) -> None:
    """Whole and durable before the first secret is sealed with it; where two make one, the first is kept."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        atomic.write(beside, secrets.token_bytes(_SIZE))
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    atomic.sync_folder(path.parent)


def _checked(key: bytes, path: Path) -> bytes:
    if len(key) != _SIZE:
        size = f"more than {_SIZE}" if len(key) > _SIZE else str(len(key))
        raise SecretError(f"{path} holds {size} bytes, and a key has {_SIZE}")
    return key
