"""What the user needs who runs containers: ids of the host to lend, a service manager of its own, a resolver's file."""

import grp
import pwd
import subprocess
from collections.abc import Iterable
from pathlib import Path

from rbee_deploy.activator import disk, engines, places, units
from rbee_deploy.activator.rootless import locking
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports, subordinate

USERS = (ports.QUEEN_USER, ports.HIVE_USER, ports.WORKER_USER)
GROUPS = (*USERS, ports.MODELS_GROUP)
DEVICE_GROUPS = ("video", "render")
"""Of cards, where a driver has made them."""

LINGER = Path("/var/lib/systemd/linger")
RESOLVER = Path("/etc/resolv.conf")
PAUSE = "libpod/tmp/pause.pid"
"""In the user's runtime folder: the process that keeps the user namespace, and with it the ids that were lent to it."""

MOST_PID = 16
PROC = Path("/proc")
MIGRATE_SECONDS = 120.0


def prepare(*, anew: bool = False) -> None:
    """Make ready what the user needs; ActivationError.

    What is lent changes only while nothing runs with it, or with `anew`, which ends what does.
    """
    try:
        user = pwd.getpwnam(ports.ENGINE_USER)
    except KeyError as error:
        raise ActivationError(f"there is no user {ports.ENGINE_USER} on this host; run the deploy again") from error
    pause = _pause(user.pw_uid)
    if anew or pause is None:
        _lend(subordinate.SUBUID, (found.pw_uid for found in pwd.getpwall() if found.pw_name in USERS))
        wanted = (*GROUPS, *DEVICE_GROUPS)
        _lend(subordinate.SUBGID, (found.gr_gid for found in grp.getgrall() if found.gr_name in wanted))
    if not RESOLVER.exists() and not RESOLVER.is_symlink():
        # Podman makes no network without it, and to programs an empty one is as none. Noted first, for a purge.
        disk.private_folder(places.HOME)
        places.RESOLVER_MADE.touch(mode=0o600)
        disk.write(RESOLVER, b"", mode=0o644)
    LINGER.mkdir(mode=0o755, exist_ok=True)
    (LINGER / ports.ENGINE_USER).touch()
    # Also where it runs already; it makes the folder of the user's sockets and locks.
    units.systemctl("start", "--", f"user@{user.pw_uid}.service")
    if anew and pause is not None and not _has_all(pause):
        _migrate()


def _lend(path: str, ids: Iterable[int]) -> None:
    file, lent = Path(path), tuple(ids)
    if subordinate.lending(_text(file), ports.ENGINE_USER, lent) == _text(file):
        return
    with locking.held(file):
        # Once more: somebody may have been at it until now.
        wanted = subordinate.lending(_text(file), ports.ENGINE_USER, lent)
        disk.write(file, wanted.encode(), mode=0o644)


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def _pause(uid: int) -> Path | None:
    """Return the process that keeps the user's namespace, None if nothing does.

    The user writes this file and the folders on the way to it: only a process of that very user is believed of it.
    """
    try:
        text = disk.read_untrusted_below(Path(engines.runtime_dir(str(uid))), PAUSE, most=MOST_PID)
    except OSError:
        return None
    return owned(text.decode(errors="replace"), uid)


def owned(number: str, uid: int) -> Path | None:
    """Return the process with a number that somebody else wrote, None if it is none of a user's."""
    digits = number.removesuffix("\n")
    if not (digits.isascii() and digits.isdecimal()):
        return None
    process = PROC / digits
    try:
        return process if process.stat().st_uid == uid and (process / "uid_map").is_file() else None
    except OSError:
        return None


def _has_all(process: Path) -> bool:
    """Say whether a process has all that is lent now, in the same order."""
    for name, path in (("uid_map", subordinate.SUBUID), ("gid_map", subordinate.SUBGID)):
        rows = [line.split() for line in (process / name).read_text().splitlines()]
        lent = [(span.first, span.count) for span in subordinate.lent(Path(path).read_text(), ports.ENGINE_USER)]
        # The first is the user's own id.
        if [(int(row[1]), int(row[2])) for row in rows][1:] != lent:
            return False
    return True


def _migrate() -> None:
    """Have Podman end what runs with ids that were lent before, and take the new ones."""
    words = (*engines.command(engines.ROOTLESS), "system", "migrate")
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=MIGRATE_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ActivationError(f"podman system migrate took longer than {MIGRATE_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise ActivationError(f"podman system migrate failed: {done.stderr.strip()}")
