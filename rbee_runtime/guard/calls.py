"""What a hive may ask of its engine: each call is one of these, and there are no others."""

from dataclasses import dataclass

from rbee_runtime.guard.worker_container import WorkerContainer
from rbee_runtime.guard.worker_network import WorkerNetwork


@dataclass(frozen=True)
class Ping:
    """Is the engine there."""


@dataclass(frozen=True)
class Version:
    """Which API the engine speaks."""


@dataclass(frozen=True)
class Info:
    """What the engine can do on this host."""


@dataclass(frozen=True)
class HasImage:
    """Is an image on this host."""

    image: str


@dataclass(frozen=True)
class ListOwn:
    """All containers of the guard's hive."""


@dataclass(frozen=True)
class ListUsers:
    """All containers in the workers' network, by its name or id."""

    network: str


@dataclass(frozen=True)
class Inspect:
    """A container by its whole name or id."""

    container: str


@dataclass(frozen=True)
class Create:
    """Make a worker's container."""

    wanted: WorkerContainer


@dataclass(frozen=True)
class Start:
    """Start a container that was made."""

    container: str


@dataclass(frozen=True)
class Stop:
    """End a container, by force after so many seconds."""

    container: str
    seconds: int


@dataclass(frozen=True)
class Terminate:
    """Send SIGTERM to a container."""

    container: str


@dataclass(frozen=True)
class Remove:
    """Remove a container that has ended; `ignore` takes one that is gone for removed."""

    container: str
    ignore: bool


@dataclass(frozen=True)
class ReadLog:
    """The last lines of a container's log and, with `follow`, each new one."""

    container: str
    lines: int
    follow: bool


@dataclass(frozen=True)
class LookAtNetwork:
    """The workers' network, if there is one."""


@dataclass(frozen=True)
class MakeNetwork:
    """Make the workers' network."""

    wanted: WorkerNetwork


@dataclass(frozen=True)
class RemoveNetwork:
    """Remove the workers' network."""


OfEngine = Ping | Version | Info | HasImage | ListOwn
OfNetwork = LookAtNetwork | ListUsers | MakeNetwork | RemoveNetwork
OfContainer = Inspect | Create | Start | Stop | Terminate | Remove
Call = OfEngine | OfNetwork | OfContainer | ReadLog
