"""Whether the host's container tools are new enough."""

from collections.abc import Iterator

from rbee_deploy.modes import ContainerEngine, way_out
from rbee_deploy.packages import Need
from rbee_deploy.preflight.checks import Case, Check, Finding, Scope, Severity
from rbee_deploy.versions import version
from rbee_runtime import ports

LEAST_PODMAN = "4.6"
"""The first that makes a network without a way out, and says which netavark it has."""
LEAST_NETAVARK = "1.7"
"""The first that makes a network without a way out; older ones give it one without a word."""
ADVISED_PODMAN = "5.0"
"""Of a line that is still mended."""
LEAST_DOCKER = "25.0"
"""The first that gives devices by CDI."""
RUNC_FIXES = ("1.2.8", "1.3.3")
"""Of each line, the first without CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881."""
LEAST_CRUN = "1.30"
"""The first without CVE-2026-84042, CVE-2026-88264 and CVE-2026-88265."""

_NAMES = {"podman": f"Podman {LEAST_PODMAN} or newer", "docker": "Docker"}
_UPGRADE = "upgrade the host to Debian 13, Ubuntu 26.04 or newer"
_BACKPORTED = "upgrade it, or make sure that your distribution has brought the fixes to this version"


def _engine_is_there(case: Case) -> Iterator[Finding]:
    engine = case.host.container_engine
    if engine is None or engine.program in case.facts.programs:
        return
    name = _NAMES[engine.program]
    if case.installs is None or not case.installs.packages[Need(engine.program)]:
        beside = f" with netavark {LEAST_NETAVARK} or newer" if engine.program == "podman" and case.host.hive else ""
        yield Finding(f"it has no {name}", f"install {name}{beside} there, or write {way_out(case.host.way)}")


def _engine_answers(case: Case) -> Iterator[Finding]:
    engine, said = case.host.container_engine, case.facts.engine
    if engine is None or said is None or engine.program not in case.facts.programs or "answers" in said:
        return
    fix = {
        ContainerEngine.PODMAN: "run `podman ps` there as root and mend what it says",
        ContainerEngine.ROOTLESS: f"look at `journalctl -u {ports.PODMAN_UNIT}` there, and restart that unit",
        ContainerEngine.DOCKER: "run `systemctl enable --now docker` there and look at `journalctl -u docker`",
    }[engine]
    yield Finding(f"{engine.program} is installed there and does not answer", fix)


def _rules_are_taken(case: Case) -> Iterator[Finding]:
    # A host without a hive has no workers to keep in.
    found = case.facts.worker_rules if case.host.hive else None
    if found and not found["tool"] and case.installs is None:
        yield Finding("nft is missing, which keeps workers in containers in", "install the package nftables")
    elif found and found["tool"] and found["broken"]:
        yield Finding(
            f"its kernel takes no rules about workers in containers (nft says {found['broken']!r})",
            f"boot a kernel with nf_tables for inet and bridge, or write {way_out(case.host.way)}",
        )


def _ids_are_of_configurations(case: Case) -> Iterator[Finding]:
    if "containerd" in (case.facts.engine or ()):
        yield Finding(
            "its Docker keeps images in containerd's store, where they have other ids than those that rbee names",
            'write {"features": {"containerd-snapshotter": false}} into /etc/docker/daemon.json and restart docker '
            "(images there have to be pulled again), or use Podman",
        )


def _models_are_no_link(case: Case) -> Iterator[Finding]:
    folder = case.host.models_dir
    if case.host.hive and case.facts.paths.get(folder, {}).get("kind") == "link":
        yield Finding(
            f"models_dir {folder} is a link there, and containers are shown folders by their own path only",
            "write the path that it leads to",
        )


def _podman_is_new_enough(case: Case) -> Iterator[Finding]:
    have = case.facts.programs.get("podman")
    if have is not None and not version(have):
        yield Finding("its Podman does not say its version", "run `podman --version` there and mend what it says")
    elif have and version(have) < version(LEAST_PODMAN):
        yield Finding(
            f"Podman {have} is older than {LEAST_PODMAN}, the oldest that containers of rbee are made for",
            f"{_UPGRADE}, or write {way_out(case.host.way)}",
        )


def _networks_are_closed(case: Case) -> Iterator[Finding]:
    said = case.facts.networks
    # A host without a hive has no network of workers, and an old Podman says nothing of this.
    if not case.host.hive or not said or version(case.facts.programs.get("podman", "")) < version(LEAST_PODMAN):
        return
    backend, have = said["backend"], said["version"]
    if backend not in {"netavark", ""}:
        yield Finding(
            f"its Podman makes networks by {backend}, which gives workers a way out of theirs",
            f"have it use netavark (network_backend in /etc/containers/containers.conf), or write "
            f"{way_out(case.host.way)}",
        )
    elif not version(have):
        yield Finding(
            "its Podman does not say which netavark makes its networks",
            "run `podman info` there and mend what it says",
        )
    elif version(have) < version(LEAST_NETAVARK):
        yield Finding(
            f"netavark {have} is older than {LEAST_NETAVARK}, and gives workers a way out of their network",
            f"{_UPGRADE}, or write {way_out(case.host.way)}",
        )


def _podman_tells(case: Case) -> Iterator[Finding]:
    if not case.is_at_its_engine:
        yield from _is_not_told(case, "run it there, mend what it says and try again")


def _podman_tells_later(case: Case) -> Iterator[Finding]:
    if case.is_at_its_engine:
        yield from _is_not_told(case, "run it there and mend what it says")


