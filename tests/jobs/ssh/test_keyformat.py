"""Private keys as people paste them, and as attackers make them: judged in linear time, with real keys of OpenSSL's."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import asyncssh
import pytest
from asyncssh.packet import MPInt, String
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from homed.errors import ValidationError
from homed.jobs.ssh import keys
from homed.jobs.ssh.keyformat import KeyFormatError, decoded, judge_public, judged
from tests.support.hostile_keys import hostile_keys


def _pem(key: object, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    return str(key.private_bytes(Encoding.PEM, form, NoEncryption()), "ascii")  # type: ignore[attr-defined]


_RSA = rsa.generate_private_key(65537, 2048)
_ED = ed25519.Ed25519PrivateKey.generate()
_EC = ec.generate_private_key(ec.SECP256R1())
_TEXT = _pem(_ED, PrivateFormat.OpenSSH)
_FORMS = [
    _TEXT,
    _pem(_ED),
    _pem(ed448.Ed448PrivateKey.generate()),
    *(_pem(_RSA, form) for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL, PrivateFormat.OpenSSH)),
    *(_pem(_EC, form) for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL, PrivateFormat.OpenSSH)),
    _pem(ec.generate_private_key(ec.SECP521R1()), PrivateFormat.OpenSSH),
]


@pytest.mark.parametrize("number", range(len(_FORMS)))
def test_a_key_is_kept_as_it_is(number: int) -> None:
    assert judged(_FORMS[number]) == _FORMS[number]
    assert keys.load(_FORMS[number]).sign(b"data", keys.load(_FORMS[number]).sig_algorithms[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", "\\n"),
        lambda text: '"' + text.replace("\n", "\\r\\n") + '"',
        lambda text: text.replace("\n", " "),
        lambda text: text.replace("\n", ""),
        lambda text: "\n\n  " + text.replace("\n", "\n  "),
        lambda text: (
            f"Bag Attributes\n  friendlyName: k\n{text}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        ),
        lambda text: f"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{text}",
    ],
)
@pytest.mark.parametrize("text", [_TEXT, _FORMS[4]], ids=["openssh", "pem"])
def test_a_key_that_was_pasted_another_way_is_taken(text: str, change: Callable[[str], str]) -> None:
    for taken in (change(text), decoded(change(text).encode()), decoded(change(text).encode("utf-16"))):
        assert keys.load(taken).public_data == keys.load(text).public_data


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "PuTTYgen"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me@here", "is a public key"),
        ("ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1l", "is a certificate"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "is a public key"),
        ("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----", "is a public key"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "is a certificate"),
        ("---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nAAAA\n", "ssh-keygen -i"),
        ("-----BEGIN PGP PRIVATE KEY BLOCK-----\nAAAA\n-----END PGP PRIVATE KEY BLOCK-----", "OpenPGP"),
        ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----", "passphrase"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n"
            "-----END RSA PRIVATE KEY-----",
            "passphrase",
        ),
        (_TEXT[:200], "is cut off"),
        (_TEXT.replace("b3Bl", "b3!l"), "is damaged"),
        (_TEXT.replace("AAAA", "ABAA"), "is damaged"),
        ("hello", "is not a private key"),
        ("", "is not a private key"),
        ("-----BEGIN " * 5000, "is not a private key"),
        (_pem(dsa.generate_private_key(1024)), "DSA"),
        (_pem(x25519.X25519PrivateKey.generate()), "of a kind that SSH does not know"),
        (_pem(ec.generate_private_key(ec.SECP256K1())), "curve"),
        (_pem(ec.generate_private_key(ec.BrainpoolP256R1()), PrivateFormat.TraditionalOpenSSL), "curve"),
    ],
)
async def test_what_is_no_key_is_named_with_what_to_do(text: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        await keys.checked(text, "private_key")


def test_a_binary_file_is_named() -> None:
    with pytest.raises(KeyFormatError, match="binary"):
        decoded(_ED.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def test_a_key_on_a_curve_of_its_own_is_refused(tmp_path: Path) -> None:
    made = subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-param_enc", "explicit"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    with pytest.raises(KeyFormatError, match="curve"):
        judged(made)


@pytest.mark.parametrize("name", list(hostile_keys()))
async def test_a_hostile_key_is_refused_before_it_costs_anything(name: str) -> None:
    text = hostile_keys()[name]
    await _loaded()
    began = time.process_time()
    with pytest.raises(ValidationError):
        await keys.checked(text[: keys.LONGEST], "private_key")
    assert time.process_time() - began < 0.1


@pytest.mark.thorough
async def test_the_largest_keys_that_are_taken_cost_little() -> None:
    text = _pem(rsa.generate_private_key(65537, 4096))
    await _loaded()
    began = time.process_time()
    assert await keys.checked(text, "private_key") == text
    keys.load(text)
    assert time.process_time() - began < 0.1


async def test_a_key_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValidationError, match="at most"):
        await keys.checked(_TEXT + "x" * keys.LONGEST, "private_key")


async def _loaded() -> None:
    await keys.checked(_TEXT, "private_key")


def _blob(kind: bytes, *parts: bytes) -> bytes:
    return String(kind) + b"".join(parts)


def test_a_hosts_own_key_is_judged_by_its_size() -> None:
    assert judge_public(asyncssh.import_private_key(_TEXT).public_data) is None
    assert judge_public(_blob(b"ssh-rsa", MPInt(65537), MPInt(1 << 3071))) is None
    for blob in (
        _blob(b"ssh-rsa", MPInt(65537), MPInt(1 << 16383)),
        _blob(b"ssh-rsa", MPInt(1 << 2000 | 1), MPInt(1 << 2047)),
        _blob(b"ssh-rsa", MPInt(65537), MPInt(1 << 500)),
        _blob(b"ssh-dss", MPInt(1)),
        _blob(b"x509v3-ssh-rsa", String(b"x" * 1000)),
        _blob(b"ssh-rsa", b"\xff\xff\xff\xff"),
        b"",
    ):
        assert judge_public(blob) is not None
