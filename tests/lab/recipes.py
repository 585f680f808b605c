"""What is in the base images. Pure: an image is known by the hash of its recipe."""

import hashlib
import json
import platform
from dataclasses import asdict, dataclass

SSH_USER = "ops"
PASSWORD_USER = "opspw"
PLAIN_USER = "nosudo"
# Two words and a dollar sign on purpose: a deployer that quotes badly shall fail on it.
SUDO_PASSWORD = "two words $1"

# Bare on purpose: what a mode needs, the deployer has to install.
BARE = (
    "systemd",
    "systemd-sysv",
    "libpam-systemd",
    "dbus",
    "polkitd",
    "openssh-server",
    "python3",
    "sudo",
    "nftables",
    "iproute2",
    "procps",
    "ca-certificates",
)

# Both engines and what each needs for root and for users; which one a test uses is its own choice.
CONTAINERS = (
    *BARE,
    "podman",
    "crun",
    "netavark",
    "aardvark-dns",
    "catatonit",
    "uidmap",
    "passt",
    "fuse-overlayfs",
    "docker.io",
    "docker-cli",
    "docker-compose",
    "docker-registry",
    "python3-venv",
)

# modules-load fails in every container and would make each host "degraded"; the timers would reach for the network.
MASKED = (
    "systemd-modules-load.service",
    "console-getty.service",
    "getty.target",
    "ssh.socket",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "e2scrub_reap.service",
    "systemd-networkd-wait-online.service",
)

FINISH = f"""
for user in {SSH_USER} {PASSWORD_USER} {PLAIN_USER}; do useradd --create-home --shell /bin/bash $user; done
echo '{PASSWORD_USER}:{SUDO_PASSWORD}' | chpasswd
echo '{SSH_USER} ALL=(ALL:ALL) NOPASSWD: ALL' > /etc/sudoers.d/{SSH_USER}
echo '{PASSWORD_USER} ALL=(ALL:ALL) ALL' > /etc/sudoers.d/{PASSWORD_USER}
chmod 0440 /etc/sudoers.d/*
echo 'UseDNS no' > /etc/ssh/sshd_config.d/lab.conf
rm -f /etc/ssh/ssh_host_* /etc/resolv.conf /etc/hostname /var/lib/dbus/machine-id
: > /etc/machine-id
for unit in {" ".join(MASKED)}; do ln -sf /dev/null /etc/systemd/system/$unit; done
systemctl enable systemd-networkd.service ssh.service
rm -f /etc/systemd/system/sockets.target.wants/ssh.socket
apt-get clean
rm -rf /var/lib/apt/lists/* /var/log/bootstrap.log
"""

# The hosts' unified tree has no controllers, and Podman sets a limit of pids unless told not to. The engines start by
# their sockets, so that a host whose test needs one of them does not wait for the other.
FINISH_CONTAINERS = """
mkdir -p /etc/containers/containers.conf.d
printf '[containers]\\npids_limit = 0\\n' > /etc/containers/containers.conf.d/lab.conf
systemctl disable docker-registry.service
systemctl disable docker.service containerd.service podman-restart.service podman-auto-update.timer
systemctl enable docker.socket podman.socket
"""


# No host, but what images of containers begin with: nothing but Python, what it needs, and a place for mounts.
PYTHON = ("python3", "ca-certificates")
FINISH_PYTHON = """
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /usr/share/doc /usr/share/man /usr/share/locale /usr/share/info
"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One base image: a Debian suite, its packages and a shell script that ends the build inside it."""

    name: str
    suite: str
    packages: tuple[str, ...] = BARE
    finish: str = FINISH

    @property
    def digest(self) -> str:
        """Return 12 hex digits over all that makes the image what it is."""
        content = json.dumps([asdict(self), platform.machine()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def folder(self) -> str:
        """Return the name of the image's folder in the cache."""
        return f"{self.name}-{self.digest}"


RECIPES = {
    recipe.name: recipe
    for recipe in (
        # systemd 257, Python 3.13
        Recipe(name="trixie", suite="trixie"),
        # systemd 252, Python 3.11: the oldest host that rbee supports
        Recipe(name="bookworm", suite="bookworm"),
        # Podman 5.4, Docker 26 with Compose 2, and a registry of images
        Recipe(name="containers", suite="trixie", packages=CONTAINERS, finish=FINISH_CONTAINERS + FINISH),
    )
}
GUEST = Recipe(
    name="guest",
    suite="trixie",
    packages=(
        *("systemd", "systemd-sysv", "dbus", "python3", "nftables", "iproute2", "curl", "ca-certificates"),
        *("podman", "crun", "netavark", "aardvark-dns", "linux-image-cloud-amd64", "initramfs-tools", "kmod"),
        *("uidmap", "passt", "dbus-user-session", "libpam-systemd"),
    ),
    finish=FINISH_PYTHON,
)
"""No host of the lab: a whole machine with a kernel of its own, for what hosts that share one cannot show."""

BASE = Recipe(name="python", suite="trixie", packages=PYTHON, finish=FINISH_PYTHON)
"""Boots nothing: images of containers are built on it, since no registry is reachable."""
