"""What was there before an activation, and what of it the new generation has not any more."""

from dataclasses import dataclass, replace
from typing import Any

from rbee_deploy.activator import images, records, units
from rbee_deploy.activator.files import Found
from rbee_deploy.activator.manifest import Generation, Role
from rbee_runtime import ports


@dataclass(frozen=True)
class Undo:
    """What was there before: generation, release link, paths, which units were enabled or active, which roles ran."""

    generation: str
    link: str
    paths: tuple[Found, ...]
    enabled: tuple[str, ...]
    active: tuple[str, ...]
    roles: tuple[Role, ...]
    copied: bool = False
    """The database was copied for this, or there was none: another release may have changed it since."""

    @classmethod
    def parse(cls, known: Any) -> "Undo":
        """Return it out of the state file."""
        return cls(
            generation=known["generation"],
            link=known["link"],
            paths=tuple(Found(**entry) for entry in known["paths"]),
            enabled=tuple(known["enabled"]),
            active=tuple(known["active"]),
            roles=tuple(
                Role(**{**entry, "sockets": tuple(entry["sockets"]), "listens": tuple(entry["listens"])})
                for entry in known["roles"]
            ),
            copied=bool(known.get("copied", False)),
        )

    def found(self, path: str) -> Found:
        """Return what was at a path."""
        return next((entry for entry in self.paths if entry.path == path), Found(path))


def before(wanted: Generation, current: str) -> Undo:
    """Return what is there now, as far as going over to a generation may change it; paths are noted apart."""
    old = loaded(current)
    roles = {role.name: role for role in (*(old.roles if old is not None else ()), *wanted.roles)}.values()
    names = (*wanted.enabled, *retired(wanted, current).units, *(role.service for role in roles))
    found = units.look(dict.fromkeys(names))
    return Undo(
        generation=current,
        link=str(ports.CURRENT.readlink()) if ports.CURRENT.is_symlink() else "",
        paths=(),
        enabled=tuple(name for name, unit in found.items() if unit.file_state == "enabled"),
        active=tuple(name for name, unit in found.items() if unit.active == "active"),
        roles=tuple(_as_it_runs(role, old) for role in roles),
    )


def loaded(generation: str) -> Generation | None:
    """Return the generation that is current, None on a host that has none, or one that was lost."""
    try:
        return records.load(generation) if generation else None
    except ValueError:
        return None


def _as_it_runs(role: Role, old: Generation | None) -> Role:
    """Return a role with what it runs now and the ports of the generation that it belongs to."""
    digest, release = units.running(role)
    known = {entry.name: entry.listens for entry in (old.roles if old is not None else ())}
    return replace(role, digest=digest, release=release, listens=known.get(role.name, role.listens))


def _leaves_engine(old: Generation, wanted: Generation) -> bool:
    """Say whether workers are containers of an engine that the new generation has nothing to do with."""
    before, after = images.guarded(old), images.guarded(wanted)
    return before is not None and (after is None or after.engine != before.engine)


@dataclass(frozen=True)
class Retired:
    """What the current generation has and the new one has not: paths, and units that start at boot.

    `workers` is the unit, or the pattern of units, by which its workers end; "" where the new one takes them over.
    """

    files: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    workers: str = ""


def retired(wanted: Generation, current: str) -> Retired:
    """Return what goes; an activation that was cut off still began at the current generation."""
    old = loaded(current)
    if old is None:
        return Retired()
    kept = {file.path for file in wanted.files}
    units_gone = tuple(unit for unit in old.enabled if unit not in wanted.enabled)
    template = any(file.path.endswith(f"/{ports.WORKER_TEMPLATE}") and file.path not in kept for file in old.files)
    in_containers = ports.WORKERS_UNIT if _leaves_engine(old, wanted) else ""
    return Retired(
        tuple(file.path for file in old.files if file.path not in kept),
        units_gone,
        workers=ports.WORKER_TEMPLATE.replace("@.", "@*.") if template else in_containers,
    )
