"""How much of an engine's answer a hive gets to see: what its launcher reads, of what is the hive's own. Pure."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rbee_runtime.errors import GuardError
from rbee_runtime.guard.config import EngineKind, GuardConfig
from rbee_runtime.guard.engine_socket import Answer
from rbee_runtime.guard.worker_container import owned_worker

_INFO = ("MemoryLimit", "PidsLimit", "SecurityOptions", "CDISpecDirs", "LoggingDriver", "LiveRestoreEnabled")
_NETWORK = {
    EngineKind.PODMAN: (
        *("name", "id", "driver", "internal", "dns_enabled", "ipv6_enabled", "options", "labels", "subnets", "routes"),
        "network_interface",
    ),
    EngineKind.DOCKER: ("Name", "Id", "Driver", "Internal", "EnableIPv6", "Options", "Labels"),
}
_ID = re.compile(r"[0-9a-f]{64}")


def told(document: Any) -> Answer:
    """Return a good answer with this document."""
    return Answer(200, json.dumps(document).encode())


def cut(answer: Answer, view: Callable[[Any], Any] | None) -> Answer:
    """Return a good answer as a view of it; what the engine refuses is told in its own words."""
    return answer if answer.status != 200 or view is None else told(view(answer.document()))


def good(answer: Answer) -> Answer:
    """Return an answer of status 200; GuardError with what the engine says otherwise."""
    if answer.status != 200:
        said = an_object(answer.document()).get("message")
        raise GuardError(f"the engine says: {str(said)[:500]}", status=answer.status)
    return answer


def of_info(found: Any, engine: EngineKind) -> dict[str, Any]:
    """Return what launchers read of an engine's description of itself."""
    found = an_object(found)
    if engine is EngineKind.DOCKER:
        return _part(found, _INFO)
    host = an_object(found.get("host"))
    # Whose ids those of a rootless one are is the guard's to know; a launcher has nothing to do about it.
    return {"host": {"security": {"rootless": False}, "cgroupControllers": host.get("cgroupControllers")}}


def limits_of(found: Mapping[str, Any], engine: EngineKind) -> frozenset[str]:
    """Return which of `memory` and `pids` the engine can limit here."""
    if engine is EngineKind.DOCKER:
        named = {"memory": found.get("MemoryLimit"), "pids": found.get("PidsLimit")}
        return frozenset(name for name, there in named.items() if there)
    return frozenset(an_object(found.get("host")).get("cgroupControllers") or ()) & {"memory", "pids"}


def of_version(found: Any) -> dict[str, Any]:
    """Return the version that a client is to speak."""
    return _part(an_object(found), ("ApiVersion",))


def of_stranger(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of somebody else's container: that its name is taken."""
    status = an_object(found.get("State")).get("Status")
    return {"Id": found.get("Id"), "Name": found.get("Name"), "Config": {"Labels": {}}, "State": {"Status": status}}


def of_own(found: Any, config: GuardConfig) -> list[dict[str, Any]]:
    """Return the containers of a list that are this hive's."""
    listed = [an_object(each) for each in a_list(found)]
    return [_part(each, ("Id", "Names", "Labels", "State")) for each in listed if _is_own(each, config)]


def of_users(found: Any) -> list[dict[str, Any]]:
    """Return the names of containers in a list."""
    return [_part(an_object(each), ("Id", "Names", "State")) for each in a_list(found)]


def of_network(found: Mapping[str, Any], engine: EngineKind) -> dict[str, Any]:
    """Return what launchers read of a network."""
    return _part(found, _NETWORK[engine])


def id_of(found: Mapping[str, Any]) -> str:
    """Return the whole id of a container or network."""
    value = found.get("Id", found.get("id"))
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise GuardError("the engine's answer is not understood: it has no id of 64 digits", status=502)
    return value


def name_of(found: Mapping[str, Any]) -> str:
    """Return a container's name; Docker's has a slash in front."""
    return str(found.get("Name") or "").removeprefix("/")


def labels_of(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the labels in an engine's description of a container."""
    return an_object(an_object(found.get("Config")).get("Labels"))


def an_object(value: Any) -> Mapping[str, Any]:
    """Return an object of an answer, an empty one where the engine says null."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise GuardError("the engine's answer is not understood: it has no object where one belongs", status=502)
    return value


def a_list(value: Any) -> list[Any]:
    """Return a list of an answer, an empty one where the engine says null."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise GuardError("the engine's answer is not understood: it has no list where one belongs", status=502)
    return value


def _is_own(listed: Mapping[str, Any], config: GuardConfig) -> bool:
    names = [str(name).removeprefix("/") for name in a_list(listed.get("Names"))]
    return any(owned_worker(an_object(listed.get("Labels")), name, config) is not None for name in names)


def _part(found: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: found[name] for name in names if name in found}
