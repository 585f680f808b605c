"""What differs between a host and what it should be: the one definition of converged, pure."""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from rbee_deploy.accounts import Directory, User
from rbee_deploy.activator.manifest import GENERATED, STARTS_AT_BOOT, Role
from rbee_deploy.modes import QUADLET, is_quadlet, quadlet_path, role_units
from rbee_deploy.observed import Observed, PathState, UnitState
from rbee_deploy.render import OwnedFile
from rbee_deploy.site import Host
from rbee_runtime import ports
from rbee_runtime.worker_bridge import TABLES


def role(name: str, host: Host, digest: str, release: str) -> Role:
    """Return a role of a host."""
    folder = ports.QUEEN_RUN if name == "queen" else ports.HIVE_RUN
    units = role_units(name)
    sockets = tuple(unit for unit in units.enabled if unit.endswith(".socket"))
    listens = (host.queen_port, host.link_port) if sockets else ()
    return Role(name, units.service, str(folder / ports.RUNNING_FILE), digest, release, sockets, listens)


def file_drift(file: OwnedFile, found: PathState | None) -> list[str]:
    """Return how a file is not as it should be, one phrase each; no phrase shows what is in it."""
    if found is None or found.kind != "file":
        return [_instead(file.path, "file", found)]
    content = [] if found.sha256 == file.sha256 else [f"{file.path} has other content"]
    return [*content, *_access_drift(file, found)]


def directory_drift(directory: Directory, found: PathState | None) -> list[str]:
    """Return how a directory is not as it should be; a link to one elsewhere is the operator's choice."""
    if found is not None and found.kind == "link":
        return []
    if found is None or found.kind != "directory":
        return [_instead(directory.path, "directory", found)]
    return _access_drift(directory, found)


def groups_lacked(user: User, facts: Observed) -> list[str]:
    """Return the groups that a user should be in and is not; all of them where there is no such user yet."""
    wanted = [*user.groups, *(name for name in user.groups_if_present if name in facts.names("groups"))]
    held = facts.raw.get("users", {}).get(user.name, ())
    return [name for name in wanted if name not in held]


def user_drift(user: User, facts: Observed) -> list[str]:
    """Return how a user is not as it should be; groups beyond those that it needs are the operator's choice."""
    if user.name not in facts.names("users"):
        return [f"there is no user {user.name}"]
    return [f"user {user.name} is not in group {name}" for name in groups_lacked(user, facts)]


def _instead(path: str, kind: str, found: PathState | None) -> str:
    return f"{path} is not there" if found is None else f"{path} is a {found.kind} instead of a {kind}"


def _access_drift(wanted: OwnedFile | Directory, found: PathState) -> list[str]:
    owner, owned = f"{wanted.owner}:{wanted.group}", f"{found.owner}:{found.group}"
    return [
        *([] if found.mode == wanted.mode else [f"{wanted.path} has mode {found.mode} instead of {wanted.mode}"]),
        *([] if owned == owner else [f"{wanted.path} belongs to {owned} instead of {owner}"]),
    ]


def role_drift(wanted: Role, facts: Observed) -> list[str]:
    """Return why a role does not run as it should, one phrase each."""
    digest, release = facts.running(wanted.name)
    states = {unit: facts.unit(unit).active for unit in (*wanted.sockets, wanted.service)}
    found = [f"{unit} is {state or 'not there'}" for unit, state in states.items() if state != "active"]
    if digest != wanted.digest:
        found.append(f"{wanted.service} runs {_named('digest', digest)} instead of {wanted.digest}")
    elif release != wanted.release:
        found.append(f"{wanted.service} runs {_named('release', release)} instead of {wanted.release}")
    return [*found, *(f"nothing listens on port {port}" for port in wanted.listens if port not in facts.ports)]


def _named(what: str, value: str) -> str:
    return f"{what} {value}" if value else f"no {what}"


def found(
    facts: Observed,
    wanted: Iterable[Role],
    files: Iterable[OwnedFile],
    directories: Iterable[Directory],
    enabled: Iterable[str],
    unwanted: Iterable[str] = (),
    link: str = "",
    generation: str = "",
) -> list[str]:
    """Return every difference that a deploy puts right, one phrase each; `link` is where `current` leads.

    That the generation is not on record follows from any other difference, and is said only where there is none.
    """
    current = str(facts.raw.get("current") or "nothing")
    differences = [
        *(["the last activation was cut off"] if facts.deploy.get("wanted") else []),
        *([f"{ports.CURRENT} leads to {current} instead of {link}"] if link and current != link else []),
        *(reason for item in wanted for reason in role_drift(item, facts)),
        *(phrase for file in files for phrase in file_drift(file, facts.paths.get(file.path))),
        *(phrase for item in directories for phrase in directory_drift(item, facts.paths.get(item.path))),
        *(f"{path} is still there" for path in unwanted if path in facts.paths),
        *_firewall(facts, enabled),
        *(_off(unit, state) for unit in enabled if (state := facts.unit(unit)).file_state not in STARTS_AT_BOOT),
        *(f"systemd holds an old {name}" for name, unit in facts.units.items() if unit.need_reload),
    ]
    unknown = generation and facts.deploy.get("current") != generation
    return differences or (["the deploy is not on record there"] if unknown else [])


