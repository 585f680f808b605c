"""The guard's settings, `/etc/rbee/guard.json`: what a hive may have; checked while the file is read."""

import difflib
import ipaddress
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from rbee_runtime import worker_limits
from rbee_runtime.errors import ConfigError
from rbee_runtime.guard import strict_json

MOST_BYTES = 2**60
"""Of memory; no host has more, and every engine can say it."""


class EngineKind(StrEnum):
    """The engine behind the guard."""

    PODMAN = "podman"
    DOCKER = "docker"


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """All of the settings.

    `images` are the exact references that may be started. `models` are the folders that may be mounted, read-only and
    at their own paths. `handover` is the hive's folder of launch files and certificates, `handed` the guard's own, from
    which workers get copies. `callers` are where a network's routes may lead. `user` and `groups` are accounts of this
    host; groups that do not exist are left out. Limits are the most that a worker may be given; None is any, but of
    memory it is the host's share of `worker_limits` once the file is loaded.
    `rules` is a path that is there as long as rules keep workers from their host; without it no worker starts, and
    where none is named nobody asks. `engine_user` is who runs an engine without root's rights. `listen` is the path of
    the guard's socket where systemd hands none over.
    """

    engine: EngineKind
    engine_socket: Path
    fleet: str
    hive: str
    images: tuple[str, ...]
    models: tuple[Path, ...]
    handover: Path
    handed: Path
    network: str
    ports: tuple[int, int]
    user: str
    callers: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    memory_limit: int | None = None
    pids_limit: int | None = None
    rules: Path | None = None
    engine_user: str | None = None
    listen: Path | None = None


def load(path: Path) -> GuardConfig:
    """Return the settings in a file; ConfigError."""
    try:
        found = parse(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; give the settings by --config FILE") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    return replace(found, memory_limit=worker_limits.memory(found.memory_limit))


def parse(data: bytes) -> GuardConfig:
    """Return the settings in a document, or raise ValueError with a sentence about the first mistake."""
    try:
        given = strict_json.loads(data)
    except ValueError as error:
        raise ValueError(f"the file {error}") from error
    if not isinstance(given, dict):
        raise ValueError("the file is no object of settings")  # noqa: TRY004 - a mistake in a file like any other
    for name in given:
        if name not in _READERS:
            near = difflib.get_close_matches(name, _READERS, 1)
            raise ValueError(f"{name!a} is no setting{f'; did you mean {near[0]}?' if near else ''}")
    found = GuardConfig(**{name: _read(name, given) for name in _READERS if name in given or name in _REQUIRED})
    _models_show_nothing_else(found)
    return found


def _models_show_nothing_else(found: GuardConfig) -> None:
    """Check that no worker sees the engine's socket or what another one was handed."""
    for folder in found.models:
        for name in ("engine_socket", "handover", "handed"):
            if getattr(found, name).is_relative_to(folder):
                raise ValueError(f"models has {folder}, which holds {name}: name a folder with models alone")


def _read(name: str, given: Mapping[str, Any]) -> Any:
    if name not in given:
        raise ValueError(f"{name} is missing: set it")
    try:
        return _READERS[name](given[name])
    except ValueError as error:
        raise ValueError(f"{name} is {ascii(given[name])[:80]}: {error}") from error


def _text(pattern: str, form: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"use {form}")
        return value

    return read


def _engine(value: Any) -> EngineKind:
    if value not in list(EngineKind):
        raise ValueError(f"use {' or '.join(EngineKind)}")
    return EngineKind(value)


def _path(value: Any) -> Path:
    """Accept a plain path: without links it is the one name of its place, which the guard looks at later."""
    if not isinstance(value, str) or not value.startswith("/") or posixpath.normpath(value) != value or value == "/":
        raise ValueError("use an absolute path without `..`, `//` and a slash at its end")
    if value.startswith("//") or not value.isprintable():
        raise ValueError("use an absolute path of printable characters")
    return Path(value)


def _range(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or [type(each) for each in value] != [int, int]:
        raise ValueError("use [first, last]")
    first, last = value
    if not 1024 <= first <= last <= 65535:
        raise ValueError("use [first, last] within 1024 to 65535")
    return first, last


def _network(value: Any) -> str:
    try:
        return str(ipaddress.IPv4Network(value))
    except ValueError as error:
        raise ValueError(f"use networks such as 10.0.0.0/8: {error}") from error


def _tuple(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def read_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError("use a list")  # noqa: TRY004 - a mistake in a file like any other
        return tuple(read(each) for each in value)

    return read_all


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _limit(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MOST_BYTES:
        raise ValueError("use a whole number above 0, or null")
    return value


_NAME = _text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "1 to 63 letters, digits, '.', '_' and '-'")
_ACCOUNT = _text(r"[a-z_][a-z0-9_-]{0,31}", "the name of an account")
# A reference is compared with what a hive asks for, so only its characters matter.
_IMAGE = _text(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}", "an image reference")

_READERS: Mapping[str, Callable[[Any], Any]] = {
    "engine": _engine,
    "engine_socket": _path,
    "fleet": _NAME,
    "hive": _NAME,
    "images": _tuple(_IMAGE),
    "models": _tuple(_path),
    "handover": _path,
    "handed": _path,
    "network": _NAME,
    "ports": _range,
    "user": _ACCOUNT,
    "callers": _tuple(_network),
    "groups": _tuple(_ACCOUNT),
    "memory_limit": _optional(_limit),
    "pids_limit": _optional(_limit),
    "rules": _optional(_path),
    "engine_user": _optional(_ACCOUNT),
    "listen": _optional(_path),
}
_OPTIONAL = {"callers", "groups", "memory_limit", "pids_limit", "rules", "engine_user", "listen"}
_REQUIRED = {each.name for each in fields(GuardConfig)} - _OPTIONAL
