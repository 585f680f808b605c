"""What happens in a fleet, told as events: by those who decide it, or found by comparing with what was there before.

Each event has its subject's whole state in `data`, and in `change` what is new about it. Names of keys and hosts are in
them, secrets and words of clients never.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from rbee_runtime import logs
from rbee_runtime.brief import few
from rbee_runtime.events import EventLog
from rbee_runtime.metrics import Durations
from rbee_runtime.queen.loads import Phase
from rbee_runtime.queen.membership import Presence
from rbee_runtime.queen.records import Assignment
from rbee_runtime.states import Intent

KEEP = 8192
"""A fleet of a thousand hosts that comes back after a power cut says some five thousand things at once."""

MOST_REASONS = 20
"""In one line of the log, and in one event; `explain` has them all."""

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
    """What may be another than before: hives by presence and whether they are drained, and workers, None: it is gone.

    `unreachable` are all workers that are not reached.
    """

    hives: Mapping[str, tuple[Presence, bool]] = field(default_factory=dict)
    workers: Mapping[str, Assignment | None] = field(default_factory=dict)
    unreachable: frozenset[str] = frozenset()


class History:
    """The one teller of a queen."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.loads = {phase.value: Durations(LOAD_SECONDS) for phase in (Phase.READY, Phase.FAILED)}
        self._began = False
        self._hives: dict[str, tuple[Presence, bool]] = {}
        self._workers: dict[str, Assignment] = {}
        self._models: Counter[str] = Counter()
        self._unreachable: frozenset[str] = frozenset()
        self._frozen = False
        self._said: dict[str, str] = {}

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
            said = few(why, MOST_REASONS, joint="; ") if settled else ""
            if said and said != self._said.get(model):
                self._said[model] = said
                logs.warning("model lacks workers", model=model, why=said)
                self.record(EventKind.MODEL_STATE, model, {"change": "lacking", "detail": said})

    def look(self, now: Moment) -> None:
        """Tell what differs from the last look; the first one finds everything as it should be."""
        began, self._began = self._began, True
        hives = {name: self._hives.get(name) for name in now.hives}
        self._hives.update(now.hives)
        doubted, self._unreachable = self._unreachable ^ now.unreachable, now.unreachable
        # Of thousands of workers few differ from one look to the next.
        changed = {name: self._workers.get(name) for name in now.workers}
        changed = {name: before for name, before in changed.items() if before is not now.workers[name]}
        had = {model for model in map(_model, now.workers.values()) if self._models[model]}
        for name, before in changed.items():
            self._keep(name, before, now.workers[name])
        if not began:
            return
        for name, known in hives.items():
            if known != now.hives[name]:
                self._hive(name, known or (Presence.UNKNOWN, False), *now.hives[name])
        self._placements(changed, had)
        told = {name for name, before in changed.items() if _state(before) != _state(now.workers[name])}
        for name in sorted((told | doubted) & self._workers.keys()):
            self._worker(self._workers[name], reached=name not in now.unreachable)

    def _keep(self, name: str, before: Assignment | None, now: Assignment | None) -> None:
        """Have a worker be as it is now."""
        self._models[_model(before)] -= 1
        self._models[_model(now)] += 1
        if now is not None:
            self._workers[name] = now
        else:
            del self._workers[name]

    def _hive(self, name: str, before: tuple[Presence, bool], presence: Presence, drained: bool) -> None:
        changes = []
        if presence is not before[0]:
            heard = "joined" if before[0] is Presence.UNKNOWN else "back"
            changes.append(heard if presence is Presence.LIVE else presence.value)
        if drained is not before[1]:
            changes.append("drained" if drained else "undrained")
        for change in changes:
            self.record(EventKind.HIVE_STATE, name, {"change": change, "state": presence.value, "drained": drained})

    def _placements(self, changed: Mapping[str, Assignment | None], had: set[str]) -> None:
        """Tell where workers are placed, of those that are not as they were; `had` are models with workers before."""
        for name, before in changed.items():
            entry = self._workers.get(name)
            if entry is None:
                continue
            if before is None or before.intent is not entry.intent:
                restored = before is not None and entry.intent is Intent.PLACED
                self._placed(entry, "restored" if restored else entry.intent)
            if entry.spec.model not in had:
                had.add(entry.spec.model)
                said = {"change": "placed", "worker": entry.id, "hive": entry.hive}
                self.record(EventKind.MODEL_STATE, entry.spec.model, said)
        for name, before in changed.items():
            if before is not None and name not in self._workers:
                self._placed(before, "released")

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


def _model(entry: Assignment | None) -> str:
    return entry.spec.model if entry is not None else ""
