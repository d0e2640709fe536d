"""TLS: the owner's certificate, or a self-signed one that is made at the first start and renewed automatically."""

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from homed import atomic, clock, credentials
from homed.config import Api, Tls
from homed.errors import ConfigError
from homed.host import addresses

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

log = logging.getLogger(__name__)
_VALID_FOR = timedelta(days=3650)
RENEWED_BEFORE = timedelta(days=30)
CHECK_INTERVAL = 86_400.0
# A board may start with its clock far behind: a certificate must be valid both then and once the clock is right.
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_MAX_NAMES = 64


class Certificate(NamedTuple):
    """A certificate's names, addresses and validity; `fingerprint` is its SHA-256 in openssl's notation."""

    path: Path
    names: Sequence[str]
    not_before: datetime
    not_after: datetime
    fingerprint: str
    self_signed: bool


class Names(NamedTuple):
    """The names for this board's certificate; if one of the `needed` is missing, verifying clients reject it."""

    needed: Sequence[str]
    all: Sequence[str]


def context(tls: Tls, state: Path, hosts: Sequence[str] = ()) -> ssl.SSLContext | None:
    """Create the server's TLS context; None if TLS is off. `hosts` are additional names of the board.

    Raises: ConfigError, if the files cannot be used.
    """
    if not tls.enabled:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    load(made, tls, state, hosts)
    return made


async def renew(into: ssl.SSLContext, current: Callable[[], Api], state: Path) -> None:
    """Reload the certificate daily: renew homed's own in time, and serve one that others have renewed."""
    while True:
        await asyncio.sleep(CHECK_INTERVAL)
        try:
            load(into, current().tls, state, current().hosts)
        except ConfigError as error:
            log.error("Cannot renew the certificate: %s", error.message)  # noqa: TRY400  its message says all


def load(into: ssl.SSLContext, tls: Tls, state: Path, hosts: Sequence[str] = ()) -> None:
    """Load the certificate into a context; repeated at each reload and each day, to serve a renewed one."""
    certificate, key = files(tls, state)
    if certificate.parent == state / "tls":
        _keep(certificate, key, board_names(socket.gethostname(), hosts, addresses.read()))
    try:
        into.load_cert_chain(certificate, key)
        told = describe(certificate)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"api.tls: {certificate} with {key} cannot be used: {error}") from error
    _tell(told, clock.now())


def files(tls: Tls, state: Path) -> tuple[Path, Path]:
    """Return the paths of the certificate and its key: those named, the unit's credentials, or homed's own."""
    if tls.certificate and tls.key:
        return Path(tls.certificate), Path(tls.key)
    given = [credentials.find(f"homed.tls.{part}", credentials.directory()) for part in ("crt", "key")]
    if given[0] is not None and given[1] is not None:
        return given[0], given[1]
    return state / "tls" / "certificate.pem", state / "tls" / "key.pem"


def describe(path: Path) -> Certificate:
    """Parse the first certificate of a PEM file. Raises: ConfigError, if it is invalid; OSError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    data = path.read_bytes()
    try:
        found = x509.load_pem_x509_certificate(data)
        fingerprint = hashlib.sha256(found.public_bytes(Encoding.DER)).hexdigest()
        before, after = found.not_valid_before_utc, found.not_valid_after_utc
        extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [*extension.get_values_for_type(x509.DNSName)]
        names += [str(one) for one in extension.get_values_for_type(x509.IPAddress)]
    except x509.ExtensionNotFound:
        names = []
    except ValueError as error:
        raise ConfigError(f"{path}: not a certificate: {error}") from error
    pairs = ":".join(fingerprint[i : i + 2] for i in range(0, 64, 2)).upper()
    return Certificate(path, names, before, after, pairs, found.issuer == found.subject)


def board_names(hostname: str, hosts: Sequence[str], found: addresses.Addresses) -> Names:
    """List the names for a certificate of this board (pure)."""
    short = hostname.partition(".")[0]
    names = [hostname, f"{short}.local", "localhost", *hosts, "127.0.0.1", "::1"]
    needed = [name for name in dict.fromkeys([*names, *found.lasting]) if _is_nameable(name)][:_MAX_NAMES]
    return Names(needed, list(dict.fromkeys([*needed, *found.all])))


def why_renew(certificate: Certificate, names: Names, now: datetime) -> str:
    """Return why a self-signed certificate must be renewed; empty if it need not be, or is not homed's (pure)."""
    if not certificate.self_signed:
        return ""
    if certificate.not_after - now < RENEWED_BEFORE:
        return f"it ends on {certificate.not_after:%Y-%m-%d}"
    missing = [name for name in names.needed if name not in certificate.names]
    return f"it does not name {', '.join(missing)}" if missing else ""


