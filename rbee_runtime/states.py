"""The state machines of a worker (what the queen wants, what the hive sees) and of a model on its way to a disk.

Intent (queen)                      Observed (hive)
requested → placed                  fetching → (backoff →) starting → ready ⇄ asleep
placed    → lost, released          ready, asleep → draining → stopping → exited
lost      → placed, released        exited → backoff → starting, crash_loop → starting
                                    drifted, orphan → draining, stopping
                                    (backoff: waits for its next try, or for its turn or memory on a device)

Fetch (hive)
waiting → fetching → verifying → ready; fetching → partial, disk_full, failed; verifying → quarantined;
partial, disk_full, quarantined, failed → waiting, when it is tried again
"""

from enum import StrEnum


class Intent(StrEnum):
    """What the queen wants of a worker."""

    REQUESTED = "requested"
    PLACED = "placed"
    LOST = "lost"
    RELEASED = "released"


class Observed(StrEnum):
    """What the hive sees of a worker."""

    FETCHING = "fetching"
    STARTING = "starting"
    READY = "ready"
    ASLEEP = "asleep"
    DRAINING = "draining"
    STOPPING = "stopping"
    EXITED = "exited"
    BACKOFF = "backoff"
    CRASH_LOOP = "crash_loop"
    DRIFTED = "drifted"
    ORPHAN = "orphan"


class FetchState(StrEnum):
    """How far a model is on its way to the disk; see FETCH_TRANSITIONS."""

    WAITING = "waiting"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    READY = "ready"
    PARTIAL = "partial"
    DISK_FULL = "disk_full"
    QUARANTINED = "quarantined"
    FAILED = "failed"


class ExitReason(StrEnum):
    """Why a worker is not running; decides whether and when it is started again."""

    ASKED = "asked"
    BAD_MODEL = "bad_model"
    BAD_CONFIG = "bad_config"
    OUT_OF_MEMORY = "out_of_memory"
    PORT_TAKEN = "port_taken"
    KILLED = "killed"
    DEVICE_LOST = "device_lost"
    ENGINE_MISSING = "engine_missing"
    CRASHED = "crashed"


WORKER_EXIT_CODES: dict[int, ExitReason] = {
    64: ExitReason.BAD_CONFIG,
    65: ExitReason.BAD_MODEL,
    69: ExitReason.ENGINE_MISSING,
    71: ExitReason.OUT_OF_MEMORY,
    74: ExitReason.DEVICE_LOST,
    98: ExitReason.PORT_TAKEN,
}
"""Exit statuses of `rbee-worker` (sysexits.h numbers; 98 is EADDRINUSE)."""

INTENT_TRANSITIONS: dict[Intent, frozenset[Intent]] = {
    Intent.REQUESTED: frozenset({Intent.PLACED, Intent.RELEASED}),
    Intent.PLACED: frozenset({Intent.LOST, Intent.RELEASED}),
    Intent.LOST: frozenset({Intent.PLACED, Intent.RELEASED}),
    Intent.RELEASED: frozenset(),
}

_O = Observed
OBSERVED_TRANSITIONS: dict[Observed, frozenset[Observed]] = {
    _O.FETCHING: frozenset({_O.STARTING, _O.BACKOFF, _O.STOPPING, _O.EXITED}),
    _O.STARTING: frozenset({_O.READY, _O.DRAINING, _O.STOPPING, _O.EXITED, _O.DRIFTED, _O.ORPHAN}),
    _O.READY: frozenset({_O.ASLEEP, _O.STARTING, _O.DRAINING, _O.STOPPING, _O.EXITED, _O.DRIFTED, _O.ORPHAN}),
    _O.ASLEEP: frozenset({_O.READY, _O.DRAINING, _O.STOPPING, _O.EXITED}),
    _O.DRAINING: frozenset({_O.STOPPING, _O.EXITED}),
    _O.STOPPING: frozenset({_O.EXITED}),
    _O.EXITED: frozenset({_O.BACKOFF, _O.CRASH_LOOP, _O.STARTING, _O.FETCHING}),
    _O.BACKOFF: frozenset({_O.STARTING, _O.FETCHING, _O.CRASH_LOOP, _O.STOPPING, _O.EXITED}),
    _O.CRASH_LOOP: frozenset({_O.STARTING, _O.FETCHING, _O.STOPPING, _O.EXITED}),
    _O.DRIFTED: frozenset({_O.READY, _O.DRAINING, _O.STOPPING, _O.EXITED}),
    _O.ORPHAN: frozenset({_O.READY, _O.DRAINING, _O.STOPPING, _O.EXITED}),
}

_F = FetchState
FETCH_TRANSITIONS: dict[FetchState, frozenset[FetchState]] = {
    _F.WAITING: frozenset({_F.FETCHING, _F.FAILED, _F.DISK_FULL, _F.READY}),
    _F.FETCHING: frozenset({_F.VERIFYING, _F.PARTIAL, _F.DISK_FULL, _F.FAILED, _F.READY}),
    _F.VERIFYING: frozenset({_F.READY, _F.QUARANTINED, _F.DISK_FULL, _F.FAILED}),
    _F.READY: frozenset({_F.WAITING}),
    _F.PARTIAL: frozenset({_F.WAITING}),
    _F.DISK_FULL: frozenset({_F.WAITING}),
    _F.QUARANTINED: frozenset({_F.WAITING}),
    _F.FAILED: frozenset({_F.WAITING}),
}