def _is_not_told(case: Case, fix: str) -> Iterator[Finding]:
    # An old Podman cannot say it, and is refused for its age.
    old = version(case.facts.programs.get("podman", "")) < version(LEAST_PODMAN)
    if case.host.hive and case.facts.networks is None and not old:
        yield Finding(
            "`podman info` fails there or takes longer than 20 s, so it is not known which netavark makes its networks",
            fix,
        )


def _podman_is_whole(case: Case) -> Iterator[Finding]:
    have = case.facts.programs.get("podman")
    if have and version(LEAST_PODMAN) <= version(have) < version(ADVISED_PODMAN):
        yield Finding(
            f"Podman {have} is older than {ADVISED_PODMAN}, of a line that is not mended any more",
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


ENGINE = Check(
    id="container-engine",
    title="There is an engine of containers",
    looks_at="`podman --version` or `docker --version`, by the host's `engine`",
    fails_when="it is not there and setup knows no package for it",
    why="it is what runs the containers of workers",
    fix="install it; on Debian, Ubuntu and Fedora setup does it, on Enterprise Linux for Podman; but Podman of Debian "
    "12 and Ubuntu 24.04 is too old, or comes with a netavark that is",
    find=_engine_is_there,
    scope=Scope.CONTAINER,
)
ANSWERS = Check(
    id="container-engine-answers",
    title="The engine of containers answers",
    looks_at="`podman ps` or `docker ps`, as root",
    fails_when="it is installed and does not answer within 20 s",
    why="nothing could be loaded, started or removed",
    fix="start it, and look at its log",
    find=_engine_answers,
    scope=Scope.CONTAINER,
)
RULES = Check(
    id="worker-rules",
    title="Workers in containers can be kept in",
    looks_at="whether `nft --check` takes rules of the kind that `/etc/rbee/workers.nft` has",
    fails_when="nft is missing and setup does not install it, or the kernel does not take such rules",
    why="workers would reach this host and each other, and without these rules none starts",
    fix="install nftables, or boot a kernel with nf_tables for the families inet and bridge",
    find=_rules_are_taken,
    scope=Scope.CONTAINER,
)
STORE = Check(
    id="docker-image-store",
    title="Docker knows images by their configuration",
    looks_at="the storage driver in `docker info`",
    fails_when="it is containerd's, the default of new installations since Docker 29",
    why="the same image has another id there, and rbee names images by their ids",
    fix="turn that feature off in `/etc/docker/daemon.json`, or use Podman",
    find=_ids_are_of_configurations,
    scope=Scope.DOCKER,
)
REAL_MODELS = Check(
    id="models-no-link",
    title="The folder of models is no link",
    looks_at="`models_dir`",
    fails_when="it is a link to another folder",
    why="a link could lead elsewhere by the time a container starts, so the guard shows folders by their own path only",
    fix="write the path that it leads to",
    find=_models_are_no_link,
    scope=Scope.CONTAINER,
)
PODMAN = Check(
    id="podman-version",
    title="Podman is new enough",
    looks_at="`podman --version`",
    fails_when=f"it is older than {LEAST_PODMAN}, or does not say within 10 s what it is",
    why="what older ones make of the same request differs, and they are not tried; nor are units written by guess",
    fix="upgrade the host, or have its workers run as processes",
    find=_podman_is_new_enough,
    scope=Scope.PODMAN,
)
NETAVARK = Check(
    id="netavark-version",
    title="Networks of workers have no way out",
    looks_at="the backend of networks in `podman info`, and its version; with `rootless` in that of root's until "
    "Podman's own user is there",
    fails_when=f"it is not netavark, is older than {LEAST_NETAVARK}, or Podman does not say what it is",
    why="others pass over that a network is to have no way out, and the workers in it get one without a word",
    fix="upgrade the host (netavark of Debian 12 and Ubuntu 24.04 is too old), or have its workers run as processes",
    find=_networks_are_closed,
    scope=Scope.PODMAN,
)
INFO = Check(
    id="podman-info",
    title="Podman tells of itself",
    looks_at="`podman info`, where the host does not run in containers of this Podman yet",
    fails_when="it fails, or does not answer within 20 s",
    why="workers are not put into networks of which it is not known whether they have a way out; as this may be over "
    "in a minute, no host takes its `fallback` for it",
    fix="run it there, and try again when the host has less to do",
    find=_podman_tells,
    scope=Scope.PODMAN,
    passes=True,
)
INFO_LATER = Check(
    id="podman-info-later",
    title="Podman goes on telling of itself",
    looks_at="`podman info`, where the host runs in containers of this Podman",
    fails_when="it fails, or does not answer within 20 s",
    why="what makes its networks was looked at when it went into containers, and is not looked at again now",
    fix="run it there, and mend what it says",
    find=_podman_tells_later,
    severity=Severity.HINT,
    scope=Scope.PODMAN,
)
ADVISED = Check(
    id="podman-advised",
    title="Podman is of a line that is mended",
    looks_at="`podman --version`",
    fails_when=f"it is older than {ADVISED_PODMAN}",
    why="mistakes in it that let containers out are mended by your distribution or by nobody",
    fix=f"upgrade to Podman {ADVISED_PODMAN} or newer",
    find=_podman_is_whole,
    severity=Severity.HINT,
    scope=Scope.PODMAN,
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
    scope=Scope.DOCKER,
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
