"""The keys of SSH as text: a private one that a host is logged in at with, and a host's own, which is pinned."""

import asyncio
from typing import TYPE_CHECKING, Final

from homed.errors import FieldError, ValidationError
from homed.jobs.ssh import keyformat
from homed.jobs.ssh.keyformat import KeyFormatError

if TYPE_CHECKING:
    import asyncssh

LONGEST: Final = 64 * 1024
_TIMEOUT: Final = 5.0


async def checked(text: str | bytes, field: str) -> str:
    """Return the key as it is to be kept. ValidationError, with the field's name, if it is no private key that can be
    used with nobody there.
    """
    try:
        if len(text) > LONGEST:
            raise KeyFormatError(f"must have at most {LONGEST} characters")
        judged = keyformat.judged(keyformat.decoded(text) if isinstance(text, bytes) else text)
        # On a thread since the library is loaded with the first key; it has little to compute by now.
        async with asyncio.timeout(_TIMEOUT):
            await asyncio.to_thread(_load, judged)
    except (KeyFormatError, TimeoutError) as error:
        why = str(error) or f"could not be read within {_TIMEOUT:g} s: try again"
        raise ValidationError([FieldError(field, why)]) from error
    return judged


def load(text: str) -> "asyncssh.SSHKey":
    """Return a private key that was kept, judged anew: an older homed may have kept it. Raises KeyFormatError."""
    return _load(keyformat.judged(text))


def fingerprint(public: str) -> str:
    """As ssh-keygen shows it: `SHA256:…`."""
    import asyncssh  # a tenth of a second and 8 MB, which boards without hosts need not spend

    return asyncssh.import_public_key(public).get_fingerprint()


def _load(judged: str) -> "asyncssh.SSHKey":
    import asyncssh

    try:
        # That RSA's two numbers are prime is for its owner to know, and takes 0.4 s to prove at 4,096 bits.
        return asyncssh.import_private_key(judged, unsafe_skip_rsa_key_validation=True)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise KeyFormatError("is not a private key that can be read (PEM or OpenSSH's own format)") from error
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise KeyFormatError("is damaged: its parts do not fit together") from error
