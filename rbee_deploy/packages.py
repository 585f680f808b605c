"""Packages that a host needs from its distribution, by what they are needed for, and how each is installed."""

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rbee_deploy import pythons
from rbee_deploy.modes import ContainerEngine


class Need(StrEnum):
    """What a host may lack."""

    POLKIT = "polkit"
    PYTHON = "python"
    PODMAN = "podman"
    ROOTLESS = "podman-rootless"
    DOCKER = "docker"
    NFTABLES = "nftables"


BARE = (Need.POLKIT, Need.PYTHON)
"""What a host without containers needs."""

ENGINES = {
    ContainerEngine.PODMAN: (Need.PODMAN,),
    ContainerEngine.DOCKER: (Need.DOCKER,),
    ContainerEngine.ROOTLESS: (Need.PODMAN, Need.ROOTLESS),
}
"""What a host needs whose workers run in containers; its hive starts no units, and so asks nothing of polkit."""

FIREWALL_TOOLS = "nftables"
"""Of the firewalls, what setup installs: it closes nothing by itself, as ufw and firewalld do once they are on."""


class Manager(StrEnum):
    """What installs packages there."""

    APT = "apt"
    DNF = "dnf"


@dataclass(frozen=True)
class Distribution:
    """What one distribution calls things; a need without packages cannot be met from its own sources.

    `python` is the version that its Python package brings: what a release is made for before the package is there.
    """

    manager: Manager
    python: str
    packages: Mapping[Need, tuple[str, ...]]


_PODMAN = ("podman", "crun", "netavark", "aardvark-dns", "nftables", "iptables", "uidmap")


ROOTLESS_TOOLS = ("newuidmap", "newgidmap")
NETWORK_HELPERS = ("pasta", "slirp4netns")
"""Of which one is needed: what connects the network of a user without rights."""

_ROOTLESS_APT = ("uidmap", "passt", "slirp4netns", "fuse-overlayfs", "dbus-user-session", "catatonit")
_ROOTLESS_DNF = ("shadow-utils", "passt", "slirp4netns", "fuse-overlayfs", "dbus-daemon", "catatonit")


def _apt(python: str, docker: tuple[str, ...] = ("docker.io",), podman: tuple[str, ...] = _PODMAN) -> Distribution:
    packages = {Need.POLKIT: ("polkitd",), Need.PYTHON: ("python3",), Need.PODMAN: podman, Need.DOCKER: docker}
    more = {Need.NFTABLES: ("nftables",), Need.ROOTLESS: _ROOTLESS_APT}
    return Distribution(Manager.APT, python, {**packages, **more})


def _dnf(python: str, package: str = "python3", docker: tuple[str, ...] = ()) -> Distribution:
    podman = ("podman", "crun", "netavark", "aardvark-dns", "container-selinux")
    packages = {Need.POLKIT: ("polkit",), Need.PYTHON: (package,), Need.PODMAN: podman, Need.DOCKER: docker}
    more = {Need.NFTABLES: ("nftables",), Need.ROOTLESS: _ROOTLESS_DNF}
    return Distribution(Manager.DNF, python, {**packages, **more})


_EL9 = _dnf("3.12", "python3.12")
"""Its `python3` is 3.9."""
_EL10 = _dnf("3.12")
_EL = ("rhel", "rocky", "almalinux", "centos", "ol")
_MOBY = ("moby-engine",)
_DEBIAN_DOCKER = ("docker.io", "docker-cli")

DISTRIBUTIONS: Mapping[tuple[str, str], Distribution] = {
    # Its Podman is 4.3, which knows no Quadlet, and its netavark 1.4.
    ("debian", "12"): _apt("3.11", podman=()),
    ("debian", "13"): _apt("3.13", _DEBIAN_DOCKER),
    ("debian", ""): _apt("3.13", _DEBIAN_DOCKER),
    # Its netavark is 1.4, which gives every network a way out.
    ("ubuntu", "24"): _apt("3.12", podman=()),
    ("ubuntu", "25"): _apt("3.13"),
    ("ubuntu", ""): _apt("3.14"),
    ("fedora", "41"): _dnf("3.13", docker=_MOBY),
    ("fedora", "42"): _dnf("3.13", docker=_MOBY),
    ("fedora", ""): _dnf("3.14", "python3.14", docker=_MOBY),
    **{(name, "9"): _EL9 for name in _EL},
    **{(name, number): _EL10 for name in _EL for number in ("10", "")},
}
"""By ID and first number of VERSION_ID in /etc/os-release; "" stands for newer ones. Elsewhere nothing is installed."""

