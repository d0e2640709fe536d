"""age passphrase encryption for small texts, with a work factor that a board can afford, and an error for each cause.

pyrage chooses the work factor by the speed of the encrypting machine, and refuses one that would take this machine more
than a few seconds at the moment: a fast board's backup would not open on a slow or busy one. The format is that of
https://c2sp.org/age; `age` and `rage` can decrypt it.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import time
from pathlib import Path
from typing import Final, NamedTuple

WORK_FACTOR: Final = 17
"""scrypt's N is 2 to this: 128 MiB for about a second on a board."""
MAX_WORK_FACTOR: Final = 22
_MAX_SECONDS: Final = 1800.0
_VERSION: Final = b"age-encryption.org/v1"
_BEGIN: Final = "-----BEGIN AGE ENCRYPTED FILE-----"
_END: Final = "-----END AGE ENCRYPTED FILE-----"
_HEADER: Final = re.compile(
    rb"(age-encryption\.org/v1\n-> scrypt ([A-Za-z0-9+/]{22}) ([1-9][0-9]?)\n([A-Za-z0-9+/]{43})\n---) "
    rb"([A-Za-z0-9+/]{43})\n"
)
_COLUMNS: Final = 64
_NONCE: Final = 16
_TRIAL: Final = 12
_LAST_CHUNK: Final = bytes(11) + b"\x01"
_MAX_TEXT: Final = 64 << 10  # one chunk


class WrongPassphraseError(Exception):
    """The passphrase is wrong."""


class DamagedError(Exception):
    """The data was not written by age, or has been altered."""


class CostlyError(Exception):
    """Trying a passphrase takes more memory or time than this board can spare now."""


class Cost(NamedTuple):
    """The cost of trying one passphrase: memory in bytes, and estimated seconds on this board now."""

    memory: int
    seconds: float


class _Parsed(NamedTuple):
    head: bytes
    salt: bytes
    work_factor: int
    key: bytes
    mac: bytes
    payload: bytes


def encrypt(text: bytes, passphrase: str, *, work_factor: int = WORK_FACTOR) -> str:
    """Encrypt a text of at most 64 KiB, as `age -p -a` does."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    if len(text) > _MAX_TEXT:
        raise ValueError("the text is too long for one chunk")
    salt, file_key, nonce = os.urandom(16), os.urandom(16), os.urandom(_NONCE)
    wrapping = _scrypt(passphrase, salt, work_factor)
    stanza = ChaCha20Poly1305(wrapping).encrypt(bytes(12), file_key, None)
    head = b"%b\n-> scrypt %b %d\n%b\n---" % (_VERSION, _encoded(salt), work_factor, _encoded(stanza))
    payload = ChaCha20Poly1305(_derived(file_key, nonce, b"payload")).encrypt(_LAST_CHUNK, text, None)
    data = head + b" " + _encoded(_mac(file_key, head)) + b"\n" + nonce + payload
    lines = base64.b64encode(data).decode()
    body = "\n".join(lines[i : i + _COLUMNS] for i in range(0, len(lines), _COLUMNS))
    return f"{_BEGIN}\n{body}\n{_END}\n"


def decrypt(armoured: str, passphrase: str) -> bytes:
    """Decrypt a text. Raises: WrongPassphraseError (only for a wrong passphrase), DamagedError, CostlyError."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    parsed = _parse(armoured)
    check_cost(cost(armoured))
    try:
        wrapping = _scrypt(passphrase, parsed.salt, parsed.work_factor)
    except (MemoryError, ValueError) as error:
        raise CostlyError(f"the passphrase takes {_memory(parsed.work_factor) >> 20} MB of memory") from error
    try:
        file_key = ChaCha20Poly1305(wrapping).decrypt(bytes(12), parsed.key, None)
    except InvalidTag as error:
        raise WrongPassphraseError("the passphrase does not fit") from error
    if not hmac.compare_digest(_mac(file_key, parsed.head), parsed.mac):
        raise DamagedError("its header was altered")
    nonce, body = parsed.payload[:_NONCE], parsed.payload[_NONCE:]
    try:
        return ChaCha20Poly1305(_derived(file_key, nonce, b"payload")).decrypt(_LAST_CHUNK, body, None)
    except (InvalidTag, ValueError) as error:
        raise DamagedError("it was altered or truncated after encryption") from error


