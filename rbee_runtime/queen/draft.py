"""A plan in the making: the assignments so far, found by model and by host, and what they book. No effects."""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

from rbee_runtime.config import FleetModel
from rbee_runtime.queen import ledger
from rbee_runtime.queen.eviction import MIN_RESIDENCY, Candidate, Shield
from rbee_runtime.queen.ledger import Account
from rbee_runtime.queen.needs import CPU, Needs, places
from rbee_runtime.queen.records import Assignment
from rbee_runtime.queen.situation import HiveView, Situation, Use
from rbee_runtime.states import Intent, Observed

Keep = Callable[[Assignment], Assignment | None]

MEASURING = frozenset({"vllm"})
"""Engines that measure free memory while they load, so that nothing may come free on their devices meanwhile."""


class Draft:
    """Lives for one plan and looks at nothing that nobody asks for: `keep` says how an assignment goes on, None if not.

    `changed` are the workers that are not as they were, None for those that went; `evicted` says of each of these that
    made room for which model. `stirred` are the hives that may say something else than before this plan began to work
    on them: those with a worker of one of the `stirred_models`, too, as these can do without more workers or fewer.
    """

    def __init__(self, situation: Situation, models: Mapping[str, FleetModel], keep: Keep) -> None:
        self.situation = situation
        self.models = models
        self.needs = Needs(situation)
        self.retiring: set[str] = set()
        self.evicted: dict[str, str] = {}
        self.changed: dict[str, Assignment | None] = {}
        self._keep = keep
        self._claims: dict[str, dict[str, int]] = {}
        self._less: dict[str, int] = {}
        self._accounts: dict[str, dict[str, Account]] = {}
        self._apart: dict[str, frozenset[str]] = {}
        self.stirred: set[str] = set()
        self.stirred_models: set[str] = set()
        self._left: set[str] = set()
        self._by_model: dict[str, dict[str, Assignment]] = {}
        self._by_hive: dict[str, dict[str, Assignment]] = {}

    @cached_property
    def order(self) -> Mapping[str, int]:
        """Return the place of each model in the fleet file."""
        return {name: number for number, name in enumerate(self.models)}

    def put(self, entry: Assignment) -> None:
        """Add or replace an assignment; a worker never changes its hive."""
        mine, there = self._of(entry.spec.model), self._on(entry.hive)
        if mine.get(entry.id) is not entry:
            mine[entry.id] = there[entry.id] = self.changed[entry.id] = entry
            self._stir(entry)

    def drop(self, entry: Assignment) -> None:
        """Release a worker."""
        for found in (self._of(entry.spec.model), self._on(entry.hive)):
            del found[entry.id]
        self.changed[entry.id] = None
        self._stir(entry)
        self.retiring.discard(entry.id)

    def let_go(self, entry: Assignment) -> None:
        """Release a worker as soon as that cuts no request and misleads no neighbour; it takes none from now on."""
        if entry.id in self.situation.busy or self._is_measured(entry):
            self.retiring.add(entry.id)
        else:
            self.drop(entry)

    def evict(self, worker: str, model: str) -> None:
        """Release a worker for another model; its own does without it from now on."""
        entry = self.changed.get(worker) or self.situation.assigned[worker]
        self._less[entry.spec.model] = self._less.get(entry.spec.model, 0) + 1
        self.evicted[worker] = model
        self.drop(entry)

    def claim(self, hive: str, devices: Iterable[str], need: int) -> None:
        """Keep room on a hive for a worker that busy ones are asked to leave it to."""
        claims = self._claims.setdefault(hive, {})
        for device in devices:
            claims[device] = claims.get(device, 0) + need
        self._accounts.pop(hive, None)
        self.stirred.add(hive)

    def of(self, model: str) -> list[Assignment]:
        """Return the assignments of a model."""
        return list(self._of(model).values())

    def on(self, hive: str) -> list[Assignment]:
        """Return the assignments on a hive."""
        return list(self._on(hive).values())

    def counts(self) -> dict[str, int]:
        """Return how many assignments each hive has."""
        known = {hive: len(self._on(hive)) for hive in self._by_hive.keys() | self._left}
        return {**self.situation.assigned.counts(), **known}

    def wanted(self, model: FleetModel) -> int:
        """Return how many workers a model is to have."""
        if model.each_host:
            return len(self.situation.hives)
        return max(0, self.situation.wanted.get(model.name, model.replicas_min) - self._less.get(model.name, 0))

    def counted(self, model: FleetModel) -> list[Assignment]:
        """Return those of a model's workers that count for what is wanted."""
        return [entry for entry in self.of(model.name) if self._counts(entry)]

    def spare(self, model: FleetModel) -> int:
        """Return how many workers a model can do without."""
        if model.each_host or model.keep_loaded:
            return 0
        return max(0, len(self.counted(model)) - model.replicas_min)

    def apart_from(self, model: FleetModel) -> frozenset[str]:
        """Return the models that a model is to stay apart from, be it that they say so."""
        if model.name not in self._apart:
            others = (name for name, other in self.models.items() if model.name in other.apart_from)
            self._apart[model.name] = frozenset((*model.apart_from, *others))
        return self._apart[model.name]

    def accounts(self, hive: HiveView) -> dict[str, Account]:
        """Return what is booked on each device of a hive."""
        if hive.name not in self._accounts:
            there = ((entry, self._need(entry)) for entry in self.on(hive.name))
            self._accounts[hive.name] = ledger.accounts(hive, there, self._claims.get(hive.name))
        return self._accounts[hive.name]

    def candidates(self, hive: str, sizes: Iterable[Account], *, without: str) -> list[tuple[Candidate, Shield]]:
        """Return the workers on a hive that could make room for model `without`, each with what shields it."""
        held: dict[str, dict[str, int]] = {}
        for account in sizes:
            for holder in account.holders:
                held.setdefault(holder.worker, {})[account.id] = holder.size
        entries = [entry for entry in self.on(hive) if entry.spec.model != without and entry.id in held]
        return [(self._candidate(entry, held[entry.id]), self.shield(entry)) for entry in entries]

    def shield(self, entry: Assignment) -> Shield:
        """Return what keeps a worker from making room for another model; what lasts longest first."""
        model, use = self.models[entry.spec.model], self._use(entry)
        if model.keep_loaded:
            return Shield.KEPT
        if self.spare(model) < 1:
            return Shield.MINIMUM
        if entry.observed is not Observed.READY:
            return Shield.LOADING
        if use.resident < MIN_RESIDENCY:
            return Shield.YOUNG
        if self._is_measured(entry):
            return Shield.MEASURED
        busy = entry.id in self.situation.busy or model.name in self.situation.waiting
        return Shield.BUSY if busy else Shield.NONE

    def _stir(self, entry: Assignment) -> None:
        self._accounts.pop(entry.hive, None)
        self.stirred.add(entry.hive)
        if entry.spec.model not in self.stirred_models:
            self.stirred_models.add(entry.spec.model)
            self.stirred.update(other.hive for other in self.situation.assigned.of(entry.spec.model))

    def _of(self, model: str) -> dict[str, Assignment]:
        if model not in self._by_model:
            self._by_model[model] = self._kept(self.situation.assigned.of(model))
        return self._by_model[model]

    def _on(self, hive: str) -> dict[str, Assignment]:
        if hive not in self._by_hive:
            self._by_hive[hive] = self._kept(self.situation.assigned.on(hive))
        return self._by_hive[hive]

    def _kept(self, entries: Iterable[Assignment]) -> dict[str, Assignment]:
        found = ((entry.id, self._now(entry)) for entry in entries)
        return {worker: entry for worker, entry in found if entry is not None}

    def _now(self, entry: Assignment) -> Assignment | None:
        if entry.id not in self.changed:
            kept = self._keep(entry)
            if kept is entry:
                return entry
            self.changed[entry.id] = kept
            self._left.add(entry.hive)
        return self.changed[entry.id]

    def _counts(self, entry: Assignment) -> bool:
        situation = self.situation
        out = situation.hives[entry.hive].drained or entry.id in situation.stuck or entry.id in situation.moving
        return entry.intent is not Intent.LOST and not out

    def _need(self, entry: Assignment) -> int:
        devices = places(entry.spec)
        return self.needs.of(self.models[entry.spec.model], len(devices), processor=CPU in devices)

    def _candidate(self, entry: Assignment, sizes: dict[str, int]) -> Candidate:
        use, asked = self._use(entry), entry.id in self.situation.retiring
        return Candidate(entry.id, entry.spec.model, sizes, use.idle, use.reload, preferred=asked)

    def _use(self, entry: Assignment) -> Use:
        return self.situation.uses.get(entry.id, Use())

    def _is_measured(self, entry: Assignment) -> bool:
        """Say whether a neighbour measures the memory of a device that this worker has."""
        devices = set(places(entry.spec)) - {CPU}
        return any(
            other.id != entry.id
            and other.observed is Observed.STARTING
            and other.spec.engine in MEASURING
            and devices.intersection(places(other.spec))
            for other in self.on(entry.hive)
        )
