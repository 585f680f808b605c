"""Pure checks over a host's state before anything changes there: problems, each with its fix."""

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from rbee_deploy.host_facts import HostFacts
from rbee_deploy.site import Host, Site
from rbee_runtime import ports

__all__ = ["HostFacts", "Needs", "Problem", "check", "root_problems", "unreachable"]

LEAST_SYSTEMD = 250
LEAST_PYTHON = (3, 11)
MOST_CLOCK_SECONDS = 300
"""Certificates and logs of two hosts disagree beyond this."""

SPARE_DISK = 1 << 30
RELEASE_GROWTH = 4
"""Times its archive: the archive itself, its wheels and the environment made of them."""
ENGINE_GROWTH = 2
"""Times its archive: the archive and what it unpacks to."""
MODEL_MEMORY = 1.2
"""Times its files: weights, caches and buffers."""

LEVELS = ("x86_64", "x86_64_v2", "x86_64_v3", "x86_64_v4")
CONSUL_PORTS = frozenset({ports.QUEEN_PORT, ports.HIVE_PORT})
GIB = 1 << 30


@dataclass(frozen=True)
class Problem:
    """What stands in the way on one host; one that is not `fatal` is a hint."""

    host: str
    cause: str
    fix: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"host {self.host!r}: {self.cause}; {self.fix}"


@dataclass(frozen=True)
class Needs:
    """What the deploy will put on the host; bytes that are still to be copied, 0 for what is there.

    `engine_glibc` and `engine_cpu` are the least that the engine runs on; "" when the host gets no engine.
    `installs_packages` says that setup can install packages there.
    """

    release_bytes: int = 0
    engine_bytes: int = 0
    model_bytes: int = 0
    arch: str = "x86_64"
    engine_glibc: str = ""
    engine_cpu: str = ""
    installs_packages: bool = True


@dataclass(frozen=True)
class _Case:
    site: Site
    host: Host
    facts: HostFacts
    operator_now: float
    needs: Needs

    def problem(self, cause: str, fix: str, *, fatal: bool = True) -> Problem:
        return Problem(self.host.name, cause, fix, fatal)


Checker = Callable[[_Case], Iterator[Problem]]


def check(
    site: Site, host: Host, facts: HostFacts, operator_now: float, needs: Needs | None = None
) -> tuple[Problem, ...]:
    """Return the problems of a host, worst first; `operator_now` is Unix time on the operator's machine.

    A host that is too old or gives no root is not looked at further: the rest would repeat it in other words.
    """
    case = _Case(site, host, facts, operator_now, needs if needs is not None else Needs())
    for gate in (_root_is_given, _distribution_is_new_enough):
        problems = tuple(gate(case))
        if problems:
            return problems
    found = [problem for checker in _CHECKERS for problem in checker(case)]
    return tuple(sorted(found, key=lambda problem: not problem.fatal))


def root_problems(site: Site, host: Host, facts: HostFacts) -> tuple[Problem, ...]:
    """Return why a host gives no root, for what needs nothing else."""
    return tuple(_root_is_given(_Case(site, host, facts, 0.0, Needs())))


def unreachable(host: Host, reason: str) -> Problem:
    """Return the problem of a host that SSH cannot enter; `reason` is what the connector said."""
    where = f"{host.ssh_address} port {host.ssh_port}"
    return Problem(host.name, f"cannot connect to {where} by SSH ({reason})", _ssh_fix(host, reason.lower()))


def _ssh_fix(host: Host, reason: str) -> str:
    user = f"{host.ssh_user}@" if host.ssh_user else ""
    login = f"ssh -p {host.ssh_port} {user}{host.ssh_address}"
    if "does not match" in reason or "host key" in reason:
        return f"its host key changed: make sure that it is your host, then run ssh-keygen -R {host.ssh_address}"
    if "known_hosts" in reason:
        return f"run {login} once to accept its host key, or write ssh_host_keys='accept-new'"
    if "private key" in reason:
        return "correct ssh_key or its passphrase"
    if "auth" in reason:
        return f"correct ssh_user or ssh_key, and make sure that {login} logs in without a password"
    if "resolve" in reason:
        return "correct its address in the inventory"
    return f"turn it on, or correct its address or ssh_port, and make sure that {login} works"


