"""Bodies on their way through the guard: as launchers send them, as they are understood, as the engine gets them."""

import copy
import json
from pathlib import Path
from typing import Any

from rbee_runtime.guard import docker_words, podman_words
from rbee_runtime.guard.config import EngineKind
from rbee_runtime.guard.worker_container import WorkerContainer
from tests.unit.guard.bodies import create_body
from tests.unit.guard.places import ACCOUNT, Places

P, D = EngineKind.PODMAN, EngineKind.DOCKER
PLACES = Places(Path("/srv/host"))
BODIES = {kind: create_body(PLACES, kind) for kind in EngineKind}
HOST = "HostConfig"


def understood(kind: EngineKind, body: Any, **changed: Any) -> WorkerContainer:
    config = PLACES.config(kind, **changed)
    if kind is P:
        return podman_words.read_container(body, config)
    return docker_words.read_container("rbee-worker-w-1", body, config)


def rewritten(kind: EngineKind, body: Any) -> Any:
    """Return the body that the engine gets."""
    words = podman_words if kind is P else docker_words
    made = words.container_body(understood(kind, body), PLACES.config(kind), ACCOUNT, PLACES.handed / "w-1")
    return json.loads(json.dumps(made))


def without(body: Any, *names: str) -> Any:
    """Return a document without these fields, wherever they are, and without what is empty: engines read the same."""
    if not isinstance(body, dict):
        return body
    kept = {name: without(value, *names) for name, value in body.items() if name not in names}
    return {name: value for name, value in kept.items() if value or name.endswith("/tcp") or name == "rbee-workers"}


def changed(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy with one place set to a value, or gone for Ellipsis."""
    new = copy.deepcopy(body)
    inner = new
    for step in path[:-1]:
        inner = inner[step]
    if value is ...:
        del inner[path[-1]]
    elif isinstance(inner, list) and path[-1] == len(inner):
        inner.append(value)
    else:
        inner[path[-1]] = value
    return new
