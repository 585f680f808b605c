"""What happens in a fleet, told as events: by those who decide it, or found by comparing with what was there before.

Each event has its subject's whole state in `data`, and in `change` what is new about it. Names of keys and hosts are in
them, secrets and words of clients never.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from rbee_runtime import logs
from rbee_runtime.events import EventLog
from rbee_runtime.metrics import Durations
from rbee_runtime.queen.loads import Phase
from rbee_runtime.queen.membership import Member, Presence
from rbee_runtime.queen.records import Assignment
from rbee_runtime.states import Intent

KEEP = 8192
"""A fleet of a thousand hosts that comes back after a power cut says some five thousand things at once."""

LOAD_SECONDS = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Upper bounds of the buckets: a small model that is on disk takes seconds, a large one to be fetched half an hour."""


class EventKind(StrEnum):
    """What an event is about, which `subject` names; the log itself adds `reset`.

    hive_state    a hive: joined, suspect, lost, back, drained, undrained
    worker_state  a worker: what is wanted, what its hive sees, whether it is reached
    load_state    a model: its load began, is in another phase, is over
    model_state   a model: placed (its first worker), evicted (a worker made room), lacking (workers), scaled, failed
    placement     a worker: placed, lost, restored, released, moving; or "": frozen, resumed
    key           a key: created, revoked
    ejection      a worker: what routing says of it
    """

    HIVE_STATE = "hive_state"
    WORKER_STATE = "worker_state"
    LOAD_STATE = "load_state"
    MODEL_STATE = "model_state"
    PLACEMENT = "placement"
    KEY = "key"
    EJECTION = "ejection"


Record = Callable[[EventKind, str, Mapping[str, object]], None]
"""Takes note of one event: kind, subject, data (plain JSON values)."""


def unrecorded(kind: EventKind, subject: str, detail: Mapping[str, object]) -> None:
    """Take note of nothing."""


@dataclass(frozen=True)
class Moment:
    """What is compared: hives by presence and whether they are drained, workers, and which of them are not reached."""

    hives: Mapping[str, tuple[Presence, bool]] = field(default_factory=dict)
    workers: Mapping[str, Assignment] = field(default_factory=dict)
    unreachable: frozenset[str] = frozenset()


def moment(
    members: Mapping[str, Member], workers: Mapping[str, Assignment], unreachable: Iterable[str], now: float
) -> Moment:
    """Return what is there at a monotonic time."""
    hives = {name: (member.presence(now), member.record.drained) for name, member in members.items()}
    return Moment(hives, dict(workers), frozenset(unreachable))


class History:
    """The one teller of a queen."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.loads = {phase.value: Durations(LOAD_SECONDS) for phase in (Phase.READY, Phase.FAILED)}
        self._before: Moment | None = None
        self._frozen = False
        self._said: dict[str, tuple[str, ...]] = {}

    def record(self, kind: EventKind, subject: str, detail: Mapping[str, object]) -> None:
        """Tell one event, and count a load that is over."""
        self.log.publish(kind, subject, **detail)
        seconds = detail.get("seconds")
        if kind is EventKind.LOAD_STATE and isinstance(seconds, float) and detail.get("phase") in self.loads:
            self.loads[str(detail["phase"])].add(seconds)

    def planned(self, reasons: Mapping[str, tuple[str, ...]], *, frozen: bool, settled: bool) -> None:
        """Tell what a plan could not do; `settled` says that the hives have had time to speak."""
        if frozen != self._frozen:
            self._frozen = frozen
            logs.warning("rescheduling frozen: too many hives are silent" if frozen else "rescheduling resumed")
            self.record(EventKind.PLACEMENT, "", {"change": "frozen" if frozen else "resumed"})
        for model, why in reasons.items():
            if settled and why != self._said.get(model):
                self._said[model] = why
                logs.warning("model lacks workers", model=model, why="; ".join(why))
                self.record(EventKind.MODEL_STATE, model, {"change": "lacking", "detail": "; ".join(why)})

    def look(self, now: Moment) -> None:
        """Tell what differs from the last look; the first one finds everything as it should be."""
        before, self._before = self._before, now
        if before is None:
            return
        for name, (presence, drained) in now.hives.items():
            if before.hives.get(name) != (presence, drained):
                self._hive(name, before.hives.get(name, (Presence.UNKNOWN, False)), presence, drained)
        # Of thousands of workers few differ from one look to the next.
        fresh = [entry for name, entry in now.workers.items() if before.workers.get(name) is not entry]
        self._placements(before.workers, fresh)
        for name in before.workers.keys() - now.workers.keys():
            self._placed(before.workers[name], "released")
        doubted = before.unreachable ^ now.unreachable
        told = {entry.id for entry in fresh if _state(before.workers.get(entry.id)) != _state(entry)}
        for name in sorted(told | (doubted & now.workers.keys())):
            self._worker(now.workers[name], reached=name not in now.unreachable)

    def _hive(self, name: str, before: tuple[Presence, bool], presence: Presence, drained: bool) -> None:
        changes = []
        if presence is not before[0]:
            heard = "joined" if before[0] is Presence.UNKNOWN else "back"
            changes.append(heard if presence is Presence.LIVE else presence.value)
        if drained is not before[1]:
            changes.append("drained" if drained else "undrained")
        for change in changes:
            self.record(EventKind.HIVE_STATE, name, {"change": change, "state": presence.value, "drained": drained})

    def _placements(self, before: Mapping[str, Assignment], fresh: Sequence[Assignment]) -> None:
        had = {entry.spec.model for entry in before.values()} if fresh else set()
        for entry in fresh:
            old = before.get(entry.id)
            if old is None or old.intent is not entry.intent:
                self._placed(entry, "restored" if old is not None and entry.intent is Intent.PLACED else entry.intent)
            if entry.spec.model not in had:
                had.add(entry.spec.model)
                said = {"change": "placed", "worker": entry.id, "hive": entry.hive}
                self.record(EventKind.MODEL_STATE, entry.spec.model, said)

    def _placed(self, entry: Assignment, change: str) -> None:
        said = {
            "change": str(change),
            "model": entry.spec.model,
            "hive": entry.hive,
            "devices": list(entry.spec.devices),
        }
        self.record(EventKind.PLACEMENT, entry.id, said)

    def _worker(self, entry: Assignment, *, reached: bool) -> None:
        said = {
            "model": entry.spec.model,
            "hive": entry.hive,
            "intent": entry.intent.value,
            "state": entry.observed.value if entry.observed is not None else "",
            "reached": reached,
        }
        self.record(EventKind.WORKER_STATE, entry.id, said)


def _state(entry: Assignment | None) -> tuple[object, ...]:
    return (entry.hive, entry.intent, entry.observed) if entry is not None else ()