_SUDO_FIX = "allow it in sudoers, or write sudo_password=secret_env('…') if sudo asks for a password"


def _root_is_given(case: _Case) -> Iterator[Problem]:
    user = case.host.ssh_user or "the SSH user"
    password = "correct its sudo_password" if case.host.sudo_password is not None else _SUDO_FIX
    sentences = {
        "missing": ("sudo is not installed", "install sudo, or write ssh_user='root'"),
        "refused": (f"sudo refused {user}", password),
    }
    if case.facts.sudo != "ok":
        silent = ("it answered nothing as root", f"make sure that {user} may run sudo sh there")
        cause, fix = sentences.get(case.facts.sudo, silent)
        yield case.problem(cause, fix)


def _distribution_is_new_enough(case: _Case) -> Iterator[Problem]:
    facts = case.facts
    too_old = (facts.os_id, facts.os_version) in {("ubuntu", "22.04"), ("ubuntu", "20.04"), ("debian", "11")}
    if too_old:
        name = f"{facts.os_id.capitalize()} {facts.os_version}"
        yield case.problem(
            f"{name} is too old: its systemd is older than {LEAST_SYSTEMD} and its Python older than 3.11",
            "upgrade it to Debian 12 or 13 or Ubuntu 24.04",
        )


def _systemd_runs_it(case: _Case) -> Iterator[Problem]:
    facts = case.facts
    if facts.is_systemd_pid1 is False:
        yield case.problem("systemd is not its process 1", "boot it with systemd; a plain container is not a host")
    elif facts.systemd is not None and facts.systemd < LEAST_SYSTEMD:
        yield case.problem(
            f"systemd {facts.systemd} is older than {LEAST_SYSTEMD}", "upgrade it to Debian 12, Ubuntu 24.04 or newer"
        )


def _python_is_new_enough(case: _Case) -> Iterator[Problem]:
    facts, fix = case.facts, "install Python 3.11 or newer, such as the package python3"
    if facts.python is None:
        yield case.problem("it has no Python", fix)
    elif _version(facts.python) < LEAST_PYTHON:
        yield case.problem(f"Python {facts.python} is older than 3.11", fix)


def _polkit_is_there(case: _Case) -> Iterator[Problem]:
    if case.facts.polkit is False and case.host.hive and not case.needs.installs_packages:
        yield case.problem(
            "polkit is missing, without which the hive cannot start workers", "install the package polkitd (or polkit)"
        )


def _engine_fits(case: _Case) -> Iterator[Problem]:
    facts, needs = case.facts, case.needs
    if facts.arch is not None and facts.arch != needs.arch:
        yield case.problem(
            f"its architecture is {facts.arch}", f"use a host with {needs.arch}: there is no other build"
        )
        return
    if needs.engine_cpu in LEVELS and facts.cpu_baseline in LEVELS and _level(facts) < LEVELS.index(needs.engine_cpu):
        yield case.problem(
            f"its CPU is {facts.cpu_baseline}, and the engine is built for {needs.engine_cpu}",
            "use a host with a newer CPU, or write engines=[] for it",
        )
    if needs.engine_glibc and facts.glibc is not None and _version(facts.glibc) < _version(needs.engine_glibc):
        yield case.problem(
            f"its glibc {facts.glibc} is older than the engine's {needs.engine_glibc}",
            "upgrade the host, or run the deploy from a machine as old as the host so that it builds the engine there",
        )


def _level(facts: HostFacts) -> int:
    return LEVELS.index(facts.cpu_baseline or LEVELS[0])


