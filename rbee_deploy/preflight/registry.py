"""All checks, in the order in which a host is looked at."""

from rbee_deploy.host_facts import HostFacts
from rbee_deploy.preflight import access, cards, containers, guards, labels, network, room, rootless, system
from rbee_deploy.preflight import trust as trusts
from rbee_deploy.preflight.checks import Case, Check, Needs, Problem, Trust
from rbee_deploy.site import Host, Site

CHECKS: tuple[Check, ...] = (
    access.SSH,
    access.ROOT,
    trusts.AUTHORITY,
    trusts.LASTS,
    system.DISTRIBUTION,
    system.ARCHITECTURE,
    system.LIBC,
    system.SYSTEMD,
    system.PYTHON,
    system.POLKIT,
    system.CLOCK,
    system.CONTROL_GROUPS,
    room.ENGINE_BUILD,
    room.ENGINE_FLOOR,
    room.DISK,
    room.MODELS_FOLDER,
    room.MODELS_PLACE,
    room.MEMORY,
    room.DEVICE_MEMORY,
    network.PORTS,
    network.LOOPBACK,
    network.OWN_ADDRESS,
    network.QUEEN_LINK,
    network.QUEEN_LETS_IN,
    network.QUEEN_UP,
    guards.THERE,
    guards.ALONE,
    cards.DRIVER,
    cards.LIBRARIES,
    cards.ONE_SPEC,
    cards.SPECS,
    cards.SPEC_THERE,
    cards.NAMES,
    cards.DOCKER_GIVES,
    cards.TOOLKIT_HINT,
    cards.TOOLKIT,
    containers.ENGINE,
    containers.ANSWERS,
    containers.RULES,
    containers.STORE,
    containers.REAL_MODELS,
    labels.SELINUX,
    containers.PODMAN,
    containers.NETAVARK,
    containers.INFO,
    containers.INFO_LATER,
    containers.ADVISED,
    containers.DOCKER,
    containers.RUNTIMES,
    rootless.TOOLS,
    rootless.NAMESPACES,
    rootless.BUS,
)


def check(
    site: Site,
    host: Host,
    facts: HostFacts,
    operator_now: float,
    needs: Needs | None = None,
    *,
    trust: Trust | None = None,
) -> tuple[Problem, ...]:
    """Return the problems of a host, worst first; `operator_now` and `trust` are as in a Case."""
    case = Case(site, host, facts, operator_now, needs if needs is not None else Needs(), trust or Trust())
    found: list[Problem] = []
    for item in CHECKS:
        problems = list(item.problems(case))
        found += problems
        if problems and item.gate:
            break
    return tuple(sorted(found, key=lambda problem: not problem.fatal))


def root_problems(site: Site, host: Host, facts: HostFacts) -> tuple[Problem, ...]:
    """Return why a host gives no root, for what needs nothing else."""
    return tuple(access.ROOT.problems(Case(site, host, facts, 0.0, Needs())))