def make_self_signed(certificate: Path, key: Path, hostname: str, names: Sequence[str] = ()) -> None:
    """Create a P-256 certificate for the board's name, loopback and `names`. An existing key is kept.

    So clients that pin the key keep working; clients that trust the certificate itself need the new one.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    private = _private_key(key)
    fresh = private is None
    if private is None:
        private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])
    short = hostname.partition(".")[0]
    wanted = dict.fromkeys([hostname, f"{short}.local", "localhost", "127.0.0.1", "::1", *names])
    now = clock.now()
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, _EPOCH))
        .not_valid_after(max(now, _EPOCH) + _VALID_FOR)
        .add_extension(
            x509.SubjectAlternativeName([
                x509.IPAddress(address) if (address := _address(one)) is not None else x509.DNSName(one)
                for one in wanted
                if _is_nameable(one)
            ][:_MAX_NAMES]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )  # fmt: skip
    certificate.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if fresh:
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        atomic.write(key, pem)
    atomic.write(certificate, made.public_bytes(serialization.Encoding.PEM), mode=0o644)
    os.chmod(certificate.parent, 0o700)


def _private_key(path: Path) -> "ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None":
    """Read a private key; None if it is missing or unusable."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        found = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        return None
    return found if isinstance(found, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) else None


def _keep(certificate: Path, key: Path, names: Names) -> None:
    """Create the self-signed certificate if no usable one exists, or renew it if needed."""
    hostname = names.needed[0]
    try:
        told = _usable(certificate, key)
        reason = why_renew(told, names, clock.now()) if told is not None else ""
        if told is None:
            for path in (certificate, key):
                _set_aside(path)
            make_self_signed(certificate, key, hostname, names.all)
            log.warning("Made a self-signed certificate: %s", certificate)
        elif reason:
            make_self_signed(certificate, key, hostname, [*names.all, *told.names])
            log.warning(
                "Renewed the self-signed certificate %s with its key, since %s: clients that trust the "
                "certificate itself (not its key) need the new one",
                certificate,
                reason,
            )
    except OSError as error:
        if not (certificate.exists() and key.exists()):
            raise ConfigError(f"api.tls: cannot create {certificate}: {error.strerror or error}") from error
        log.error("Cannot renew the self-signed certificate: %s", error)  # noqa: TRY400


def _usable(certificate: Path, key: Path) -> Certificate | None:
    """Describe a certificate that matches its key; None if either is missing or damaged."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        return describe(certificate)
    except (OSError, ssl.SSLError, ConfigError):
        return None


def _set_aside(path: Path) -> None:
    """Move unusable files out of the way of new ones, keeping them; leave a usable key in place."""
    if path.exists() and (path.is_dir() or _private_key(path) is None):
        beside = path.with_name(f"{path.name}.bad")
        with contextlib.suppress(OSError):
            os.replace(path, beside)
            log.error("%s cannot be used and was set aside as %s", path, beside)


def _tell(certificate: Certificate, now: datetime) -> None:
    log.info(
        "TLS certificate %s: SHA-256 %s, valid until %s, for %s",
        certificate.path,
        certificate.fingerprint,
        clock.rfc3339(certificate.not_after),
        ", ".join(certificate.names) or "no name",
    )
    if certificate.not_after - now < RENEWED_BEFORE:
        log.warning("The TLS certificate %s ends on %s", certificate.path, clock.rfc3339(certificate.not_after))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_nameable(name: str) -> bool:
    """Return whether a certificate can contain this name: a host name may have characters that DNS forbids."""
    return name.isascii() and 0 < len(name) < 254 and "/" not in name and " " not in name