def _disk_is_big_enough(case: _Case) -> Iterator[Problem]:
    needs, models_dir = case.needs, case.host.models_dir
    wanted = {
        str(ports.PREFIX): needs.release_bytes * RELEASE_GROWTH + needs.engine_bytes * ENGINE_GROWTH,
        models_dir: needs.model_bytes,
    }
    disks: dict[int, list[str]] = {}
    for path in wanted:
        if path in case.facts.disk_free:
            # The same free space to the byte is the same disk.
            disks.setdefault(case.facts.disk_free[path], []).append(path)
    for free, paths in disks.items():
        need = sum(wanted[path] for path in paths) + SPARE_DISK
        if free < need:
            have, verb = ("has", "needs") if len(paths) == 1 else ("have", "need")
            yield case.problem(
                f"{' and '.join(paths)} {have} {_gib(free)} free and {verb} {_gib(need)}",
                "make room, or give models_dir a bigger disk",
            )


def _models_dir_is_a_folder(case: _Case) -> Iterator[Problem]:
    models_dir = PurePosixPath(case.host.models_dir)
    for path in (*reversed(models_dir.parents), models_dir) if case.host.hive else ():
        kind = case.facts.paths.get(str(path), {}).get("kind", "directory")
        # A link is followed when the folder is made.
        if kind not in {"directory", "link"}:
            yield case.problem(
                f"models_dir is {case.host.models_dir}, and {path} is no folder there ({kind})",
                "write models_dir='…' with another path, or move that away",
            )
            return


def _ports_are_free(case: _Case) -> Iterator[Problem]:
    host = case.host
    queen = (("queen_port", host.queen_port), ("link_port", host.link_port)) if host.queen else ()
    hive = (("hive_port", host.hive_port),) if host.hive else ()
    for field, port in (*queen, *hive):
        owner = case.facts.listeners.get(port)
        if owner is not None and not _is_ours(owner, field, case.facts):
            by = "another process" if owner == "unknown" else owner
            also = " (also a default port of Consul)" if port in CONSUL_PORTS else ""
            yield case.problem(f"port {port}{also} is taken by {by}", f"stop it, or write {field}=… with a free port")


def _is_ours(owner: str, field: str, facts: HostFacts) -> bool:
    unit = ports.HIVE_UNIT if field == "hive_port" else ports.QUEEN_SOCKET_UNIT
    # systemd itself holds the queen's sockets, and without ss nobody can say who listens.
    return owner.startswith("rbee-") or (owner in {"systemd", "init", "unknown"} and facts.is_active(unit))


def _clock_is_right(case: _Case) -> Iterator[Problem]:
    if case.facts.clock_unix is None:
        return
    off = case.facts.clock_unix - case.operator_now
    if abs(off) > MOST_CLOCK_SECONDS:
        yield case.problem(
            f"its clock is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} this machine's",
            "run timedatectl set-ntp true on it, or correct this machine's clock",
        )


def _others_can_reach_it(case: _Case) -> Iterator[Problem]:
    if len(case.site.hosts) > 1 and _stays_inside(case.host.reach):
        yield case.problem(
            f"other hosts cannot reach it at {case.host.reach}",
            "write advertise='…' with its address in the network",
        )


def _stays_inside(address: str) -> bool:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address.lower() == "localhost"
    return known.is_loopback or known.is_unspecified


def _memory_may_do(case: _Case) -> Iterator[Problem]:
    memory, needed = case.facts.memory_bytes, case.needs.model_bytes * MODEL_MEMORY
    if memory is not None and memory < needed:
        yield case.problem(
            f"it has {_gib(memory)} of memory and its models need about {_gib(needed)}",
            "unless its GPUs hold them, restrict a model to other hosts",
            fatal=False,
        )


_CHECKERS: tuple[Checker, ...] = (
    _systemd_runs_it,
    _python_is_new_enough,
    _polkit_is_there,
    _engine_fits,
    _disk_is_big_enough,
    _models_dir_is_a_folder,
    _ports_are_free,
    _clock_is_right,
    _others_can_reach_it,
    _memory_may_do,
)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
