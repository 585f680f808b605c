"""Packages that a bare host needs from its distribution, and how each distribution installs them."""

import shlex

POLKIT = {
    "debian": ("polkitd",),
    "ubuntu": ("polkitd",),
    "fedora": ("polkit",),
    "rhel": ("polkit",),
    "rocky": ("polkit",),
    "almalinux": ("polkit",),
}
"""By the ID of /etc/os-release; elsewhere preflight says what to install."""

_APT = frozenset({"debian", "ubuntu"})

LOCK_SECONDS = 120
"""Unattended upgrades hold dpkg's lock for a minute or two on a fresh machine."""


def install(packages: tuple[str, ...], os_id: str) -> str:
    """Return the script that installs packages; a stale index is refreshed only when it has to be."""
    names = shlex.join(packages)
    if os_id not in _APT:
        return f"dnf install -y -q -- {names}"
    get = f"DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout={LOCK_SECONDS}"
    command = f"{get} install --no-install-recommends -y -- {names}"
    return f"{command} || {{ {get} update && {command}; }}"
