"""The keys of SSH as text: a private one that a host is logged in at with, and a host's own, which is pinned."""

from typing import Final

from homed.errors import FieldError, ValidationError

LONGEST: Final = 64 * 1024


def check_private(text: str, field: str) -> None:
    """ValidationError, with the field's name, where it is no private key that can be used with nobody there."""
    why = _wrong(text)
    if why is not None:
        raise ValidationError([FieldError(field, why)])


def fingerprint(public: str) -> str:
    """As ssh-keygen shows it: `SHA256:…`."""
    import asyncssh  # a tenth of a second and 8 MB, which boards without hosts need not spend

    return asyncssh.import_public_key(public).get_fingerprint()


def _wrong(text: str) -> str | None:
    if len(text) > LONGEST:
        return f"must have at most {LONGEST} characters"
    import asyncssh

    try:
        asyncssh.import_private_key(text)
    except asyncssh.KeyEncryptionError:
        return "is protected by a passphrase, which nobody is there to give: use a key without one"
    except asyncssh.KeyImportError as error:
        if "assphrase" in str(error):
            return "is protected by a passphrase, which nobody is there to give: use a key without one"
        return "is not a private key that can be read (PEM or OpenSSH's own format)"
    return None