def check(armoured: str) -> None:
    """Check that some passphrase could decrypt this. Raises: DamagedError."""
    _parse(armoured)


def cost(armoured: str) -> Cost:
    """Estimate the cost of trying a passphrase with a small measurement. Raises: DamagedError."""
    factor = _parse(armoured).work_factor
    started = time.perf_counter()
    _scrypt("", bytes(16), _TRIAL)
    trial = time.perf_counter() - started
    return Cost(_memory(factor), trial * 2.0 ** (factor - _TRIAL))


def check_cost(needed: Cost) -> None:
    """Check that this board has enough memory and time for it. Raises: CostlyError."""
    free = _free_memory()
    if free is not None and needed.memory > free:
        raise CostlyError(
            f"trying the passphrase takes {needed.memory >> 20} MB of memory for a moment, and {free >> 20} MB are "
            "free here: open it on a larger machine (`age -d identity.age`), and give the identity instead"
        )
    if needed.seconds > _MAX_SECONDS:
        raise CostlyError(
            f"trying the passphrase takes about {needed.seconds / 60:.0f} minutes here: open it on a faster machine "
            "(`age -d identity.age`), and give the identity instead"
        )


def _parse(armoured: str) -> _Parsed:
    lines = armoured.strip().splitlines()
    if len(lines) < 3 or (lines[0], lines[-1]) != (_BEGIN, _END):
        raise DamagedError("it is not an age file")
    try:
        data = binascii.a2b_base64("".join(lines[1:-1]), strict_mode=True)
    except (ValueError, UnicodeEncodeError) as error:
        raise DamagedError("it is not an age file") from error
    match = _HEADER.match(data)
    if match is None or int(match[3]) > MAX_WORK_FACTOR:
        raise DamagedError("it is not encrypted by a passphrase, or asks for far too much work")
    salt, key, mac = (_decoded(match[i]) for i in (2, 4, 5))
    return _Parsed(match[1], salt, int(match[3]), key, mac, data[match.end() :])


def _scrypt(passphrase: str, salt: bytes, work_factor: int) -> bytes:
    salt = _VERSION + b"/scrypt" + salt
    n = 1 << work_factor
    limit = _memory(work_factor) + (1 << 20)
    if limit < 1 << 31:  # hashlib's OpenSSL accepts no more memory than this, but releases the interpreter's lock
        return hashlib.scrypt(passphrase.encode(), salt=salt, n=n, r=8, p=1, maxmem=limit, dklen=32)
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return Scrypt(salt=salt, length=32, n=n, r=8, p=1).derive(passphrase.encode())


def _memory(work_factor: int) -> int:
    return 1024 << work_factor


def _derived(key: bytes, salt: bytes, info: bytes) -> bytes:
    """Derive 32 bytes with HKDF-SHA256."""
    pseudorandom = hmac.digest(salt or bytes(32), key, "sha256")
    return hmac.digest(pseudorandom, info + b"\x01", "sha256")


def _mac(file_key: bytes, head: bytes) -> bytes:
    return hmac.digest(_derived(file_key, b"", b"header"), head, "sha256")


def _encoded(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _decoded(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text + b"=" * (-len(text) % 4))
    except ValueError as error:
        raise DamagedError("it is not an age file") from error


def _free_memory() -> int | None:
    """Return the free memory in bytes, swap included, within this process's own limit."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
        free = (fields["MemAvailable"] + fields["SwapFree"]) << 10
    except (OSError, ValueError, KeyError, IndexError):
        return None
    own = _own_limit()
    return free if own is None else min(free, own)


def _own_limit() -> int | None:
    """Return the bytes that this process's control group may still allocate; None if it has no limit."""
    try:
        group = Path("/proc/self/cgroup").read_text().partition("0::")[2].strip()
        folder = Path("/sys/fs/cgroup") / group.lstrip("/")
        return int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None
