"""The fleet file, loaded hot: hosts and models change without a restart, and a bad edit changes nothing."""

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

from rbee_runtime import config
from rbee_runtime.config import FleetFile, FleetModel
from rbee_runtime.errors import ConfigError, ReferenceFormError, StateError
from rbee_runtime.models.references import check_name, parse_source
from rbee_runtime.queen.store import Store

_LAST_GOOD = "fleet_file"

Stamp = tuple[int, int, int]


def read(path: Path) -> FleetFile:
    """Return the validated file or raise ConfigError."""
    return check(config.load(path, FleetFile), where=str(path))


def check(fleet: FleetFile, *, where: str) -> FleetFile:
    """Return `fleet` if its names are of the known forms and unique, else raise ConfigError."""
    for kind, declared in (("hive", fleet.hives), ("model", fleet.models), ("external", fleet.external)):
        names = [item.name for item in declared]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"{where}: {kind} {twice!r} is declared twice")
    try:
        for model in fleet.models:
            check_name(model.name)
            parse_source(model.source)
        for name in (name for external in fleet.external for name in external.models):
            check_name(name)
        for name in fleet.aliases:
            check_name(name)
    except ReferenceFormError as error:
        raise ConfigError(f"{where}: {error}") from error
    _check_aliases(fleet, where)
    return fleet


def _check_aliases(fleet: FleetFile, where: str) -> None:
    """Refuse an alias of nothing, of another alias, or that is a model's own name."""
    models = names(fleet)
    for alias, model in fleet.aliases.items():
        if alias in models:
            raise ConfigError(f"{where}: alias {alias!r} is the name of a model")
        if model not in models:
            raise ConfigError(f"{where}: alias {alias!r} is for {model[:100]!r}, which is no model of this fleet")


def names(fleet: FleetFile) -> Mapping[str, None]:
    """Return the models in their order, those that only servers of others have after the fleet's own."""
    others = (name for external in fleet.external for name in external.models)
    return dict.fromkeys([*(model.name for model in fleet.models), *others])


def by_name(fleet: FleetFile) -> dict[str, FleetModel]:
    """Return the fleet's own models by name."""
    return {model.name: model for model in fleet.models}


def content(model: FleetModel) -> str:
    """Return what identifies a model's bytes (16 hex digits)."""
    parts = [file.sha256 for file in model.files] or [model.source]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class FleetSource:
    """Follows one fleet file. `current` is the last good one; `problem` says what is wrong with the file now.

    `models` has the fleet's own models by name, `names` also has those of servers that are not ours.
    """

    models: Mapping[str, FleetModel]
    names: Mapping[str, None]

    def __init__(self, path: Path, store: Store) -> None:
        self._path = path
        self._store = store
        self._stamp = self._look()
        self.problem = ""
        self.current = self._first()

    @property
    def current(self) -> FleetFile:
        """Return what is in force."""
        return self._current

    @current.setter
    def current(self, fleet: FleetFile) -> None:
        # Each request asks for a model by its name.
        self._current, self.models, self.names = fleet, by_name(fleet), names(fleet)
        self._continued = frozenset(model.name for model in fleet.models if model.continues)

    def poll(self) -> bool:
        """Load the file again if it changed; say whether `current` is another one now, which `remember` then keeps."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            fleet = read(self._path)
        except ConfigError as error:
            self.problem = str(error)
            return False
        self.problem = ""
        changed = fleet != self.current
        self.current = fleet
        return changed

    def resolve(self, name: str) -> str:
        """Return the name of the model that clients may call so."""
        return self.current.aliases.get(name, name)

    def continues(self, model: str) -> bool:
        """Say whether another worker of the model is to go on with a stream whose worker is gone."""
        return model in self._continued

    def remember(self) -> None:
        """Keep the last good file for a start with a bad one, or raise StateError."""
        self._store.put_meta(_LAST_GOOD, self.current.model_dump_json())

    def _first(self) -> FleetFile:
        try:
            fleet = read(self._path)
        except ConfigError as error:
            remembered = self._store.meta(_LAST_GOOD)
            if remembered is None:
                raise
            self.problem = str(error)
            return FleetFile.model_validate_json(remembered)
        # A queen whose disk is full starts all the same; she says so herself.
        with contextlib.suppress(StateError):
            self._store.put_meta(_LAST_GOOD, fleet.model_dump_json())
        return fleet

    def _look(self) -> Stamp:
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (found.st_mtime_ns, found.st_ino, found.st_size)
