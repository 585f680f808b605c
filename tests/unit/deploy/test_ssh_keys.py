"""SSH keys that an inventory names: looked at when it loads, so that one bad file stops no deploy halfway."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from rbee_deploy.errors import InventoryError
from rbee_deploy.inventory import host

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
KINDS: dict[str, Callable[[], Key]] = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}
LOCKS: dict[str, KeySerializationEncryption] = {
    "plain": NoEncryption(),
    "with a passphrase": BestAvailableEncryption(b"open sesame"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lock", LOCKS)
def test_a_private_key_is_taken(kind: str, lock: str, tmp_path: Path) -> None:
    """Every kind that pyinfra can load is accepted, one with a passphrase without asking for it."""
    key = tmp_path / "key"
    key.write_bytes(KINDS[kind]().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, LOCKS[lock]))
    assert host("g", ssh_key=key).ssh_key == str(key)


TRUNCATED = b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNza\n-----END OPENSSH PRIVATE KEY-----\n"
NO_KEYS = {"empty": b"", "text": b"hello\n", "bytes": bytes(range(256)) * 8, "truncated": TRUNCATED}


@pytest.mark.parametrize("content", NO_KEYS)
def test_what_is_no_private_key_is_refused(content: str, tmp_path: Path) -> None:
    """The sentence names host, field and file."""
    key = tmp_path / "key"
    key.write_bytes(NO_KEYS[content])
    with pytest.raises(InventoryError) as caught:
        host("gpu1", ssh_key=str(key))
    assert caught.value.code == (
        f"host 'gpu1': ssh_key is '{key}': it is not a private key of kind RSA, ECDSA or Ed25519"
    )


def test_a_public_key_is_told_from_the_private_one(tmp_path: Path) -> None:
    """Whoever names the file with .pub is shown the one beside it."""
    (tmp_path / "key").touch()
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAA me\n")
    with pytest.raises(InventoryError) as caught:
        host("gpu1", ssh_key=str(tmp_path / "key.pub"))
    assert str(caught.value.code).endswith(f"; did you mean '{tmp_path / 'key'}'")


@pytest.mark.parametrize("field", ["ssh_key", "ssh_config_file", "ssh_known_hosts_file"])
def test_a_file_that_cannot_be_read_is_refused(field: str) -> None:
    """A file that is there and gives nothing is named with its field; this one fails even for root."""
    with pytest.raises(InventoryError) as caught:
        host("gpu1", **{field: "/proc/self/mem"})
    assert caught.value.code == (
        f"host 'gpu1': {field} is '/proc/self/mem': it cannot be read (input/output error); make it readable for you"
    )
