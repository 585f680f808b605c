"""Files on the operator's machine that only the operator reads: 0600 in a 0700 folder, replaced atomically."""

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rbee_deploy.errors import AuthorityError


def make_private_folder(path: Path) -> None:
    """Create a folder with mode 0700; close one that is open to others."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise AuthorityError(f"cannot make the folder {path}: {error.strerror}; choose another secrets_dir") from error


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; a reader sees the old text or the new one."""
    write_private_bytes(path, text.encode())


def write_private_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step; a reader sees the old content or the new one."""
    try:
        # mkstemp makes the file 0600 before a byte is in it.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise AuthorityError(f"cannot write {path}: {error.strerror}; make room or correct its owner") from error


def read_private(path: Path) -> str | None:
    """Return the text, or None when there is no such file; one open to others raises AuthorityError."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise AuthorityError(f"{path} is open to others; run chmod 600 {path}, and replace it if others read it")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise AuthorityError(f"cannot read {path}: {error}; restore it from a backup") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, so that two deploys at once do not make two authorities."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
