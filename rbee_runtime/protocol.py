"""Messages between queen, hive and worker, as they go over the wire (JSON by msgspec).

Unknown fields are ignored and missing ones have defaults, so that neighbours one version apart understand each other.
"""

import hashlib
import re
from typing import Any, TypeVar

import msgspec

from rbee_runtime.states import ExitReason, FetchState, Observed

PROTOCOL_VERSION = 1

QUEEN = "x-rbee-queen"
"""Header in which a queen says with each order to a hive which one she is: her `signature`."""

_SIGNATURE = re.compile(r"([0-9]{1,10})-[0-9a-f]{16}")

T = TypeVar("T")


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False, gc=False):
    """Base of every wire message: immutable, keyword-only."""


class ModelFile(Message, frozen=True, kw_only=True):
    """One file of a model: `name` as the engine expects it, content address, size in bytes."""

    name: str
    sha256: str
    size: int


class ModelSpec(Message, frozen=True, kw_only=True):
    """A model that a host should hold.

    `source` is what the inventory says (`hf:…`, `file:/…`, `fake:…`); `files` is empty where the source itself says
    which they are, or has none. `pin` keeps it from garbage collection; `holders` are URLs of hives that have it.
    """

    name: str
    source: str
    files: tuple[ModelFile, ...] = ()
    pin: bool = False
    holders: tuple[str, ...] = ()


class WorkerSpec(Message, frozen=True, kw_only=True):
    """One worker as the queen wants it: one replica of one model on one hive.

    `context` is tokens per sequence, `slots` sequences at a time, `devices` ids as the hive reports them,
    `options` engine-specific settings, `build` what its hive calls the code that it runs ("": the queen leaves that
    open, as one that does not know of builds does). The hive chooses the port.
    """

    id: str
    model: str
    engine: str
    context: int = 4096
    slots: int = 1
    devices: tuple[str, ...] = ()
    options: dict[str, str | int | float | bool] = {}
    build: str = ""

    def digest(self) -> str:
        """Return the spec hash (first 16 hex digits of sha256) that is part of a worker's identity."""
        fields = msgspec.to_builtins(self)
        if not self.build:
            # As releases that know of no builds hash it: neighbours one version apart agree on what runs.
            del fields["build"]
        canonical = msgspec.json.encode(fields, order="sorted")
        return hashlib.sha256(canonical).hexdigest()[:16]

    def agrees(self, running: str, build: str) -> bool:
        """Say whether a worker that was started with `build` and calls its spec `running` is what is wanted.

        A spec that leaves the build open is content with any, so that an older queen finds nothing to replace; and the
        code of an older worker does not count the build that it was started with.
        """
        builds = {"", build} if self.build in {"", build} else {self.build}
        return any(running == msgspec.structs.replace(self, build=each).digest() for each in builds)


class Desired(Message, frozen=True, kw_only=True):
    """The whole desired document of one hive, `PUT /api/v1/desired`.

    `epoch` rises with each start of a queen, `revision` with each change within an epoch. `hive` is whom it is for.
    `models` are those of its workers; `pins` names all of the fleet that the inventory pins (None: not told), so that
    a model which left the inventory, not only this host, stays on no disk for an old pin.
    """

    fleet: str
    epoch: int
    revision: int
    hive: str = ""
    workers: tuple[WorkerSpec, ...] = ()
    models: tuple[ModelSpec, ...] = ()
    pins: tuple[str, ...] | None = None
    protocol: int = PROTOCOL_VERSION


class DesiredAck(Message, frozen=True, kw_only=True):
    """Answer to a desired document: what the hive now holds."""

    fleet: str
    epoch: int
    revision: int


class DeviceProcess(Message, frozen=True, kw_only=True):
    """A process on a device: its memory there in bytes (None: the driver does not say), its worker if it is ours."""

    pid: int
    memory: int | None = None
    worker: str | None = None


class DeviceReport(Message, frozen=True, kw_only=True):
    """One device; memory in bytes. `foreign` is what processes other than our workers use.

    `reserved` is what workers placed here may take, `measured` what they take. An unhealthy device serves what it
    serves and gets nothing new; `detail` says why. `processes` are those that the driver names, the largest first.
    """

    id: str
    kind: str
    name: str
    total: int
    used: int
    foreign: int = 0
    reserved: int = 0
    measured: int = 0
    index: int = 0
    healthy: bool = True
    detail: str = ""
    attributes: dict[str, str] = {}
    processes: tuple[DeviceProcess, ...] = ()


class ModelReport(Message, frozen=True, kw_only=True):
    """One model on a hive's disk; `revision` is what its source calls this content, `last_used` unix seconds.

    `facts` are the fields of `models.facts.ModelFacts` that memory follows from ({}: not told).
    """

    name: str
    size: int
    files: tuple[ModelFile, ...] = ()
    source: str = ""
    revision: str = ""
    pinned: bool = False
    last_used: float = 0.0
    facts: dict[str, Any] = {}


