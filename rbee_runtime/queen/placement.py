"""Decide which worker belongs on which hive. Pure: snapshots in, a whole new set of assignments out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from rbee_runtime.config import FleetModel
from rbee_runtime.models.references import slug
from rbee_runtime.queen.fleet import content
from rbee_runtime.queen.membership import Presence
from rbee_runtime.queen.records import Assignment
from rbee_runtime.queen.renewal import build_of, engine_of, renewed, spec_of
from rbee_runtime.queen.situation import HiveView, Situation
from rbee_runtime.states import INTENT_TRANSITIONS, Intent, Observed

MIB = 1024 * 1024
_FACTOR, _OVERHEAD = 1.2, 256 * MIB
"""A model needs its files' size plus a fifth for buffers and the context, and a process around it."""

NewId = Callable[[str], str]


@dataclass(frozen=True)
class Plan:
    """The assignments that should be, and for each model that lacks workers, one sentence per hive saying why.

    `retiring` are workers that get no more requests, because they are renewed once those that they have have ended.
    """

    assignments: tuple[Assignment, ...]
    reasons: Mapping[str, tuple[str, ...]]
    retiring: frozenset[str] = frozenset()


def plan(situation: Situation, new_id: NewId) -> Plan:
    """Return the whole set of assignments for a situation; what is valid stays where it is."""
    models = {model.name: model for model in situation.fleet.models}
    kept = [
        entry
        for entry in (_still_wanted(e, models.get(e.spec.model), situation) for e in situation.existing)
        if entry is not None
    ]
    reasons: dict[str, tuple[str, ...]] = {}
    retiring: frozenset[str] = frozenset()
    for model in situation.fleet.models:
        renewal = renewed(model, kept, situation)
        retiring |= renewal.retiring
        kept, lacking = _fulfil(model, renewal.assignments, situation, new_id)
        if lacking:
            reasons[model.name] = lacking
    return Plan(tuple(kept), reasons, retiring)


def estimate(model: FleetModel, hive: HiveView) -> int:
    """Return the bytes of memory that one worker of `model` needs on `hive`."""
    size = sum(file.size for file in model.files) or hive.sizes.get(model.name, 0)
    return int(size * _FACTOR) + _OVERHEAD


def moved(entry: Assignment, intent: Intent) -> Assignment:
    """Return the assignment with another intent that the table allows, or unchanged if it has it already."""
    if entry.intent is intent:
        return entry
    if intent not in INTENT_TRANSITIONS[entry.intent]:
        raise ValueError(f"worker {entry.id} cannot go from {entry.intent} to {intent}")
    return replace(entry, intent=intent)


def _still_wanted(entry: Assignment, model: FleetModel | None, situation: Situation) -> Assignment | None:
    """Return the assignment as it goes on, or None if its worker is released."""
    hive = situation.hives.get(entry.hive)
    if model is None or hive is None or _not_for(model, hive) or entry.content != content(model):
        return None
    # One that is away runs its workers on and may be undrained before it hears of the drain.
    if hive.drained and hive.presence is Presence.LIVE and entry.id not in situation.busy:
        return None
    if hive.presence is Presence.LOST and not situation.frozen:
        return moved(entry, Intent.LOST)
    return moved(entry, Intent.PLACED) if hive.presence is Presence.LIVE else entry


def _fulfil(
    model: FleetModel, kept: list[Assignment], situation: Situation, new_id: NewId
) -> tuple[list[Assignment], tuple[str, ...]]:
    counted = [entry for entry in kept if _counts(entry, model, situation)]
    wanted = len(situation.hives) if model.each_host else model.replicas_min
    surplus = _surplus(model, counted, wanted, situation) | _relieved(model, kept, counted, wanted, situation)
    kept = [entry for entry in kept if entry.id not in surplus]
    counted = [entry for entry in counted if entry.id not in surplus]
    if not situation.settled and not model.each_host:
        return kept, ()
    lacking: tuple[str, ...] = ()
    taken = {entry.id for entry in (*kept, *situation.existing)}
    while len(counted) < wanted:
        found = _best(model, kept, counted, situation)
        if isinstance(found, tuple):
            lacking = found
            break
        build = build_of(engine_of(model), situation.hives[found.hive])
        spec = spec_of(model, _unused(model, taken, new_id), found.device, build)
        entry = Assignment(spec, found.hive, content(model))
        kept, counted = [*kept, entry], [*counted, entry]
    return kept, lacking


