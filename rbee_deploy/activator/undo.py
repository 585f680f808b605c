"""What was there before an activation, and what of it the new generation has not any more."""

from dataclasses import dataclass, replace
from typing import Any

from rbee_deploy.activator import records, units
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


@dataclass(frozen=True)
class Retired:
    """What the current generation has and the new one has not: paths, and units that start at boot."""

    files: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    had_workers: bool = False


def retired(wanted: Generation, current: str) -> Retired:
    """Return what goes; an activation that was cut off still began at the current generation."""
    old = loaded(current)
    if old is None:
        return Retired()
    kept = {file.path for file in wanted.files}
    hive = any(role.name == "hive" for role in old.roles) and not any(role.name == "hive" for role in wanted.roles)
    return Retired(
        tuple(file.path for file in old.files if file.path not in kept),
        tuple(unit for unit in old.enabled if unit not in wanted.enabled),
        had_workers=hive,
    )
