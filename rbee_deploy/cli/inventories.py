"""Reading an inventory file before pyinfra does, so that a mistake in it is one sentence."""

import runpy
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rbee_deploy._fields import nearest
from rbee_deploy.errors import DeployError
from rbee_deploy.inventory import Placement
from rbee_deploy.site import Site

SHOWN = 8
"""Names in a sentence; a fleet may have hundreds."""


@dataclass(frozen=True)
class Declared:
    """What an inventory file declares: a fleet, and by what a part of it can be named."""

    file: str
    site: Site
    hosts: frozenset[str]
    groups: frozenset[str]

    def refuse_unknown(self, limits: Iterable[str]) -> None:
        """Raise DeployError for names and patterns of neither hosts nor a group; pyinfra would go on without them."""
        for name in limits:
            if name not in self.groups and not any(fnmatch(host, name) for host in self.hosts):
                known = [*sorted(self.groups), *sorted(self.hosts - self.groups)]
                hint = nearest(name, known) or f"; it has {', '.join(known[:SHOWN])}{', …' * (len(known) > SHOWN)}"
                raise DeployError(f"no host or group of {self.file} is called {name!r}{hint}")


def read(inventory: str) -> Declared:
    """Return what an inventory file declares."""
    path = Path(inventory)
    if path.is_dir():
        raise DeployError(f"{inventory} is a folder; give the inventory file in it by -i")
    if not path.is_file():
        raise DeployError(f"there is no inventory file {inventory}; give one by -i")
    groups = dict(_groups(_names(inventory)))
    placed = {name: placement for group in groups.values() for name, placement in _placed(group)}
    if not placed:
        raise DeployError(f"{inventory} declares no fleet; begin with queen, hives = fleet(…)")
    named = {name for name, group in groups.items() if any(_name(entry) in placed for entry in group)}
    site = next(iter(placed.values())).site
    # The last two are what pyinfra makes of every file.
    return Declared(inventory, site, frozenset(placed), frozenset(named | {"all", path.stem}))


def _groups(names: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield what pyinfra takes for a group: hosts, or hosts with data for all of them, by a public name."""
    for name, value in names.items():
        hosts = value[0] if isinstance(value, tuple) and value else value
        if not name.startswith("_") and isinstance(hosts, list):
            yield name, hosts


def _placed(group: list[Any]) -> Iterator[tuple[str, Placement]]:
    """Yield the hosts of ours by the names that pyinfra has for them."""
    for entry in group:
        placed = entry[1].get("rbee") if isinstance(entry, tuple) and len(entry) == 2 else None
        if isinstance(placed, Placement):
            yield entry[0], placed


def _name(entry: Any) -> Any:
    return entry[0] if isinstance(entry, tuple) and entry else entry


def _names(inventory: str) -> dict[str, Any]:
    """Run an inventory file; what goes wrong in it is named by its line there."""
    try:
        return runpy.run_path(inventory)
    except SyntaxError as error:
        raise DeployError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except DeployError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == inventory]
        where = f"{inventory}, line {lines[-1]}" if lines else inventory
        raise DeployError(f"{where}: {type(error).__name__}: {error}") from error
