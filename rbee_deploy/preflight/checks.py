"""What a check is: what it says about itself, for which hosts it is, and how it looks at one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from rbee_deploy import packages
from rbee_deploy.history import Past
from rbee_deploy.host_facts import HostFacts
from rbee_deploy.modes import ContainerEngine
from rbee_deploy.site import Host, Site


class Severity(StrEnum):
    """What becomes of a host that fails a check."""

    FATAL = "fatal"
    HINT = "hint"


class Scope(StrEnum):
    """The hosts that a check is for."""

    EVERY = "every host"
    FLEET = "every host of a fleet of several"
    QUEEN = "the queen's host"
    HIVE = "hives"
    FAR_HIVE = "hives on other hosts than the queen's"
    FIREWALL = "hosts with a `firewall` in the inventory"
    GPU = "hives with an NVIDIA card"
    BARE = "hosts that run bare"
    BARE_HIVE = "hives whose workers are processes"
    CONTAINER = "hosts with `mode` or `worker_runtime` `container`"
    PODMAN = "such hosts with `engine` `podman`"
    DOCKER = "such hosts with `engine` `docker`"
    ROOTLESS = "such hosts with `rootless`"
    GPU_CONTAINER = "such hosts with an NVIDIA card"


@dataclass(frozen=True)
class Problem:
    """What stands in the way on one host; one that is not `fatal` is a hint. `check` is the id of who found it.

    One that `passes` may be over by itself in a minute: it is no reason to run a host in another way.
    """

    host: str
    cause: str
    fix: str
    fatal: bool = True
    check: str = ""
    passes: bool = False

    @property
    def sentence(self) -> str:
        """Return it as it is said beside the host's name."""
        return f"{self.cause}; {self.fix}"

    def __str__(self) -> str:
        return f"host {self.host!r}: {self.sentence}"


@dataclass(frozen=True)
class Needs:
    """What the deploy will put on the host; bytes that are still to be copied, 0 for what is there.

    `engine_glibc` and `engine_cpu` are the least that the engine runs on; "" when the host gets no engine.
    `installs_packages` says that setup may install packages there. `models` are names of models that may run there,
    with the bytes of device memory that one worker is estimated to take.
    """

    release_bytes: int = 0
    engine_bytes: int = 0
    image_bytes: int = 0
    model_bytes: int = 0
    engine_glibc: str = ""
    engine_cpu: str = ""
    installs_packages: bool = True
    models: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Trust:
    """What the operator's certificates are: `authority` is the sha256 of ca.pem, "" where a host may trust another one.

    `ends` is when the authority ends, `own_ends` when the operator's own certificate for clients does; None without.
    """

    authority: str = ""
    ends: datetime | None = None
    own_ends: datetime | None = None


@dataclass(frozen=True)
class Case:
    """One host to look at; `operator_now` is Unix time on the operator's machine.

    `trust` are the operator's certificates.
    """

    site: Site
    host: Host
    facts: HostFacts
    operator_now: float
    needs: Needs
    trust: Trust = Trust()

    @property
    def installs(self) -> packages.Distribution | None:
        """Return what setup can install there, None if nothing."""
        known = packages.distribution(self.facts.os_id, self.facts.os_version)
        return known if self.needs.installs_packages else None

    @property
    def is_at_its_engine(self) -> bool:
        """Say whether the host runs in containers of the very engine that it is to run at."""
        now = Past.of(self.facts.deploy).now
        return now is not None and now.engine == self.host.container_engine


class Finding(NamedTuple):
    """What is wrong and what to do about it: the two halves of a sentence."""

    cause: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check. The texts are a page of the documentation; `find` yields what is wrong with a host.

    Where a `gate` finds something, the host is not looked at further: the rest would repeat it in other words. What
    `passes` may be over by itself, as in a Problem.
    """

    id: str
    title: str
    looks_at: str
    fails_when: str
    why: str
    fix: str
    find: Callable[[Case], Iterator[Finding]]
    severity: Severity = Severity.FATAL
    scope: Scope = Scope.EVERY
    gate: bool = False
    passes: bool = False

    def problems(self, case: Case) -> Iterator[Problem]:
        """Yield what is wrong with a host that the check is for."""
        if _APPLIES[self.scope](case):
            for cause, fix in self.find(case):
                yield Problem(case.host.name, cause, fix, self.severity is Severity.FATAL, self.id, self.passes)


def _has_card(case: Case) -> bool:
    # Made-up devices stand in for those of the host.
    return case.host.hive and bool(case.facts.nvidia.cards) and not case.host.devices


def _runs_in_containers(case: Case) -> bool:
    return case.host.container_engine is not None


_APPLIES: Mapping[Scope, Callable[[Case], Any]] = {
    Scope.EVERY: lambda _case: True,
    Scope.FLEET: lambda case: len(case.site.hosts) > 1,
    Scope.QUEEN: lambda case: case.host.queen,
    Scope.HIVE: lambda case: case.host.hive,
    Scope.FAR_HIVE: lambda case: case.host.hive and not case.host.queen,
    Scope.FIREWALL: lambda case: case.host.firewall is not None,
    Scope.GPU: _has_card,
    Scope.BARE: lambda case: not _runs_in_containers(case),
    Scope.BARE_HIVE: lambda case: case.host.hive and not _runs_in_containers(case),
    Scope.CONTAINER: _runs_in_containers,
    Scope.PODMAN: lambda case: case.host.container_engine in {ContainerEngine.PODMAN, ContainerEngine.ROOTLESS},
    Scope.DOCKER: lambda case: case.host.container_engine is ContainerEngine.DOCKER,
    Scope.ROOTLESS: lambda case: case.host.container_engine is ContainerEngine.ROOTLESS,
    Scope.GPU_CONTAINER: lambda case: _runs_in_containers(case) and _has_card(case),
}


def listed(words: Sequence[str]) -> str:
    """Return words as a sentence has them: one, one and two, one, two and three."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def amount(size: float) -> str:
    """Return bytes as people read them."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"
