"""Whether the host's container tools are new enough."""

from collections.abc import Iterator

from rbee_deploy.packages import Need
from rbee_deploy.preflight.checks import Case, Check, Finding, Scope, Severity, version

LEAST_PODMAN = "4.4"
"""The first with Quadlet."""
ADVISED_PODMAN = "5.0"
LEAST_DOCKER = "25.0"
"""The first that gives devices by CDI."""
RUNC_FIXES = ("1.2.8", "1.3.3")
"""Of each line, the first without CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881."""
LEAST_CRUN = "1.30"
"""The first without CVE-2026-84042, CVE-2026-88264 and CVE-2026-88265."""

_BACKPORTED = "upgrade it, or make sure that your distribution has brought the fixes to this version"


def _podman_knows_quadlet(case: Case) -> Iterator[Finding]:
    have = case.facts.programs.get("podman")
    can_install = case.installs is not None and bool(case.installs.packages[Need.PODMAN])
    if have and version(have) < version(LEAST_PODMAN):
        yield Finding(
            f"Podman {have} is older than {LEAST_PODMAN} and has no Quadlet",
            "upgrade the host to Debian 13, Ubuntu 24.04 or newer, or write mode='bare'",
        )
    elif have is None and "docker" not in case.facts.programs and not can_install:
        yield Finding("it has no container engine", f"install Podman {LEAST_PODMAN} or newer, or write mode='bare'")


def _podman_is_whole(case: Case) -> Iterator[Finding]:
    have = case.facts.programs.get("podman")
    if have and version(LEAST_PODMAN) <= version(have) < version(ADVISED_PODMAN):
        yield Finding(
            f"Podman {have} is older than {ADVISED_PODMAN}: units cannot wait for health and have no drop-ins",
            f"upgrade it to {ADVISED_PODMAN} or newer when you can",
        )


def _docker_gives_devices(case: Case) -> Iterator[Finding]:
    have = case.facts.programs.get("docker")
    if have and version(have) < version(LEAST_DOCKER):
        yield Finding(
            f"Docker {have} is older than {LEAST_DOCKER} and cannot give cards to containers by CDI",
            "upgrade it, or use Podman",
        )


def _runtimes_are_fixed(case: Case) -> Iterator[Finding]:
    crun, runc = (case.facts.programs.get(name, "") for name in ("crun", "runc"))
    if crun and version(crun) < version(LEAST_CRUN):
        yield Finding(f"crun {crun} is older than {LEAST_CRUN}, before which containers could get out", _BACKPORTED)
    fixed = next((fix for fix in RUNC_FIXES if version(runc)[:2] <= version(fix)[:2]), "")
    if runc and fixed and version(runc) < version(fixed):
        yield Finding(f"runc {runc} is older than {fixed}, before which containers could get out", _BACKPORTED)


QUADLET = Check(
    id="podman-quadlet",
    title="Podman turns our files into units",
    looks_at="`podman --version`",
    fails_when=f"it is older than {LEAST_PODMAN}, or there is no container engine and setup knows no package",
    why="containers of queen and hive are units by Quadlet, which came with that version",
    fix="upgrade the host, or run it bare",
    find=_podman_knows_quadlet,
    scope=Scope.CONTAINER,
)
ADVISED = Check(
    id="podman-advised",
    title="Podman is one that does all of it",
    looks_at="`podman --version`",
    fails_when=f"it is older than {ADVISED_PODMAN}",
    why="before it, units cannot wait until a container is healthy, and have no drop-ins",
    fix=f"upgrade to Podman {ADVISED_PODMAN} or newer",
    find=_podman_is_whole,
    severity=Severity.HINT,
    scope=Scope.CONTAINER,
)
DOCKER = Check(
    id="docker-version",
    title="Docker gives devices to containers",
    looks_at="`docker --version`",
    fails_when=f"it is older than {LEAST_DOCKER}",
    why="cards are given to containers by CDI only",
    fix="upgrade Docker, or use Podman",
    find=_docker_gives_devices,
    severity=Severity.HINT,
    scope=Scope.CONTAINER,
)
RUNTIMES = Check(
    id="container-runtimes",
    title="What runs containers keeps them in",
    looks_at="`crun --version` and `runc --version`",
    fails_when=f"crun is older than {LEAST_CRUN}, or runc older than {' or '.join(RUNC_FIXES)} of its line",
    why="known ways out of a container end with these; a distribution may have brought the fixes to older versions",
    fix="upgrade them, or look at your distribution's security tracker",
    find=_runtimes_are_fixed,
    severity=Severity.HINT,
    scope=Scope.CONTAINER,
)
