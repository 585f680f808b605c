"""What preflight knows of a host: the state fact in types; None means that the host did not say."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Nvidia:
    """NVIDIA's cards and driver: cards by PCI address; `module` is the loaded one's version, None if none is loaded.

    `has_control` says that /dev/nvidiactl is there. `libraries` are the versions of the libraries on disk.
    """

    cards: tuple[str, ...] = ()
    uuids: tuple[str, ...] = ()
    module: str | None = None
    has_control: bool = False
    libraries: tuple[str, ...] = ()


@dataclass(frozen=True)
class CdiSpec:
    """One file that tells container engines about NVIDIA cards; `mode` is octal, `driver` "" when it names none.

    `names` are those of its devices that rbee could ask for: `all`, and cards and their parts by their ids.
    """

    path: str
    mode: str
    driver: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostFacts:
    """A host as it was read. Sizes in bytes, `clock_unix` in seconds.

    `sudo` is ok, missing, refused or silent. `python` is `major.minor`, `python_lacks` the parts of its library that
    are not there, `systemd` its number. `listeners` maps a TCP port to who listens: one of our units, else a command's
    name, else `unknown`. `units` maps a unit to its properties, of which `active` matters here, `paths` a path to its
    own, of which `kind` and `sha256` do. `cpu_baseline` is the x86-64 level such as `x86_64_v3`. `cgroup` is unified,
    legacy or "", `programs` maps container tools to their versions, `userns` says that users may have user namespaces,
    `user_bus` that each gets a bus. `engine` has `answers` where the asked one does, `containerd` where that keeps
    Docker's images and `cdi` where Docker gives devices so; None where none was asked. `networks` are the `backend`
    and `version` of what makes networks for a Podman that answers, each "" where it does not say so; None where it
    failed to answer that. `deploy` is what was activated.
    `gpus` is the memory of each card. `addresses` are the host's own, `queen_link` is reachable,
    refused, `unreachable: why` or "". `firewall` is there where the inventory asks for one, `worker_rules` where it
    asks for containers, and so is `selinux`: `labels` of folders that workers see, and `switches` that are on.
    `contents` are the sha256 of files that the activator keeps.
    """

    sudo: str = "silent"
    os_id: str = ""
    os_version: str = ""
    arch: str | None = None
    cpu_baseline: str | None = None
    glibc: str | None = None
    is_systemd_pid1: bool | None = None
    systemd: int | None = None
    python: str | None = None
    python_lacks: str = ""
    polkit: bool | None = None
    polkit_version: str = ""
    clock_unix: float | None = None
    memory_bytes: int | None = None
    disk_free: Mapping[str, int] = field(default_factory=dict)
    listeners: Mapping[int, str] = field(default_factory=dict)
    units: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    paths: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cgroup: str = ""
    controllers: tuple[str, ...] = ()
    nvidia: Nvidia = Nvidia()
    cdi: tuple[CdiSpec, ...] = ()
    programs: Mapping[str, str] = field(default_factory=dict)
    userns: bool = True
    user_bus: bool = True
    engine: tuple[str, ...] | None = None
    networks: Mapping[str, str] | None = field(default_factory=dict)
    deploy: Mapping[str, Any] = field(default_factory=dict)
    gpus: Sequence[int] = ()
    addresses: tuple[str, ...] = ()
    queen_link: str = ""
    firewall: Mapping[str, Any] = field(default_factory=dict)
    worker_rules: Mapping[str, Any] = field(default_factory=dict)
    selinux: Mapping[str, Any] = field(default_factory=dict)
    contents: tuple[str, ...] = ()

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """Return the part of the state fact that preflight needs; JSON's string keys become port numbers."""
        known = {name: raw[name] for name in (entry.name for entry in dataclasses.fields(cls)) if name in raw}
        if "listeners" in known:
            known["listeners"] = {int(port): owner for port, owner in known["listeners"].items()}
        if "nvidia" in known:
            known["nvidia"] = Nvidia(**{name: _frozen(value) for name, value in known["nvidia"].items()})
        if "cdi" in known:
            known["cdi"] = [CdiSpec(**{name: _frozen(value) for name, value in spec.items()}) for spec in known["cdi"]]
        return cls(**{name: _frozen(value) for name, value in known.items()})

    def is_active(self, unit: str) -> bool:
        """Say whether a unit runs or is about to."""
        return self.units.get(unit, {}).get("active") in {"active", "activating", "reloading", "deactivating"}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
