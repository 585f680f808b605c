"""Owned files on the host: what is there, and making it what it should be."""

import contextlib
import grp
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from rbee_deploy.activator import blobs, disk
from rbee_deploy.activator.manifest import File
from rbee_runtime import ports

DROP_INS = "rbee-*.d"
"""Folders that are there for files of ours alone. Others of systemd and polkit are watched, and stay when empty."""

SYSTEMD = "systemd"
"""The folder of a unit file, or of Quadlet's, or one above it."""

OTHER = "other"
"""What is at a path that is neither file nor link; it is left alone, and the activation fails."""


@dataclass(frozen=True)
class Found:
    """What was at a path: `kind` is absent, file, link or other; `content` a hash, or where the link leads."""

    path: str
    kind: str = "absent"
    content: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0

    @property
    def secret(self) -> bool:
        """Say whether its content is kept with the credentials."""
        return Path(self.path).is_relative_to(ports.CREDENTIALS)


def look(path: str) -> Found:
    """Return what is at a path, and keep its content."""
    try:
        known = Path(path).lstat()
    except FileNotFoundError:
        return Found(path)
    access = (stat.S_IMODE(known.st_mode), known.st_uid, known.st_gid)
    if stat.S_ISLNK(known.st_mode):
        return Found(path, "link", str(Path(path).readlink()), *access)
    if not stat.S_ISREG(known.st_mode):
        return Found(path, OTHER, "", *access)
    bare = Found(path, "file", "", *access)
    return Found(path, "file", blobs.keep(Path(path).read_bytes(), secret=bare.secret), *access)


def put_back(found: Found) -> None:
    """Make a path again what it was."""
    path = Path(found.path)
    if look(found.path) == found or found.kind == OTHER:
        return
    if found.kind == "absent":
        remove(found.path)
    elif found.kind == "link":
        disk.link(path, found.content)
    else:
        content = blobs.read(found.content, secret=found.secret)
        disk.write(path, content, mode=found.mode, owner=(found.uid, found.gid))


def is_systemds(path: str) -> bool:
    """Say whether systemd reads a path, by itself or by Quadlet, and knows its old content until it reads it again."""
    return SYSTEMD in Path(path).parts


def is_as_wanted(file: File, found: Found) -> bool:
    """Say whether a path has a file's content, owner and mode."""
    uid, gid = ids(file)
    wanted = Found(file.path, "file", file.sha256, int(file.mode, 8), uid, gid)
    return found == wanted


def place(file: File) -> None:
    """Give a path a file's content, owner and mode."""
    if is_as_wanted(file, look(file.path)):
        return
    path = Path(file.path)
    if path.is_dir() and not path.is_symlink():
        raise ValueError(f"{path} is a folder; move it away")
    content = blobs.read(file.sha256, secret=file.secret)
    _make_folder(path.parent)
    disk.write(path, content, mode=int(file.mode, 8), owner=ids(file))


def _make_folder(folder: Path) -> None:
    """Make the folder of a file where the host's packages have not: of Quadlet's files, or of a drop-in."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(0o755)


def ids(file: File) -> tuple[int, int]:
    """Return uid and gid of a file's owner, or raise ValueError."""
    try:
        return pwd.getpwnam(file.owner).pw_uid, grp.getgrnam(file.group).gr_gid
    except KeyError as error:
        raise ValueError(f"{file.path} should belong to {file.owner}:{file.group}, and {error.args[0]}") from error


def remove(path: str) -> None:
    """Remove a file or link, if it is there."""
    if os.path.lexists(path) and not (Path(path).is_dir() and not Path(path).is_symlink()):
        Path(path).unlink()
        if Path(path).parent.match(DROP_INS):
            with contextlib.suppress(OSError):
                Path(path).parent.rmdir()
