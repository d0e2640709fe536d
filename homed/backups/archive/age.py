"""age, the one place that imports pyrage; and the program that seals or opens a stream in a process of its own.

pyrage holds Python's lock while it works: in a process of its own it delays nobody, and can be ended at any time.

    python -m homed.backups.archive.age encrypt RECIPIENT…           stdin, plain, to stdout, sealed
    python -m homed.backups.archive.age decrypt FILE OFFSET LENGTH   that part of an open file, sealed, to stdout, plain

`decrypt` reads its key on stdin: JSON of identity, or passphrase and wrapped. The exit status is one of `Exit`, the
reason one line of JSON on stderr. It imports little, as it is to start at once.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from homed.backups.archive import passphrase as by_passphrase
from homed.errors import ArchiveError, BackupError

if TYPE_CHECKING:
    import pyrage

_IDENTITY = re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]{58}")
# Larger ones would be mapped from the kernel anew each time, and cost more than the sealing.
_BLOCK = 64 << 10


class Exit(IntEnum):
    """How the program ended; OS: an OSError, whose number is told."""

    GOOD = 0
    KEY_WRONG = 3
    DAMAGED = 4
    COSTLY = 5
    OS = 6


class AgeError(Exception):
    """A failure to decrypt. `exit` tells the cause: a wrong key, damaged data, or too large a work factor."""

    def __init__(self, why: Exit, message: str, number: int = 0):
        super().__init__(message)
        self.exit = why
        self.message = message
        self.number = number


def meaning(status: int, message: str, number: int) -> BackupError | OSError:
    """Return the error for the program's exit status."""
    if status == Exit.KEY_WRONG:
        return ArchiveError(message, code="BACKUP_KEY_WRONG")
    if status == Exit.COSTLY:
        return ArchiveError(message, code="BACKUP_KEY_COSTLY")
    if status == Exit.DAMAGED:
        return ArchiveError(message)
    if status == Exit.OS and number:
        return OSError(number, os.strerror(number))
    return BackupError(message)


def generate() -> tuple[str, str]:
    """A new X25519 pair: the recipient (age1…), and its identity (AGE-SECRET-KEY-1…)."""
    import pyrage  # not above: homed itself never needs it, and does not pay for it

    identity = pyrage.x25519.Identity.generate()
    return str(identity.to_public()), str(identity)


def wrap(identity: str, passphrase: str) -> str:
    """Encrypt an identity with a passphrase, as `age -p -a` does. See `passphrase.WORK_FACTOR` for the cost."""
    text = f"# public key: {parse(identity).to_public()}\n{identity}\n"
    return by_passphrase.encrypt(text.encode(), passphrase)


def unwrap(wrapped: str, passphrase: str) -> str:
    """Decrypt an identity with a passphrase. Raises: AgeError (KEY_WRONG only if the passphrase is wrong)."""
    try:
        text = by_passphrase.decrypt(wrapped, passphrase)
    except by_passphrase.WrongPassphraseError as error:
        raise AgeError(Exit.KEY_WRONG, "the passphrase does not fit") from error
    except by_passphrase.CostlyError as error:
        raise AgeError(Exit.COSTLY, str(error)) from error
    except by_passphrase.DamagedError as error:
        raise AgeError(Exit.DAMAGED, f"the encrypted identity is damaged: {error}") from error
    return str(parse(text.decode("utf-8", "replace")))


def check(wrapped: str) -> None:
    """Check that some passphrase could decrypt this. Raises: AgeError (DAMAGED)."""
    try:
        by_passphrase.check(wrapped)
    except by_passphrase.DamagedError as error:
        raise AgeError(Exit.DAMAGED, f"the encrypted identity is damaged: {error}") from error


def cost(wrapped: str) -> by_passphrase.Cost:
    """Return the cost of trying a passphrase. Raises: AgeError (DAMAGED), if the data is not passphrase-encrypted."""
    try:
        return by_passphrase.cost(wrapped)
    except by_passphrase.DamagedError as error:
        raise AgeError(Exit.DAMAGED, f"the encrypted identity is damaged: {error}") from error


