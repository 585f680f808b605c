"""What this machine needs before it can make hosts."""

import os
import platform
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.lab.commands import SLOW_S, output, succeeds
from tests.lab.errors import LabError, LabUnavailableError

PACKAGE_OF = {
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
KEYRING_PACKAGE = "debian-archive-keyring"
INOTIFY_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
LEAST_INSTANCES = 4096
"""Each host's systemd, logind and polkit take some ten of root's; the kernel's 128 end at about twelve hosts."""

APT = ("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300")


def require_lab() -> None:
    """Raise LabUnavailableError with the one thing to do first if this machine cannot make hosts."""
    if platform.system() != "Linux":
        raise LabUnavailableError(f"the lab needs Linux and this is {platform.system()}: run it on a Linux machine")
    require_root()
    missing = missing_packages()
    if missing:
        raise LabUnavailableError(f"the lab misses {', '.join(missing)}: apt-get install {' '.join(missing)}")
    if not _overlay_known():
        raise LabUnavailableError("this kernel has no overlay file system: load it with modprobe overlay")
    raise_limit(INOTIFY_INSTANCES, LEAST_INSTANCES)


def require_root() -> None:
    """Raise LabUnavailableError for any other user."""
    if os.geteuid() != 0:
        raise LabUnavailableError("the lab makes hosts with systemd-nspawn and needs root: run the command with sudo")


def raise_limit(setting: Path, least: int) -> None:
    """Raise a kernel limit until the next reboot if it is lower and may be raised from here."""
    # Inside a container it is the outer machine's affair, whose own lab raised it.
    with suppress(OSError):
        if int(setting.read_text()) < least:
            setting.write_text(str(least))


def missing_packages() -> list[str]:
    """Name the Debian packages whose programs or keys are not there, in alphabetical order."""
    missing = {package for program, package in PACKAGE_OF.items() if shutil.which(program) is None}
    if not KEYRING.exists():
        missing.add(KEYRING_PACKAGE)
    return sorted(missing)


def ensure_packages(extra: Sequence[str] = ()) -> list[str]:
    """Install what the lab misses, and `extra` Debian packages, and return what was installed.

    Does nothing when all is there. Raises LabUnavailableError where apt-get cannot be used.
    """
    wanted = [*missing_packages(), *(name for name in extra if not _installed(name))]
    if not wanted:
        return []
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise LabUnavailableError(f"the lab misses {', '.join(wanted)}: install them as root with your package manager")
    _install(wanted)
    return wanted


def _install(packages: Sequence[str]) -> None:
    """Install at once where package lists are fresh, and refresh them first where that fails."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = (*APT, "install", "--no-install-recommends", *packages)
    try:
        output(install, timeout=SLOW_S, env=env)
    except LabError:
        output((*APT, "update"), timeout=SLOW_S, env=env)
        output(install, timeout=SLOW_S, env=env)


def _installed(package: str) -> bool:
    return succeeds(("dpkg", "--status", package))


def _overlay_known() -> bool:
    known = "\toverlay" in Path("/proc/filesystems").read_text()
    return known or succeeds(("modprobe", "overlay"))