def _off(unit: str, state: UnitState) -> str:
    """Return why a unit does not start at boot; one that a generator makes is there or not, and never disabled."""
    if state.load == "not-found":
        return f"systemd knows no {unit}"
    return f"{unit} is masked" if state.load == "masked" else f"{unit} is not enabled"


def damaged(facts: Observed, release: str, engines: Iterable[str]) -> list[str]:
    """Return what was installed and somebody has changed since, one phrase each; installing it anew puts it right."""
    return [
        *([f"release {release} on this host is damaged"] if release in facts.names("releases_damaged") else []),
        *(f"engine {engine} on this host is damaged" for engine in engines if engine in facts.names("engines_damaged")),
    ]


def down(facts: Observed, helpers: Iterable[str]) -> list[str]:
    """Return which units that roles count on are not up, one phrase each."""
    states = {unit: facts.unit(unit).active for unit in helpers}
    return [
        *(f"{unit} is {state or 'not there'}" for unit, state in states.items() if state != "active"),
        *_rules(facts, states),
    ]


def _rules(facts: Observed, states: Mapping[str, str]) -> list[str]:
    """Return what somebody did to the rules of a unit that still looks active."""
    known = facts.raw.get("worker_rules", {})
    if states.get(ports.NETWORK_UNIT) != "active":
        return []
    if not {*TABLES} <= {*known.get("tables", TABLES)}:
        return [f"{ports.NETWORK_UNIT} has lost its rules"]
    if not known.get("marked", True):
        return [f"{ports.NETWORK_UNIT} could not put its rules in force again"]
    if known.get("changed"):
        return [f"rules in force are not those of {ports.NETWORK_RULES}"]
    return ["Docker on this host forwards nothing to workers of Podman"] if known.get("shut") else []


def _firewall(facts: Observed, enabled: Iterable[str]) -> list[str]:
    """Return what is wrong with the host's firewall where it is to have one."""
    if ports.FIREWALL_UNIT not in enabled:
        return []
    active = facts.unit(ports.FIREWALL_UNIT).active
    down = [] if active == "active" else [f"{ports.FIREWALL_UNIT} is {active or 'not there'}"]
    return [*down, *(f"firewall: {phrase}" for phrase in facts.raw.get("firewall", {}).get("differs", ()))]


def foreign(facts: Observed, elsewhere: Iterable[str], owned: Iterable[str] = ()) -> list[str]:
    """Return what a person did to the host and has to undo, one sentence each; a deploy leaves it alone.

    `elsewhere` are units of roles that the inventory gives to other hosts, `owned` the paths of our own files.
    """
    left = [unit for unit in elsewhere if _is_in_use(facts.unit(unit))]
    made = [unit for unit in left if facts.unit(unit).file_state == GENERATED]
    written = [unit for unit in left if unit not in made]
    return [
        *map(_drop_in, sorted(facts.names("drop_ins") - set(owned))),
        *([_unwanted(written, f"systemctl disable --now {' '.join(written)} there")] if written else []),
        *(
            # Neither enabled nor disabled by systemctl, which would not even stop it then.
            _unwanted([unit], f"systemctl stop {unit}, remove {quadlet_path(unit)} and run systemctl daemon-reload")
            for unit in made
        ),
    ]


def _drop_in(path: str) -> str:
    name = PurePosixPath(path).parent.name.removesuffix(".d")
    # That of Quadlet's own file, which no command of systemd names.
    unit = f"{name.removesuffix(QUADLET)}.service" if is_quadlet(name) else "that unit"
    return f"{path} changes how a unit of rbee runs; delete it, run systemctl daemon-reload and restart {unit}"


def _unwanted(units: list[str], way_out: str) -> str:
    return f"{' and '.join(units)} should not run on this host any more; run {way_out}"


def _is_in_use(unit: UnitState) -> bool:
    return unit.active not in {"", "inactive"} or unit.file_state in STARTS_AT_BOOT
