"""Making and reading the fleet's certificates; no files here."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=3650)
CERTIFICATE_LIFE = timedelta(days=730)
"""Two years: only a deploy renews, and a fleet that nobody touches for a year goes on."""

CLOCK_SLACK = timedelta(days=1)
"""Certificates begin in the past, so that a host whose clock is a little behind accepts them."""


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        """Return the certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        """Return the key as unencrypted PEM."""
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(encoding, form, serialization.NoEncryption()).decode()

    @property
    def version(self) -> str:
        """Return the serial number as hex digits."""
        return f"{self.certificate.serial_number:x}"


def new_authority(fleet: str, now: datetime) -> KeyPair:
    """Return a self-signed authority for a fleet."""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = _usage(key_cert_sign=True, crl_sign=True)
    name = authority_name(fleet)
    builder = (
        _builder(name, name, key.public_key(), key.public_key(), now, now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return KeyPair(builder.sign(key, hashes.SHA256()), key)


def issue(authority: KeyPair, common_name: str, uri: str | None, addresses: Iterable[str], now: datetime) -> KeyPair:
    """Return a certificate for both ends of a link; without `uri` it carries no identity and serves clients only."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if uri is not None else [])]
    issuer = authority.certificate.subject
    # Nobody takes it once its authority has ended, so it says no other end.
    end = min(now + CERTIFICATE_LIFE, authority.certificate.not_valid_after_utc)
    builder = (
        _builder(subject, issuer, key.public_key(), authority.key.public_key(), now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(uri, addresses)), critical=False)
    )
    return KeyPair(builder.sign(authority.key, hashes.SHA256()), key)


def read(pem: str, key_pem: str) -> KeyPair:
    """Return a pair out of two PEM texts; raise ValueError when either is damaged or they do not belong together."""
    certificate = x509.load_pem_x509_certificate(pem.encode())
    try:
        key = serialization.load_pem_private_key(key_pem.encode(), password=None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("the key is encrypted or of an unknown kind") from error
    if isinstance(key, ec.EllipticCurvePrivateKey) and belongs(certificate, key):
        return KeyPair(certificate, key)
    raise ValueError("the key does not belong to the certificate")


def belongs(certificate: x509.Certificate, key: PrivateKeyTypes) -> bool:
    """Say whether `key` is the certificate's."""
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    public = certificate.public_key().public_bytes(encoding, form)
    return public == key.public_key().public_bytes(encoding, form)


def is_current(pair: KeyPair, authority: KeyPair, uri: str | None, addresses: Iterable[str], now: datetime) -> bool:
    """Say whether a certificate is still the right one: same issuer, names and at least a third of its life left."""
    certificate = pair.certificate
    try:
        certificate.verify_directly_issued_by(authority.certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    left = certificate.not_valid_after_utc - now
    return list(names) == _names(uri, addresses) and certificate.not_valid_before_utc <= now and left > _third(pair)


def addresses_of(pair: KeyPair) -> tuple[str, ...]:
    """Return the names and addresses that a certificate is for, in its order; none where it has no such extension."""
    try:
        names = pair.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return ()
    return tuple(str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress))


def is_valid_at(certificate: x509.Certificate, now: datetime) -> bool:
    """Say whether a certificate has begun and not ended."""
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def end_of(pem: str) -> datetime:
    """Return when a certificate, the first of a chain, ends; raise ValueError when it is damaged."""
    return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc


def authority_name(fleet: str) -> x509.Name:
    """Return the subject of a fleet's authority."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"rbee fleet {fleet}"[:64])])


def _third(pair: KeyPair) -> timedelta:
    return (pair.certificate.not_valid_after_utc - pair.certificate.not_valid_before_utc) / 3


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(uri: str | None, addresses: Iterable[str]) -> list[x509.GeneralName]:
    identity: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)] if uri is not None else []
    return [*identity, *(_address(address) for address in dict.fromkeys(addresses))]


def _address(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)
