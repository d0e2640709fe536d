"""The type and size of a key, parsed in linear time and without arithmetic (pure).

Keys are judged here before a library parses them: OpenSSL proves the primes of a private RSA key, which takes a minute
at 16,384 bits, and the function that stretches a passphrase runs as often as the file says.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

MAX_RSA_BITS: Final = 4096
MIN_RSA_BITS: Final = 1024
# A host's key is only verified with, which is cheap.
_MAX_HOST_RSA_BITS: Final = 8192
_MAX_EXPONENT_BITS: Final = 64
_MAX_EXTRA: Final = 256
_MAGIC: Final = b"openssh-key-v1\0"
_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9][A-Z0-9 ]{0,63})-----(.*?)-----END \1-----", re.DOTALL)
_WRAPPED: Final = re.compile(r"\n(?:[A-Za-z0-9+/=]{1,76}\n)+")
_BEGIN: Final = re.compile(r"-----BEGIN ([A-Z0-9][A-Z0-9 ]{0,63})-----")
_PUBLIC_LINE: Final = re.compile(
    r"(?:ssh-(?:rsa|dss|ed25519|ed448)|ecdsa-sha2-[a-z0-9]+|sk-[a-z0-9@.-]{1,64}?)(-cert-v01@[a-z.]+)? AAAA"
)
_CURVES: Final = {
    b"\x2a\x86\x48\xce\x3d\x03\x01\x07": "nistp256",
    b"\x2b\x81\x04\x00\x22": "nistp384",
    b"\x2b\x81\x04\x00\x23": "nistp521",
}
_SSH_CURVES: Final = {f"ecdsa-sha2-{name}".encode(): name.encode() for name in _CURVES.values()}
_RSA, _EC = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01", b"\x2a\x86\x48\xce\x3d\x02\x01"
_ED25519, _ED448 = b"\x2b\x65\x70", b"\x2b\x65\x71"
_DSA: Final = b"\x2a\x86\x48\xce\x38\x04\x01"
_INTEGER, _OCTETS, _OID, _SEQUENCE, _CONTEXT_0 = 0x02, 0x04, 0x06, 0x30, 0xA0
_PROTECTED: Final = (
    "is protected by a passphrase, which nobody is there to give: use a key without one "
    "(a copy: cp KEY COPY && ssh-keygen -p -N '' -f COPY)"
)
_NO_KEY: Final = "is not a private key that can be read (PEM or OpenSSH's own format)"
_DSA_SAID: Final = "is a DSA key, which SSH servers no longer take: use Ed25519, ECDSA or RSA"


class KeyFormatError(Exception):
    """A key that is not taken; the message goes on after the name of the field."""


class Block(NamedTuple):
    label: str
    data: bytes


def decoded(data: bytes) -> str:
    """Return a file's text. Raises KeyFormatError."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # an editor of Windows
        text = data.decode("utf-16", "replace").lstrip("\ufeff")
        if not text.isascii():
            raise KeyFormatError(_NO_KEY)
        return text
    data = data.removeprefix(b"\xef\xbb\xbf")
    if data.startswith(b"\x30") and b"-----" not in data:
        raise KeyFormatError("is a binary file (DER or PKCS #12): convert it to PEM with openssl")
    if b"-----BEGIN" not in data:
        # Of another format the words at its beginning are enough.
        return data.decode("ascii", "replace")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")  # comments around the block


def judged(text: str) -> str:
    """Return the private key as a PEM block of its own, once it is one that may be parsed. Raises KeyFormatError."""
    label, body = _private_block(_unescaped(text))
    if "DEK-Info" in body or "ENCRYPTED" in label or "Proc-Type" in body:
        raise KeyFormatError(_PROTECTED)
    try:
        data = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise KeyFormatError("is damaged: what is between its BEGIN and END is not base64") from error
    try:
        _judge_private(label, data)
    except (IndexError, ValueError) as error:
        raise KeyFormatError("is damaged: its parts do not fit together") from error
    if not _WRAPPED.fullmatch(body):
        letters = base64.b64encode(data).decode()
        body = "\n".join(["", *(letters[at : at + 64] for at in range(0, len(letters), 64)), ""])
    return f"-----BEGIN {label}-----{body}-----END {label}-----\n"


