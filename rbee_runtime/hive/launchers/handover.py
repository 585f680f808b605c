"""The one folder that a container gets of its hive: launch file and certificates, readable by the worker alone."""

import os
import pwd
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from rbee_runtime import ports
from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.launchers.containers import CERTIFICATES, LAUNCH_NAME, inside
from rbee_runtime.protocol import WorkerLaunch, decode, encode

NOBODY = 65534


def worker_ids() -> tuple[int, int]:
    """Return user and group of workers in containers: the hive's own, and if that is root the workers' account."""
    if os.geteuid() != 0:
        return _own()
    try:
        found = pwd.getpwnam(ports.WORKER_USER)
    except KeyError:
        return NOBODY, NOBODY
    return found.pw_uid, found.pw_gid


def groups_of(folders: Iterable[Path]) -> tuple[int, ...]:
    """Return the groups that folders on this host are for; models are readable by their group alone."""
    return tuple(sorted({folder.stat().st_gid for folder in folders if folder.exists()}))


def read(launch_file: Path) -> WorkerLaunch:
    """Return what the hive wrote for a worker; LauncherError."""
    try:
        return decode(launch_file.read_bytes(), WorkerLaunch)
    except (OSError, msgspec.MsgspecError) as error:
        raise LauncherError(f"the launch file {launch_file} cannot be read: {error}") from error


def write(folder: Path, launch: WorkerLaunch, ids: tuple[int, int]) -> None:
    """Put there what the worker reads at its start; LauncherError with nothing left behind."""
    names = CERTIFICATES if launch.tls_dir else ()
    content = {name: _certificate(Path(launch.tls_dir) / name) for name in names}
    content[LAUNCH_NAME] = encode(inside(launch))
    drop(folder)
    try:
        folder.mkdir(parents=True, mode=0o700)
        for name, data in content.items():
            _give(folder / name, data, ids)
        if ids != _own():
            os.chown(folder, *ids)
    except OSError as error:
        drop(folder)
        raise LauncherError(f"cannot write the worker's files in {folder}: {error.strerror}") from error


def workers(folder: Path) -> set[str]:
    """Return the workers that were handed something and not forgotten since, by the folder of all hand-overs."""
    return {each.name for each in folder.iterdir() if each.is_dir()} if folder.is_dir() else set()


def drop(folder: Path) -> None:
    """Remove the folder; a container that still has it mounted keeps what it has read."""
    shutil.rmtree(folder, ignore_errors=True)


def _certificate(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LauncherError(
            f"workers in containers need {path.name} beside the hive's certificates, but {path} is not readable: "
            f"{error.strerror}; load it in the hive's unit"
        ) from error


def _give(path: Path, content: bytes, ids: tuple[int, int]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(handle, "wb") as file:
        # The hive's unit may not change owners, not even to itself.
        if ids != _own():
            os.fchown(file.fileno(), *ids)
        file.write(content)


def _own() -> tuple[int, int]:
    return os.geteuid(), os.getegid()
