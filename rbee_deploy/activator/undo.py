"""What was there before an activation, and what of it the new generation has not any more."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from rbee_deploy.activator import records, units
from rbee_deploy.activator.files import Found
from rbee_deploy.activator.manifest import STARTS_AT_BOOT, Generation, Role
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

    begun: tuple[str, ...] = ()
    """Generations that were begun since and did not become ready; what they started may run."""

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
            begun=tuple(known.get("begun", ())),
        )

    @property
    def ways(self) -> tuple[Generation, ...]:
        """Return the generations of which something may be on the host, as far as they are still known."""
        known = (loaded(name) for name in dict.fromkeys((self.generation, *self.begun)))
        return tuple(generation for generation in known if generation is not None)

    def found(self, path: str) -> Found:
        """Return what was at a path."""
        return next((entry for entry in self.paths if entry.path == path), Found(path))


def before(wanted: Generation, current: str) -> Undo:
    """Return what is there now, as far as going over to a generation may change it; paths are noted apart."""
    old = loaded(current)
    roles = {role.name: role for role in (*(old.roles if old is not None else ()), *wanted.roles)}.values()
    names = (
        *wanted.enabled,
        *retired(wanted, [old] if old is not None else []).units,
        *(role.service for role in roles),
    )
    found = units.look(dict.fromkeys(names))
    return Undo(
        generation=current,
        link=str(ports.CURRENT.readlink()) if ports.CURRENT.is_symlink() else "",
        paths=(),
        enabled=tuple(name for name, unit in found.items() if unit.file_state in STARTS_AT_BOOT),
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
    """What earlier generations have and the new one has not: paths, and units that start at boot."""

    files: tuple[str, ...] = ()
    units: tuple[str, ...] = ()


def retired(wanted: Generation, ways: Iterable[Generation]) -> Retired:
    """Return what goes; `ways` is what was current, and what an activation that was cut off had begun."""
    earlier = tuple(ways)
    kept = {file.path for file in wanted.files}
    files = dict.fromkeys(file.path for old in earlier for file in old.files if file.path not in kept)
    gone = dict.fromkeys(unit for old in earlier for unit in old.enabled if unit not in wanted.enabled)
    return Retired(tuple(files), tuple(gone))


def has_processes(generation: Generation | None) -> bool:
    """Say whether workers of a generation are units of systemd."""
    template = f"/{ports.WORKER_TEMPLATE}"
    return generation is not None and any(file.path.endswith(template) for file in generation.files)
