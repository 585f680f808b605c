"""Content by its hash: what generations need, and what an activation may have to put back."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from rbee_deploy.activator import disk, places


def folder(*, secret: bool) -> Path:
    """Return where content lies; secrets lie beside the credentials in use."""
    return places.SECRET_BLOBS if secret else places.BLOBS


def keep(content: bytes, *, secret: bool) -> str:
    """Keep content and return its hash."""
    sha256 = hashlib.sha256(content).hexdigest()
    disk.private_folder(folder(secret=secret))
    path = folder(secret=secret) / sha256
    if not path.is_file():
        disk.write(path, content)
    return sha256


def read(sha256: str, *, secret: bool) -> bytes:
    """Return content, or raise ValueError when it is gone or damaged."""
    path = folder(secret=secret) / sha256
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} is not there ({error.strerror}); run the deploy again") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        path.unlink()
        raise ValueError(f"{path} was damaged; run the deploy again")
    return content


def sweep(wanted: Iterable[str]) -> None:
    """Remove all content but this."""
    kept = set(wanted)
    for path in (*places.BLOBS.glob("*"), *places.SECRET_BLOBS.glob("*")):
        if path.name not in kept:
            path.unlink(missing_ok=True)
