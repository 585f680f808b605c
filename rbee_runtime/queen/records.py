"""What the queen remembers: keys, hives and assignments, as plain frozen values."""

from dataclasses import dataclass
from enum import StrEnum

from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.states import Intent, Observed


class Scope(StrEnum):
    """What a client key allows."""

    INFER = "infer"
    ADMIN = "admin"


@dataclass(frozen=True)
class KeyRecord:
    """A client key at rest. `digest` is sha256 (hex) of the whole key; `models` are globs; times are Unix seconds."""

    id: str
    name: str
    digest: str
    scopes: frozenset[Scope]
    models: tuple[str, ...]
    created: int
    revoked: int = 0


@dataclass(frozen=True)
class HiveRecord:
    """What outlives a restart about a hive: where it answered last, and whether the operator drains it."""

    name: str
    url: str = ""
    drained: bool = False


@dataclass(frozen=True)
class Assignment:
    """One worker that the queen wants on one hive, and where it was last seen.

    `content` identifies the model's files, so that a model of the same name with other content gets a new worker.
    `port` 0 means not seen yet; `observed` is None until the hive reports it; `slots` 0 until it reports those.
    """

    spec: WorkerSpec
    hive: str
    content: str
    intent: Intent = Intent.PLACED
    address: str = ""
    port: int = 0
    observed: Observed | None = None
    slots: int = 0

    @property
    def id(self) -> str:
        """Return the worker's id."""
        return self.spec.id

    @property
    def capacity(self) -> int:
        """Return how many requests it takes at a time."""
        return max(self.slots or self.spec.slots, 1)
