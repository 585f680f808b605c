"""The operator's own certificate for the client endpoint, checked before any host sees it."""

import hashlib
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from rbee_deploy import _x509
from rbee_deploy.errors import AuthorityError
from rbee_deploy.render import Certificate
from rbee_deploy.secrets import Secret
from rbee_deploy.site import TlsPaths


def operator_certificate(paths: TlsPaths, now: datetime) -> Certificate:
    """Return the certificate and key in two PEM files; raise AuthorityError when they cannot serve."""
    pem, key = _text(paths.certificate), _text(paths.key)
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        private = load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AuthorityError(
            f"client_endpoint: {paths.certificate} and {paths.key} must be PEM, the key without a password: {error}"
        ) from error
    if not _x509.belongs(certificate, private):
        raise AuthorityError(f"client_endpoint: key {paths.key} does not belong to certificate {paths.certificate}")
    if not _x509.is_valid_at(certificate, now):
        end = certificate.not_valid_after_utc.date()
        raise AuthorityError(f"client_endpoint: {paths.certificate} is not valid now (it ends on {end}); renew it")
    version = hashlib.sha256(f"{pem}\0{key}".encode()).hexdigest()[:16]
    return Certificate(pem, Secret(key, version=version), version)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AuthorityError(f"client_endpoint: cannot read {path}: {error}") from error