class FetchReport(Message, frozen=True, kw_only=True):
    """A model on its way to a hive's disk.

    `done` and `total` are bytes (`total` 0 while unknown), `rate` bytes/s, `eta` seconds (None while unknown).
    `next_try` is seconds until it is fetched again (0 when that is not planned).
    """

    name: str
    state: FetchState
    done: int = 0
    total: int = 0
    rate: float = 0.0
    eta: float | None = None
    detail: str = ""
    next_try: float = 0.0


class WorkerReport(Message, frozen=True, kw_only=True):
    """One worker as the hive sees it.

    `since` is seconds in this state; `address` and `port` are where the queen reaches it;
    `detail` is one sentence for a person when the state is not `ready`. `next_try` is seconds until it is started
    again (0 when that is not planned), `memory` bytes that it takes by device id, `need` those that its hive books for
    it on each of its devices (0: not known), `unit` the name under which systemctl or the container engine shows it.
    `spec` is the digest of what runs, `wanted` of what its hive knew to be wanted when it said so: a worker that is
    `ready` with another one cannot be replaced now and serves on.
    """

    id: str
    model: str
    spec: str
    state: Observed
    engine: str = ""
    address: str = ""
    port: int = 0
    context: int = 0
    slots: int = 1
    in_flight: int = 0
    restarts: int = 0
    since: float = 0.0
    detail: str = ""
    last_exit: ExitReason | None = None
    exit_status: int | None = None
    exit_signal: int | None = None
    next_try: float = 0.0
    memory: dict[str, int] = {}
    unit: str = ""
    wanted: str = ""
    need: int = 0


class Event(Message, frozen=True, kw_only=True):
    """Something that happened on a hive or in a queen; `id` counts up within an incarnation, `time` is unix seconds."""

    id: int
    time: float
    kind: str
    subject: str = ""
    data: dict[str, Any] = {}


class Heartbeat(Message, frozen=True, kw_only=True):
    """`POST /api/v1/hives/{name}/heartbeat`, every 5 s and at once on change.

    `incarnation` is new with each start of the hive process; `epoch` and `revision` are those of the desired
    document that it follows (0, 0 before the first). `url` is where the queen reaches this hive; one that is
    `draining` empties itself and gets nothing new. `detail` is what keeps it from its work, in a sentence. `builds` are
    opaque: what a worker of each of its `engines` runs if it is started now, {} from a hive that knows of no builds.
    """

    hive: str
    incarnation: str
    url: str
    epoch: int
    revision: int
    version: str
    engines: tuple[str, ...] = ()
    builds: dict[str, str] = {}
    devices: tuple[DeviceReport, ...] = ()
    models: tuple[ModelReport, ...] = ()
    fetches: tuple[FetchReport, ...] = ()
    workers: tuple[WorkerReport, ...] = ()
    draining: bool = False
    detail: str = ""
    protocol: int = PROTOCOL_VERSION


class HeartbeatAck(Message, frozen=True, kw_only=True):
    """Answer to a heartbeat: the document that the queen wants this hive to follow, and who she is ("": not told)."""

    fleet: str
    epoch: int
    revision: int
    queen: str = ""


class WorkerLaunch(Message, frozen=True, kw_only=True):
    """The spec file that a hive writes for one worker (0600), all that `rbee-worker --spec` needs.

    `model_path` is the first file of the model ("" for engines without files); `engine_dir` the engine artefact
    ("" for built-in engines); `fleet` is the one whose certificates are let in; `token` is set instead of TLS files
    on a laptop; `$RBEE_WORKER_TOKEN` is the one in the worker's environment.
    """

    worker: WorkerSpec
    host: str
    port: int
    model_path: str = ""
    engine_dir: str = ""
    token: str = ""
    tls_dir: str = ""
    fleet: str = "laptop"
    protocol: int = PROTOCOL_VERSION


def signature(epoch: int, token: str) -> str:
    """Return who a queen is: her epoch, and 16 hex digits that no other start has, on a copy of the state or not."""
    return f"{epoch}-{token}"


def epoch_of(queen: str) -> int | None:
    """Return the epoch in a signature, None if it is none."""
    found = _SIGNATURE.fullmatch(queen)
    return int(found[1]) if found is not None else None


def encode(message: Message) -> bytes:
    """Return a message as JSON."""
    return msgspec.json.encode(message)


def decode(data: bytes | bytearray | str, kind: type[T]) -> T:
    """Return a value from its JSON; whatever is wrong with that is `msgspec.DecodeError`.

    The library itself raises other errors for a byte that is no UTF-8 and for lists in lists without end.
    """
    try:
        return msgspec.json.decode(data, type=kind)  # noqa: TID251
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def to_builtins(message: Message) -> Any:
    """Return a message as dicts and lists, for answers that a person reads."""
    return msgspec.to_builtins(message)
