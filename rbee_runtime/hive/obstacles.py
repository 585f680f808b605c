"""What keeps a wanted worker that does not run from being started now: pure, first reason first.

for good, until something changes   a model that nobody describes, a model or setting that was refused, an engine that
                                    is missing or does not fit this host, a hive that is drained
until it gets better by itself      a model on its way, a lost device, memory that nobody gave back, a full state disk
until its time comes                the schedule of tries, the turn to load on a device (see `turns`)
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rbee_runtime.hive.ledger import gib, places
from rbee_runtime.hive.records import WorkerRecord
from rbee_runtime.hive.scene import Scene
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.states import ExitReason, Observed

FREED_SHARE = 0.02
"""More of a device must be free than at the last failure before out of memory is tried again: less is noise."""


@dataclass(frozen=True)
class Obstacle:
    """State, sentence and reason of a worker that waits."""

    state: Observed
    said: str
    reason: ExitReason | None = None


def obstacle(scene: Scene, record: WorkerRecord, wanted: WorkerSpec) -> Obstacle | None:
    """Return the first thing in the way of a start, or None."""
    for look in (_drained, _model, _engine, _device, _memory, _schedule, _state):
        found = look(scene, record, wanted)
        if found is not None:
            return found
    return None


def lost(scene: Scene, devices: tuple[str, ...]) -> str:
    """Return why one of these devices may not be used, or ""."""
    return _said(scene.lost, devices, "")


def _said(of: Mapping[str, str], devices: tuple[str, ...], how: str) -> str:
    device = next((device for device in places(devices) if device in of), None)
    return f"device {device}{how}: {of[device]}" if device is not None else ""


def last(record: WorkerRecord) -> str:
    """Return how a worker ended last, in words."""
    reason = record.last_exit or ExitReason.CRASHED
    return f"{reason.value}: {record.said}" if record.said else reason.value


def _drained(scene: Scene, _: WorkerRecord, __: WorkerSpec) -> Obstacle | None:
    said = "this hive is drained; it starts nothing until it is undrained"
    return Obstacle(Observed.EXITED, said) if scene.drained else None


def _model(scene: Scene, record: WorkerRecord, wanted: WorkerSpec) -> Obstacle | None:
    model = scene.models.get(wanted.model)
    if model is None:
        said = scene.unseen or f"the desired document does not describe model {wanted.model}"
        return Obstacle(Observed.FETCHING if scene.unseen else Observed.EXITED, said)
    if record.blocked and record.blocked == f"{scene.identity(wanted)}/{model.stamp}":
        return Obstacle(Observed.EXITED, f"{last(record)}; not tried again until its spec or model changes")
    return None if model.ready else Obstacle(Observed.FETCHING, model.said)


def _engine(scene: Scene, _: WorkerRecord, wanted: WorkerSpec) -> Obstacle | None:
    name = wanted.engine
    if name in scene.engines:
        return None
    absent = f"engine {name} is not installed on this host; add it in the inventory and run the deploy"
    return Obstacle(Observed.EXITED, scene.unfit.get(name, absent), ExitReason.ENGINE_MISSING)


def _device(scene: Scene, _: WorkerRecord, wanted: WorkerSpec) -> Obstacle | None:
    said = lost(scene, wanted.devices)
    if not said and (said := _said(scene.unjudged, wanted.devices, " cannot be seen")) and scene.early:
        # It may be among the devices of the driver that comes up, which is no reason to start elsewhere.
        return Obstacle(Observed.BACKOFF, f"{said}; its driver may still come up")
    for device in places(wanted.devices):
        # The worker that found it broken is the one that tries, on its own schedule, whether it works again.
        finders = scene.faults.get(device, ())
        if finders and wanted.id not in finders and not said:
            said = f"device {device}: {finders[0]} found it broken; free for others once {finders[0]} is ready on it"
    return Obstacle(Observed.EXITED, said, ExitReason.DEVICE_LOST) if said else None


def _memory(scene: Scene, record: WorkerRecord, wanted: WorkerSpec) -> Obstacle | None:
    if record.last_exit is not ExitReason.OUT_OF_MEMORY or record.starved < 2 or not record.had:
        return None
    for device, had in record.had.items():
        account = scene.ledger.accounts.get(device)
        if account is None or account.free > had + FREED_SHARE * account.total:
            return None
    free = ", ".join(f"{gib(size)} on {device}" for device, size in scene.ledger.free(wanted.devices).items())
    said = f"{last(record)}; tried twice, and not again until its spec changes or more is free than now ({free})"
    return Obstacle(Observed.EXITED, said, ExitReason.OUT_OF_MEMORY)


def _schedule(scene: Scene, record: WorkerRecord, _: WorkerSpec) -> Obstacle | None:
    if scene.now >= record.next_try:
        return None
    state = Observed.CRASH_LOOP if record.crash_loop else Observed.BACKOFF
    return Obstacle(state, f"{last(record)}; next try in {record.next_try - scene.now:.0f} s")


def _state(scene: Scene, _: WorkerRecord, __: WorkerSpec) -> Obstacle | None:
    # Started without a record, it would be a stranger to the next hive.
    said = f"waits until its start can be put on record: {scene.trouble}"
    return Obstacle(Observed.BACKOFF, said) if scene.trouble else None
