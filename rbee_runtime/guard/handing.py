"""Launch files and certificates on their way from the hive's folder to workers: copied, never mounted.

The hive owns its folder and could put anything in its place between a look and a mount. The guard reads it without
following a link, and what the engine mounts is a copy that only the guard can change and only the worker can read.
"""

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rbee_runtime.errors import ConfigError, GuardError
from rbee_runtime.guard.accounts import Account
from rbee_runtime.guard.worker_container import WORKER

NAMES = frozenset({"launch.json", "ca.pem", "worker.pem", "worker.key"})
NEEDED = "launch.json"
MOST_BYTES = 1024 * 1024
DRAFT = "."
"""First character of a copy that is not finished; no worker's id begins so."""

_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe in the place of a file must not make the guard wait.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def prepare(handed: Path, door: int | None = None) -> None:
    """Make the guard's folder if it is not there, and clear away what a guard that died left half made; ConfigError.

    `door` is the group of a rootless engine, which may go through it and not look around.
    """
    mode = 0o700 if door is None else 0o710
    try:
        handed.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(handed) as folder:
            found = os.fstat(folder)
            # As an earlier guard left it, whose engine was another.
            if found.st_uid == os.geteuid() and not found.st_mode & 0o067:
                os.fchown(folder, -1, os.getegid() if door is None else door)
                os.fchmod(folder, mode)
                found = os.fstat(folder)
        if found.st_uid != os.geteuid() or found.st_mode & 0o777 & ~mode:
            raise ConfigError(f"{handed} is open to others: make it a folder of the guard's own user, with mode 0700")
        for each in handed.iterdir():
            if each.name.startswith(DRAFT):
                _remove(each)
    except OSError as error:
        raise ConfigError(f"cannot use {handed} for copies of launch files: {error.strerror}") from error


def copy(handover: Path, handed: Path, worker: str, account: Account) -> Path:
    """Copy what a worker was handed and return the copy, which is there as a whole or not at all; GuardError."""
    content = _read(handover, worker, account)
    target, draft = handed / worker, handed / f"{DRAFT}{worker}.{secrets.token_hex(4)}"
    try:
        draft.mkdir(mode=0o700)
        for name, data in content.items():
            _write(draft / name, data, account)
        draft.chmod(0o500)
        os.chown(draft, account.uid, account.gid)
        drop(handed, worker)
        draft.rename(target)
    except OSError as error:
        if draft.exists():
            _remove(draft)
        raise GuardError(
            f"cannot copy to {target}: {error.strerror}; check the disk of {handed}", status=500
        ) from error
    return target


def drop(handed: Path, worker: str) -> None:
    """Remove a worker's copies; a container that still has them mounted keeps what it has read."""
    if (handed / worker).exists():
        _remove(handed / worker)


def workers(handed: Path) -> set[str]:
    """Return the workers that have copies."""
    return {each.name for each in handed.iterdir() if re.fullmatch(WORKER, each.name)}


def _read(handover: Path, worker: str, account: Account) -> dict[str, bytes]:
    place = handover / worker
    try:
        with _opened(handover) as folder:
            # A hive that is root gives the files to the worker itself.
            owners = {os.fstat(folder).st_uid, account.uid}
        with _opened(place) as folder, os.scandir(folder) as entries:
            content = {entry.name: _content(folder, entry.name, place, owners) for entry in entries}
    except OSError as error:
        raise GuardError(f"cannot read what worker {worker} is handed in {place}: {error.strerror}") from error
    if NEEDED not in content:
        raise GuardError(f"{place} has no {NEEDED}: write it before the container is made")
    return content


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Give a folder that is reached without a link anywhere on the way."""
    folder = os.open("/", os.O_PATH | _FOLDER)
    try:
        for position, part in enumerate(path.parts[1:], 2):
            last = position == len(path.parts)
            inner = os.open(part, (os.O_RDONLY if last else os.O_PATH) | _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)


def _content(folder: int, name: str, place: Path, owners: set[int]) -> bytes:
    if name not in NAMES:
        raise GuardError(
            f"{place} has {ascii(name)[:80]}, and workers are handed {', '.join(sorted(NAMES))}: remove it"
        )
    handle = os.open(name, _FILE, dir_fd=folder)
    try:
        found = os.fstat(handle)
        # A second name for somebody else's file would have the guard read that for the hive.
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid not in owners:
            raise GuardError(f"{place / name} is no plain file of the hive's with one name: write it anew")
        return _whole(handle, place / name)
    finally:
        os.close(handle)


def _whole(handle: int, path: Path) -> bytes:
    data = bytearray()
    while block := os.read(handle, MOST_BYTES):
        data += block
        if len(data) > MOST_BYTES:
            raise GuardError(f"{path} has more than {MOST_BYTES} bytes: workers are handed small files")
    return bytes(data)


def _write(path: Path, data: bytes, account: Account) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fchown(handle, account.uid, account.gid)


def _remove(path: Path) -> None:
    # The guard may change owners, but has not the right to write into others' folders.
    os.chown(path, os.geteuid(), os.getegid(), follow_symlinks=False)
    path.chmod(0o700)
    shutil.rmtree(path)
