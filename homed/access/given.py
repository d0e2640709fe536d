"""The admin key given at start-up (flag, environment variable or systemd credential) and kept only in memory."""

import logging
import re
from collections.abc import MutableMapping

from homed import credentials
from homed.errors import ConfigError

log = logging.getLogger(__name__)
VARIABLE = "HOMED_API_KEY"
CREDENTIAL = "homed.api.key"
_MIN_BYTES = 8
_SAFE_BYTES = 32
_HEADER = re.compile(r"[\x21-\x7e]+")


def take(flag: str | None, environment: MutableMapping[str, str]) -> str:
    """Return the key given at start-up, or an empty string; remove the variable so that no child process inherits it.

    The flag takes precedence over the variable, and the variable over the credential. Raises: ConfigError, for an
    invalid key.
    """
    variable = environment.pop(VARIABLE, None)
    if flag is not None:
        log.warning("Every local user can read the key of --api-key: give it as %s or as a credential", VARIABLE)
        return checked(flag, "--api-key")
    if variable is not None:
        return checked(variable, VARIABLE)
    try:
        path = credentials.find(CREDENTIAL, credentials.directory())
        found = path.read_text(encoding="utf-8", errors="replace").strip() if path is not None else None
    except OSError as error:
        raise ConfigError(f"the credential {CREDENTIAL} cannot be read: {error.strerror}") from error
    return "" if found is None else checked(found, f"the credential {CREDENTIAL}")


def checked(text: str, source: str) -> str:
    """Return the key if it is valid. Raises: ConfigError, with the reason but without the key."""
    if len(text.encode(errors="surrogateescape")) < _MIN_BYTES:
        raise ConfigError(f"{source}: a key must have at least {_MIN_BYTES} bytes, better {_SAFE_BYTES}")
    if _HEADER.fullmatch(text) is None:
        raise ConfigError(f"{source}: a key is sent in a header, so it must be printable ASCII without spaces")
    if len(text) < _SAFE_BYTES:
        log.warning("The key of %s has less than %d bytes: it can be guessed", source, _SAFE_BYTES)
    return text
