"""The operator's first API key and its rotation: three files in the folder of the fleet's secrets, and no others.

api-key        the key that the operator and the deployer use; the queen knows it
api-key.new    one that the queen is about to learn, until it was tried
api-key.old    the one before, which works until it is revoked

Every step leaves files from which the next run goes on, wherever one was cut off.
"""

import hashlib
import secrets
from pathlib import Path

from rbee_deploy import advised
from rbee_deploy.errors import AuthorityError
from rbee_deploy.private_files import locked, read_private, write_private
from rbee_deploy.secrets import Secret

CURRENT, NEW, OLD = "api-key", "api-key.new", "api-key.old"


def current(directory: Path) -> Secret:
    """Return the key in use, made now if there was none."""
    with locked(directory):
        return _read(directory, CURRENT) or _make(directory, CURRENT)


def bootstrap_line(directory: Path) -> str:
    """Return what the queen is to import, `<id8>:<sha256>`: of the key that she is to learn, else of the one in use."""
    key = current(directory)
    with locked(directory):
        return line(_read(directory, NEW) or key)


def line(key: Secret) -> str:
    """Return the line by which the queen knows a key."""
    return f"{key_id(key)}:{hashlib.sha256(key.reveal().encode()).hexdigest()}"


def key_id(key: Secret) -> str:
    """Return the public part of a key."""
    return key.reveal().split("_")[1]


def begin(directory: Path) -> Secret:
    """Return the key that is to follow the one in use: one that an earlier run made, or a new one.

    Raise AuthorityError while the key before has not been revoked; a third one would be forgotten by everybody.
    """
    used = current(directory)
    with locked(directory):
        old, new = _read(directory, OLD), _read(directory, NEW)
        if new is not None:
            return new
        if old is not None and old != used:
            raise AuthorityError(
                f"{directory / OLD} still works; give {directory / CURRENT} to whoever uses it, then end it by "
                f"{advised.command('rotate api-key --revoke-old')}"
            )
        return _make(directory, NEW)


def finish(directory: Path) -> None:
    """Use the key that the queen has learnt, and keep the one before until it is revoked."""
    used = current(directory)
    with locked(directory):
        new = _read(directory, NEW)
        if new is None:
            return
        if used != new:
            write_private(directory / OLD, used.reveal() + "\n")
        (directory / NEW).replace(directory / CURRENT)


def old(directory: Path) -> Secret | None:
    """Return the key that is to be revoked, None if there is none; raise AuthorityError in the middle of a rotation."""
    with locked(directory):
        if _read(directory, NEW) is not None:
            raise AuthorityError(
                f"{directory / NEW} is not in use yet; run {advised.command('rotate api-key')} to its end before that"
            )
        return _read(directory, OLD)


def forget_old(directory: Path) -> None:
    """Delete the key that was revoked."""
    with locked(directory):
        (directory / OLD).unlink(missing_ok=True)


def _read(directory: Path, name: str) -> Secret | None:
    text = (read_private(directory / name) or "").strip()
    if not text:
        return None
    parts = text.split("_")
    if len(parts) != 3 or parts[0] != "rbee" or len(parts[1]) != 8:
        raise AuthorityError(
            f"{directory / name} does not hold an API key of the form rbee_<id>_<secret>; restore or delete it"
        )
    return Secret(text)


def _make(directory: Path, name: str) -> Secret:
    text = f"rbee_{secrets.token_hex(4)}_{secrets.token_hex(32)}"
    write_private(directory / name, text + "\n")
    return Secret(text)