def parse(text: str) -> "pyrage.x25519.Identity":
    """The identity in the text of a key file. AgeError (KEY_WRONG)."""
    import pyrage

    match = _IDENTITY.search(text)
    if match is None:
        raise AgeError(Exit.KEY_WRONG, "What was given holds no age identity (AGE-SECRET-KEY-1…)")
    try:
        return pyrage.x25519.Identity.from_str(match[0])
    except pyrage.IdentityError as error:
        raise AgeError(Exit.KEY_WRONG, "The age identity that was given has a typing mistake") from error


class _Reader:
    """What pyrage reads from, 8 KiB at a time. The first error is kept: pyrage does not tell its number."""

    def __init__(self, more: Callable[[], bytes]):
        self._more = more
        self._block = memoryview(b"")
        self.error: OSError | None = None

    def read(self, size: int) -> bytes:
        if not self._block:
            try:
                self._block = memoryview(self._more())
            except OSError as error:
                self.error = error
                raise
        part, self._block = self._block[:size], self._block[size:]
        return bytes(part)


class _Writer:
    """What pyrage writes to: whole blocks go out."""

    def __init__(self, file: int):
        self._file = file
        self._parts: list[bytes] = []
        self._held = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self._parts.append(data)
        self._held += len(data)
        if self._held >= _BLOCK:
            self.flush()
        return len(data)

    def flush(self) -> None:
        rest = memoryview(b"".join(self._parts))
        self._parts, self._held = [], 0
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self.error = error
            raise


def _encrypt(recipients: Sequence[str]) -> None:
    import pyrage

    reader, writer = _Reader(lambda: os.read(0, _BLOCK)), _Writer(1)
    try:
        to = [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients]
    except pyrage.RecipientError as error:
        raise AgeError(Exit.OS, f"One of the recipients is none that age knows: {error}") from error
    try:
        pyrage.encrypt_io(reader, writer, to)
        writer.flush()
    except (pyrage.EncryptError, OSError) as error:
        raise _failed(reader, writer) or AgeError(Exit.OS, str(error)) from error


def _decrypt(file: int, offset: int, length: int) -> None:
    import pyrage

    with open(0, "rb", closefd=False) as stdin:
        key = json.loads(stdin.read())
    identity = parse(key["identity"] if "identity" in key else unwrap(key["wrapped"], key["passphrase"]))
    end = offset + length

    def more() -> bytes:
        nonlocal offset
        block = os.pread(file, min(_BLOCK, end - offset), offset)
        offset += len(block)
        return block

    reader, writer = _Reader(more), _Writer(1)
    try:
        pyrage.decrypt_io(reader, writer, [identity])
        writer.flush()
    except (pyrage.DecryptError, OSError) as error:
        # Its header is known to be whole: so nothing but the key can keep it shut.
        wrong = "No matching keys" in str(error)
        raise _failed(reader, writer) or AgeError(
            Exit.KEY_WRONG if wrong else Exit.DAMAGED,
            "The key does not fit" if wrong else "It was changed or cut off after it was sealed",
        ) from error


def _failed(reader: _Reader, writer: _Writer) -> AgeError | None:
    error = writer.error or reader.error
    return AgeError(Exit.OS, error.strerror or str(error), error.errno or 0) if error is not None else None


def main(arguments: Sequence[str]) -> int:
    # Who started it ends it: a Ctrl-C goes to all of a terminal's processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if arguments[0] == "encrypt":
            _encrypt(arguments[1:])
        else:
            _decrypt(*(int(argument) for argument in arguments[1:4]))
    except AgeError as error:
        sys.stderr.write(json.dumps([error.message, error.number]) + "\n")
        return error.exit
    return Exit.GOOD


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