def _counts(entry: Assignment, model: FleetModel, situation: Situation) -> bool:
    out = situation.hives[entry.hive].drained or entry.id in situation.stuck
    return entry.spec.model == model.name and entry.intent is not Intent.LOST and not out


def _relieved(
    model: FleetModel, kept: list[Assignment], counted: list[Assignment], wanted: int, situation: Situation
) -> set[str]:
    """Return the stuck workers whose replacements serve; until then they mark the hives not to try again."""
    if sum(entry.observed is Observed.READY for entry in counted) < wanted:
        return set()
    return {entry.id for entry in kept if entry.spec.model == model.name and entry.id in situation.stuck}


def _surplus(model: FleetModel, counted: list[Assignment], wanted: int, situation: Situation) -> set[str]:
    """Return the workers to release: not ready ones first, then the newest."""
    if model.each_host:
        first: dict[str, str] = {}
        for entry in counted:
            first.setdefault(entry.hive, entry.id)
        return {entry.id for entry in counted} - set(first.values())
    order = {entry.id: index for index, entry in enumerate(situation.existing)}
    by_worth = sorted(counted, key=lambda e: (e.observed is not Observed.READY, order.get(e.id, 0)))
    return {entry.id for entry in by_worth[wanted:]}


@dataclass(frozen=True)
class _Place:
    hive: str
    device: str
    rank: tuple[int, float, str]


def _best(
    model: FleetModel, kept: list[Assignment], counted: list[Assignment], situation: Situation
) -> _Place | tuple[str, ...]:
    places: list[_Place] = []
    reasons: list[str] = []
    for hive in situation.hives.values():
        here = sum(entry.hive == hive.name for entry in counted)
        if model.each_host and here:
            continue
        there = [entry for entry in kept if entry.hive == hive.name]
        if any(entry.spec.model == model.name and entry.id in situation.stuck for entry in there):
            reasons.append(f"{hive.name}: its worker there cannot be started now")
            continue
        found = _place(model, hive, there, here, situation)
        if isinstance(found, _Place):
            places.append(found)
        else:
            reasons.append(f"{hive.name}: {found}")
    if not places:
        return tuple(reasons) if situation.hives else ("no hive is declared",)
    return min(places, key=lambda place: place.rank)


def _place(model: FleetModel, hive: HiveView, there: list[Assignment], here: int, situation: Situation) -> _Place | str:
    """Return where on `hive` a worker would go, ranked, or the reason why nowhere."""
    obstacle = _not_for(model, hive) or _not_now(model, hive)
    if obstacle:
        return obstacle
    need = estimate(model, hive)
    models = {m.name: m for m in situation.fleet.models}
    devices = [d for d in hive.devices if d.kind != "cpu"] or list(hive.devices)
    sick = [f"{d.id} is not healthy ({d.detail or 'no reason given'})" for d in devices if not d.healthy]
    devices = [d for d in devices if d.healthy]
    free = {
        device.id: device.total
        - device.foreign
        - sum(estimate(models[e.spec.model], hive) for e in there if device.id in e.spec.devices)
        for device in devices
    }
    best = max(devices, key=lambda device: (free[device.id], device.id), default=None)
    if best is None:
        return "; ".join(sick) or "reports no device"
    if free[best.id] < need:
        return f"needs {need / MIB:.0f} MiB, {max(free[best.id], 0) / MIB:.0f} MiB free on {best.id}"
    return _Place(hive.name, best.id, (here, -free[best.id] / max(best.total, 1), hive.name))


def _not_for(model: FleetModel, hive: HiveView) -> str:
    """Return why the declaration keeps `model` off `hive`, or an empty string."""
    if model.hosts and hive.name not in model.hosts:
        return "not among the model's hosts"
    for label, value in model.labels.items():
        if hive.labels.get(label) != value:
            return f"has no label {label}={value}"
    return ""


def _not_now(model: FleetModel, hive: HiveView) -> str:
    engine = engine_of(model)
    if hive.presence is not Presence.LIVE:
        return {Presence.UNKNOWN: "not heard yet", Presence.SUSPECT: "silent"}.get(hive.presence, "lost")
    if hive.drained:
        return "drained"
    if engine not in hive.engines:
        return f"has no engine {engine} (it has {', '.join(sorted(hive.engines)) or 'none'})"
    return ""


def _unused(model: FleetModel, taken: set[str], new_id: NewId) -> str:
    """Return an id that no worker has or had a moment ago, and take it."""
    while (candidate := new_id(slug(model.name))) in taken:
        pass
    taken.add(candidate)
    return candidate
