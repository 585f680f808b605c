"""A throw-away fleet authority for tests: the files that the deployer puts on hosts, valid for a day."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ROLES = ("queen", "hive", "worker")


@dataclass(frozen=True)
class Odd:
    """A certificate of this authority that no deployer makes; times are hours from now."""

    uri: str
    since: float = -1
    until: float = 24


def issue_fleet(
    directory: Path, fleet: str, *, names: dict[str, str] | None = None, odd: dict[str, Odd] | None = None
) -> Path:
    """Write ca.pem and <role>.pem, <role>.key for each role into `directory` and return it.

    The name in each identity is the role's own unless `names` says otherwise; `odd` are further ones by file name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name(f"rbee {fleet}")
    ca = _builder(ca_name, ca_name, ca_key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    _write(directory / "ca.pem", ca.sign(ca_key, hashes.SHA256()))
    for role in ROLES:
        name = (names or {}).get(role, role)
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = _leaf(_builder(_name(name), ca_name, key), f"rbee://{fleet}/{role}/{name}")
        _write(directory / f"{role}.pem", leaf.sign(ca_key, hashes.SHA256()))
        _write_key(directory / f"{role}.key", key)
    for name, wanted in (odd or {}).items():
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = _leaf(_builder(_name(name), ca_name, key, since=wanted.since, until=wanted.until), wanted.uri)
        _write(directory / f"{name}.pem", leaf.sign(ca_key, hashes.SHA256()))
        _write_key(directory / f"{name}.key", key)
    return directory


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    since: float = -1,
    until: float = 24,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(tz=dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(hours=since))
        .not_valid_after(now + dt.timedelta(hours=until))
    )


def _leaf(builder: x509.CertificateBuilder, uri: str) -> x509.CertificateBuilder:
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    return builder.add_extension(san, critical=True).add_extension(usages, critical=False)


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    plain = serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    path.chmod(0o600)
