"""What a generation is, as it travels from the operator's machine to the host and is kept there."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

GENERATED = "generated"
STARTS_AT_BOOT = frozenset({"enabled", GENERATED})
"""States of a unit's file. Of what Quadlet generates the file itself says so; systemctl refuses to enable it."""


@dataclass(frozen=True)
class Role:
    """A role as it should run; `sockets` are its socket units and `listens` the ports that they hold."""

    name: str
    service: str
    running_file: str
    digest: str
    release: str
    sockets: tuple[str, ...] = ()
    listens: tuple[int, ...] = ()


@dataclass(frozen=True)
class File:
    """One owned file; `affects` are the services to restart when it changes."""

    path: str
    sha256: str
    owner: str
    group: str
    mode: str
    secret: bool = False
    affects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generation:
    """What a host should be: release, files, what must not be there, units that start at boot, and the one for all.

    `helpers` are the units that have to be up before the roles start. `images` are the ids of what containers are
    made of, at the host's `engine` of containers, and `kinds` says of each in turn what it is for.
    """

    release: str
    version: str
    roles: tuple[Role, ...] = ()
    files: tuple[File, ...] = ()
    unwanted: tuple[str, ...] = ()
    enabled: tuple[str, ...] = ()
    target: str = ""
    helpers: tuple[str, ...] = ()
    engine: str = ""
    images: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Return 16 hex digits that differ when anything in it does."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:16]

    def text(self) -> str:
        """Return it as one line of JSON, always the same for the same generation."""
        known = asdict(self)
        for name in ("helpers", "engine", "images", "kinds"):
            # Generations of before had none: they keep the ids that hosts know them by.
            if not known[name]:
                del known[name]
        return json.dumps(known, sort_keys=True, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> "Generation":
        """Return a generation out of its text, or raise ValueError."""
        try:
            known: Mapping[str, Any] = json.loads(text)
            return cls(
                release=str(known["release"]),
                version=str(known["version"]),
                roles=tuple(Role(**_tuples(role, "sockets", "listens")) for role in known["roles"]),
                files=tuple(File(**_tuples(file, "affects")) for file in known["files"]),
                unwanted=tuple(known["unwanted"]),
                enabled=tuple(known["enabled"]),
                target=str(known["target"]),
                helpers=tuple(known.get("helpers", ())),
                engine=str(known.get("engine", "")),
                images=tuple(known.get("images", ())),
                kinds=tuple(known.get("kinds", ())),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no generation that this release knows ({error})") from error


def _tuples(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {**fields, **{name: tuple(fields.get(name, ())) for name in names}}