POLKIT = {name: found.packages[Need.POLKIT] for (name, _), found in DISTRIBUTIONS.items()}
"""By ID alone."""

LOCK_SECONDS = 120
"""Unattended upgrades hold dpkg's lock for a minute or two on a fresh machine."""


def distribution(os_id: str, os_version: str) -> Distribution | None:
    """Return what is known of a distribution, None if its packages are not."""
    exact = DISTRIBUTIONS.get((os_id, os_version.partition(".")[0]))
    return exact if exact is not None else DISTRIBUTIONS.get((os_id, ""))


def known(raw: Mapping[str, Any]) -> Distribution | None:
    """Return the distribution of a host's state fact."""
    return distribution(str(raw.get("os_id", "")), str(raw.get("os_version", "")))


def missing(raw: Mapping[str, Any], wanted: tuple[Need, ...] = BARE) -> tuple[str, ...]:
    """Return the packages that a host lacks by its state fact; nothing is missing that it did not speak of."""
    found = known(raw)
    if found is None:
        return ()
    return tuple(dict.fromkeys(name for need in wanted if _lacks(raw, need) for name in found.packages[need]))


def _lacks(raw: Mapping[str, Any], need: Need) -> bool:
    if need is Need.PYTHON:
        return "python" in raw and not pythons.fits(raw["python"], str(raw.get("python_lacks", "")))
    if need is Need.POLKIT:
        return raw.get("polkit") is False
    if need is Need.NFTABLES:
        # Hosts with containers have no firewall of ours, so one of them is asked for at most.
        return any(part in raw and not raw[part]["tool"] for part in ("firewall", "worker_rules"))
    if need is Need.ROOTLESS:
        return "programs" in raw and bool(rootless_lacks(raw["programs"]))
    return "programs" in raw and need.value not in raw["programs"]


def rootless_lacks(programs: Collection[str]) -> tuple[str, ...]:
    """Return the programs that a Podman without root lacks, of these that are there."""
    tools = tuple(name for name in ROOTLESS_TOOLS if name not in programs)
    return tools if set(NETWORK_HELPERS) & set(programs) else (*tools, NETWORK_HELPERS[0])


def needed(firewall: str | None, engine: ContainerEngine | None = None) -> tuple[Need, ...]:
    """Return what a host needs, with the firewall and the engine of containers that the inventory asks for."""
    if engine is not None:
        return (Need.PYTHON, *ENGINES[engine], Need.NFTABLES)
    return (*BARE, Need.NFTABLES) if firewall == Need.NFTABLES else BARE


def python_to_be(raw: Mapping[str, Any]) -> str:
    """Return the Python that a host has, or will have once setup has installed it; "" if there will be none."""
    found = known(raw)
    if found is not None and _lacks(raw, Need.PYTHON):
        return found.python
    return str(raw.get("python") or "")


def install(packages: tuple[str, ...], manager: Manager) -> str:
    """Return the script that installs packages; a stale index is refreshed only when it has to be.

    What the package manager said comes first, one sentence after it.
    """
    return "\n".join((_got(packages, manager), *(_starts(name) for name in packages if name.startswith("python"))))


def _starts(program: str) -> str:
    """Return the line that fails if a Python of a package's name is not there although that package is installed."""
    said = f"the package {program} is installed but {program} does not start; reinstall its packages by hand"
    return f"{program} -c '' 2>/dev/null || {{ echo {shlex.quote(said)} >&2; exit 1; }}"


def _got(packages: tuple[str, ...], manager: Manager) -> str:
    names = shlex.join(packages)
    said = (
        f"cannot install {' and '.join(packages)} from the host's package sources; "
        "give the host a mirror that it reaches, or install what is missing by hand"
    )
    failed = f"{{ echo {shlex.quote(said)} >&2; exit 1; }}"
    if manager is Manager.DNF:
        return f"dnf install -y -q --setopt=timeout=15 --setopt=retries=2 -- {names} || {failed}"
    get = f"DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout={LOCK_SECONDS}"
    command = f"{get} install --no-install-recommends -y -- {names}"
    return f"{command} || {{ {get} update && {command}; }} || {failed}"