def judge_public(blob: bytes) -> str | None:
    """Say why a host's public key is not taken, from SSH's own encoding of it; None if it is."""
    try:
        fields = _Fields(blob)
        kind = fields.string()
        if kind == b"ssh-rsa":
            exponent, modulus = _bits(fields.string()), _bits(fields.string())
            if not MIN_RSA_BITS <= modulus <= _MAX_HOST_RSA_BITS or not 2 <= exponent <= _MAX_EXPONENT_BITS:
                return (
                    f"is RSA of {modulus} bits with an exponent of {exponent}: taken are {MIN_RSA_BITS} to "
                    f"{_MAX_HOST_RSA_BITS} bits, with an exponent of at most {_MAX_EXPONENT_BITS}"
                )
        elif kind != b"ssh-ed25519" and kind not in _SSH_CURVES:
            return f"is of a kind that is not taken ({kind[:64].decode('ascii', 'replace')})"
    except ValueError:
        return "is damaged"
    return None


def _unescaped(text: str) -> str:
    """Undo the line ends' escaping by a form, an environment variable or a JSON file."""
    text = text.removeprefix("\ufeff").strip().strip("\"'")
    if "\\n" in text and "-----BEGIN" in text:
        text = text.replace("\\r", "").replace("\\n", "\n")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _private_block(text: str) -> tuple[str, str]:
    found = ""
    for block in _BLOCK.finditer(text):
        label = found = block[1]
        if label.endswith("PRIVATE KEY") and not label.startswith("PGP"):
            return label, block[2]
    begin = _BEGIN.search(text)
    raise KeyFormatError(_said_of(text, found or (begin[1] if begin else ""), whole=bool(found)))


def _said_of(text: str, label: str, *, whole: bool) -> str:
    """Describe a text that is not a private key in PEM."""
    if text.startswith("PuTTY-User-Key-File"):
        return (
            "is a key in PuTTY's format (PPK): export it with PuTTYgen (Conversions, Export OpenSSH key), or with "
            "`puttygen KEY.ppk -O private-openssh -o KEY.pem`"
        )
    if text.startswith("---- BEGIN SSH2 ENCRYPTED"):
        return "is a private key in the format of ssh.com: convert it with `ssh-keygen -i -f KEY`"
    if (line := _PUBLIC_LINE.match(text)) or text.startswith("---- BEGIN SSH2 PUBLIC") or label.endswith("PUBLIC KEY"):
        if line and line[1]:
            return "is a certificate: give the private key that it belongs to"
        return "is a public key: give the private one (the file without .pub)"
    if label.startswith(("CERTIFICATE", "X509", "TRUSTED CERTIFICATE", "NEW CERTIFICATE")):
        return "is a certificate: give the private key that it belongs to"
    if label.startswith("PGP"):
        return "is a key of OpenPGP, which SSH does not know: make one with `ssh-keygen -t ed25519`"
    if label.endswith("PRIVATE KEY") and not whole:
        return "is cut off: it has no line `-----END ...` that belongs to its beginning"
    return _NO_KEY


