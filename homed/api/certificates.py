"""TLS: the owner's certificate, or a self-signed one made at first start."""

import datetime
import ipaddress
import logging
import os
import socket
import ssl
from pathlib import Path

from homed import atomic, credentials
from homed.config import Tls
from homed.errors import ConfigError

log = logging.getLogger(__name__)
_VALID_FOR = datetime.timedelta(days=3650)


def context(tls: Tls, state: Path) -> ssl.SSLContext | None:
    """The server's TLS context; None where TLS is off. ConfigError where the files cannot be used."""
    if not tls.enabled:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    load(made, tls, state)
    return made


def load(into: ssl.SSLContext, tls: Tls, state: Path) -> None:
    """Load the certificate into a context; done again at a reload, it serves a renewed one without a restart."""
    certificate, key = files(tls, state)
    if certificate.parent == state / "tls" and not (certificate.exists() and key.exists()):
        make_self_signed(certificate, key, socket.gethostname())
    try:
        into.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"api.tls: {certificate} with {key} cannot be used: {error}") from error


def files(tls: Tls, state: Path) -> tuple[Path, Path]:
    if tls.certificate and tls.key:
        return Path(tls.certificate), Path(tls.key)
    given = [credentials.find(f"homed.tls.{part}", credentials.directory()) for part in ("crt", "key")]
    if given[0] is not None and given[1] is not None:
        return given[0], given[1]
    return state / "tls" / "certificate.pem", state / "tls" / "key.pem"


def make_self_signed(certificate: Path, key: Path, hostname: str) -> None:
    """A P-256 certificate for the board's name and loopback. `cryptography` is imported only here (9 MB)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])
    # A board may start with its clock far behind: the certificate must not be from its future.
    start = min(datetime.datetime.now(datetime.UTC), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    names: list[x509.GeneralName] = [
        x509.DNSName(n) for n in dict.fromkeys((hostname, f"{hostname}.local", "localhost"))
    ]
    names += [x509.IPAddress(ipaddress.ip_address(a)) for a in ("127.0.0.1", "::1")]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(datetime.datetime.now(datetime.UTC) + _VALID_FOR)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    atomic.write(key, pem)
    atomic.write(certificate, made.public_bytes(serialization.Encoding.PEM), mode=0o644)
    os.chmod(certificate.parent, 0o700)
    log.warning("Made a self-signed certificate; its SHA-256 is %s", made.fingerprint(hashes.SHA256()).hex(":"))
