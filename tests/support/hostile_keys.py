"""Private keys that cost much to parse, or whose words and numbers do not fit together."""

import base64
import functools

from asyncssh.packet import MPInt, String
from cryptography.hazmat.primitives.asymmetric import rsa


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    return bytes([tag, 0x84]) + length.to_bytes(4, "big") + content


def _integer(number: int) -> bytes:
    return _der(2, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=number < 0))


def _rsa(*numbers: int) -> str:
    data = base64.b64encode(_der(0x30, b"".join(map(_integer, (0, *numbers))))).decode()
    return f"-----BEGIN RSA PRIVATE KEY-----\n{data}\n-----END RSA PRIVATE KEY-----\n"


def _openssh(cipher: bytes, kdf: bytes, options: bytes, key: bytes) -> str:
    data = (
        b"openssh-key-v1\0" + String(cipher) + String(kdf) + String(options) + b"\0\0\0\1" + String(key) + String(key)
    )
    text = base64.b64encode(data).decode()
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{text}\n-----END OPENSSH PRIVATE KEY-----\n"


def _pkcs8(oid: bytes, parameters: bytes, key: bytes, extra: bytes = b"") -> str:
    data = _der(0x30, _integer(0) + _der(0x30, _der(6, oid) + parameters) + _der(4, key) + extra)
    return f"-----BEGIN PRIVATE KEY-----\n{base64.b64encode(data).decode()}\n-----END PRIVATE KEY-----\n"


@functools.cache
def hostile_keys() -> dict[str, str]:
    """By what is wrong with each."""
    big_p, big_q = (1 << 8191) | 1, (1 << 8190) | 3
    numbers = rsa.generate_private_key(65537, 2048).private_numbers()
    n, e, d, p, q = numbers.public_numbers.n, numbers.public_numbers.e, numbers.d, numbers.p, numbers.q
    rest = (numbers.dmp1, numbers.dmq1, numbers.iqmp)
    deep = b""
    while len(deep) < 30_000:
        deep = _der(0xA0, deep)
    bcrypt = String(b"salt" * 4) + b"\xff\xff\xff\xff"
    return {
        "RSA of 16,384 bits": _rsa(big_p * big_q, 65537, 3, big_p, big_q, 1, 1, 1),
        "RSA of 16,384 bits in OpenSSH's format": _openssh(
            b"none", b"none", b"", String(b"ssh-rsa") + MPInt(65537) + MPInt(big_p * big_q)
        ),
        "RSA of 4,097 bits": _rsa(1 << 4096 | 1, 65537, 3, 1 << 2049, 1 << 2049, 1, 1, 1),
        "an exponent as long as the key": _rsa(n, d, e, p, q, *rest),
        "an exponent of 65 bits": _rsa(n, 1 << 64 | 1, d, p, q, *rest),
        "negative": _rsa(-n, e, d, p, q, *rest),
        "primes of odd sizes": _rsa(n, e, d, n, 1, *rest),
        "primes of other sizes that fit": _rsa(3 * (1 << 2046 | 1), e, d, 3, 1 << 2046 | 1, *rest),
        "numbers that do not belong together": _rsa(n + 2, e, d, p, q, *rest),
        "a huge remainder": _rsa(n, e, d, p, q, 1 << 100_000, *rest[1:]),
        "even": _rsa(n * 2, e, d, p * 2, q, *rest),
        "too few numbers": _rsa(n, e, d, p, q),
        "four thousand million rounds of bcrypt": _openssh(b"aes256-ctr", b"bcrypt", bcrypt, b"x"),
        "bcrypt without a cipher": _openssh(b"none", b"bcrypt", bcrypt, b"x"),
        "deep": _pkcs8(b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01", b"\5\0", deep),
        "deep beside": _pkcs8(b"\x2b\x65\x70", b"", b"\4\x20" + b"x" * 32, deep),
        "a curve of its own": _pkcs8(b"\x2a\x86\x48\xce\x3d\x02\x01", _der(0x30, deep), b"x"),
        "a length of 4 GiB": "-----BEGIN PRIVATE KEY-----\nMIT/////\n-----END PRIVATE KEY-----\n",
        "RSA-PSS": _pkcs8(b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a", b"", b"x"),
    }