class _Fields:
    """Reads SSH's encoding: each part after its length. Raises ValueError."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def take(self, length: int) -> bytes:
        end = self._at + length
        if length < 0 or end > len(self._data):
            raise ValueError("too short")
        taken, self._at = self._data[self._at : end], end
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.number())


def _bits(number: bytes) -> int:
    """Return the bit length of a non-negative number without leading zeros. Raises: ValueError."""
    if number[:1] > b"\x7f":
        raise ValueError("negative")
    return int.from_bytes(number, "big").bit_length()


def _judge_private(label: str, data: bytes) -> None:
    match label:
        case "OPENSSH PRIVATE KEY":
            _judge_openssh(data)
        case "RSA PRIVATE KEY":
            _judge_rsa(_numbers(data))
        case "EC PRIVATE KEY":
            _judge_ec(_members(data, _SEQUENCE), None)
        case "PRIVATE KEY":
            _judge_pkcs8(data)
        case "DSA PRIVATE KEY":
            raise KeyFormatError(_DSA_SAID)
        case _:
            raise KeyFormatError(_NO_KEY)


def _judge_openssh(data: bytes) -> None:
    if not data.startswith(_MAGIC):
        raise ValueError("another format")
    fields = _Fields(data[len(_MAGIC) :])
    cipher, kdf, _ = fields.string(), fields.string(), fields.string()
    if cipher != b"none" or kdf != b"none":
        raise KeyFormatError(_PROTECTED)
    if fields.number() != 1:
        raise KeyFormatError("holds more than one key: give a file with one")
    public, private = _Fields(fields.string()), _Fields(fields.string())
    if private.take(4) != private.take(4):
        raise ValueError("check")
    kind = public.string()
    if private.string() != kind:
        raise ValueError("two kinds")
    if kind == b"ssh-rsa":
        # n, e, d, iqmp, p, q; of the public one e, n.
        n, e, d, _, p, q = (private.string() for _ in range(6))
        if (public.string(), public.string()) != (e, n):
            raise ValueError("two keys")
        _judge_rsa([n, e, d, p, q])
    elif kind in _SSH_CURVES:
        if private.string() != _SSH_CURVES[kind]:
            raise ValueError("two curves")
    elif kind == b"ssh-dss":
        raise KeyFormatError(_DSA_SAID)
    elif kind.startswith(b"sk-"):
        raise KeyFormatError("is for a security key, which somebody would have to touch: use another one")
    elif kind not in (b"ssh-ed25519", b"ssh-ed448"):
        raise KeyFormatError(f"is of a kind that is not known ({kind[:64].decode('ascii', 'replace')})")


def _judge_pkcs8(data: bytes) -> None:
    members = _members(data, _SEQUENCE)
    (_, _), (kind, algorithm), (inner, key), *extra = members[:5]
    if kind != _SEQUENCE or inner != _OCTETS or sum(len(one) for _, one in extra) > _MAX_EXTRA or len(members) > 5:
        raise ValueError("no key")
    (oid, name), *parameters = _split(algorithm, 2)
    if oid != _OID:
        raise ValueError("no algorithm")
    if name == _RSA:
        _judge_rsa(_numbers(key))
    elif name == _EC:
        _judge_ec(_members(key, _SEQUENCE), _curve(parameters))
    elif name == _DSA:
        raise KeyFormatError(_DSA_SAID)
    elif name not in (_ED25519, _ED448) or parameters or len(key) > _MAX_EXTRA:
        raise KeyFormatError("is of a kind that SSH does not know: use Ed25519, ECDSA or RSA")


def _judge_rsa(numbers: Sequence[bytes]) -> None:
    """`numbers`: n, e, d, p, q. What does not fit together is refused before anybody computes with it."""
    n, e, d, p, q = (_bits(number) for number in numbers)
    if n > MAX_RSA_BITS or n < MIN_RSA_BITS:
        raise KeyFormatError(
            f"is RSA of {n} bits: taken are {MIN_RSA_BITS} to {MAX_RSA_BITS} (Ed25519 is shorter and faster)"
        )
    if not 2 <= e <= _MAX_EXPONENT_BITS or d > n or abs(p - q) > n // 4 or not 0 <= p + q - n <= 1:
        raise ValueError("numbers")
    modulus, prime, other = (int.from_bytes(numbers[at], "big") for at in (0, 3, 4))
    if prime * other != modulus or modulus % 2 == 0:
        raise ValueError("product")


def _judge_ec(members: Sequence[tuple[int, bytes]], curve: str | None) -> None:
    if len(members) > 4:
        raise ValueError("members")
    for tag, content in members[2:]:
        if tag == _CONTEXT_0:
            curve = _curve(_split(content, 1))
    if curve is None:
        raise KeyFormatError("is an elliptic curve key that does not say its curve")


def _curve(parameters: Sequence[tuple[int, bytes]]) -> str:
    tag, name = parameters[0] if parameters else (0, b"")
    if tag != _OID or name not in _CURVES:
        raise KeyFormatError("is on a curve that SSH does not know: known are nistp256, nistp384 and nistp521")
    return _CURVES[name]


def _numbers(data: bytes) -> list[bytes]:
    """n, e, d, p, q of RSAPrivateKey (RFC 8017)."""
    members = _members(data, _SEQUENCE)
    if len(members) != 9 or any(tag != _INTEGER for tag, _ in members) or members[0][1] != b"\0":
        raise ValueError("no RSA key")
    if any(_bits(number) > _bits(members[1][1]) for _, number in members[6:]):
        raise ValueError("numbers")
    return [members[at][1] for at in (1, 2, 3, 4, 5)]


def _members(data: bytes, tag: int) -> list[tuple[int, bytes]]:
    """Return the members of a single DER value."""
    ((found, content),) = _split(data, 1)
    if found != tag:
        raise ValueError("another value")
    return _split(content, 16)


def _split(data: bytes, most: int) -> list[tuple[int, bytes]]:
    """Split consecutive DER values into tags and contents. Raises: ValueError, IndexError."""
    values: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length > 0x80:
            size = length & 0x7F
            if size > 4:
                raise ValueError("length")
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        elif length == 0x80:
            raise ValueError("length")
        if at + length > len(data) or len(values) == most:
            raise ValueError("length")
        values.append((tag, data[at : at + length]))
        at += length
    return values
