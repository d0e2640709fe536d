"""Certificates for signed bundles: authorities, and signers of theirs that are valid or expired."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Signer:
    """The files of a leaf and its key, and when it ends."""

    certificate: Path
    key: Path
    not_after: datetime


class Authority:
    """A CA in a folder of its own; `certificate` is what a keyring holds."""

    def __init__(self, folder: Path, name: str):
        self.folder = folder
        self.name = name
        self.certificate = folder / "ca.cert.pem"
        folder.mkdir(parents=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        begin = datetime.now(UTC) - 1000 * _DAY
        own = _builder(name, name, self._key, begin, begin + 5000 * _DAY)
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        own = own.add_extension(_usage(signs_certificates=True), critical=True)
        own = own.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        self._certificate = own.sign(self._key, hashes.SHA256())
        _write(self.certificate, self._certificate)

    def signer(self, name: str, *, ended: bool = False) -> Signer:
        """A leaf for signing bundles; one that has `ended` was valid until yesterday."""
        key = ec.generate_private_key(ec.SECP256R1())
        end = (datetime.now(UTC) + (-_DAY if ended else 300 * _DAY)).replace(microsecond=0)
        leaf = _builder(name, self.name, key, end - 400 * _DAY, end)
        leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        leaf = leaf.add_extension(_usage(signs_certificates=False), critical=True)
        leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        leaf = leaf.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        leaf = leaf.add_extension(issuer, critical=False)
        file = self.folder / name.replace(" ", "-")
        made = Signer(file.with_suffix(".cert.pem"), file.with_suffix(".key.pem"), end)
        _write(made.certificate, leaf.sign(self._key, hashes.SHA256()))
        made.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        made.key.chmod(0o600)
        return made


def _builder(
    subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
