"""Decide which worker belongs on which hive. Pure: snapshots in, a whole new set of assignments out.

First what goes, so that its room is known: workers that nobody declares any more, those beyond what their models are to
have, those whose replacements serve, those that wait for memory that their device does not have. Then what is missing,
in this order: the declared minimum, models that somebody asked for (whoever waited longest first), more workers of
models that are busy. Only the first two may make others go.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rbee_runtime.config import FleetModel
from rbee_runtime.models.references import slug
from rbee_runtime.queen.draft import Draft
from rbee_runtime.queen.fleet import by_name, content
from rbee_runtime.queen.membership import Presence
from rbee_runtime.queen.needs import places
from rbee_runtime.queen.records import Assignment
from rbee_runtime.queen.renewal import build_of, engine_of, renewed, spec_of
from rbee_runtime.queen.situation import Due, HiveView, Refusal, Refusals, Situation
from rbee_runtime.queen.survey import Evict, Option, Search, Verdict, barred, best, look, refusal, refused
from rbee_runtime.states import INTENT_TRANSITIONS, Intent, Observed

NewId = Callable[[str], str]


@dataclass(frozen=True)
class Plan:
    """What becomes of the `existing` assignments, and of each model that lacks workers a sentence per hive saying why.

    `changed` are those that are new, another or gone (None). `retiring` are workers that get no more requests, because
    they go or are renewed once those that they have ended. `evicted` says of each that went for which model it made
    room; `hopeful` are models that lack workers for something that passes by itself. `looked_at` are the models that it
    is about, `restless` those of them about which the next plan may say more though nothing changes. `refusals` are of
    the models that fit nowhere and stay so until a hive changes; `stirred` are the hives on which this plan works.
    """

    existing: Sequence[Assignment]
    changed: Mapping[str, Assignment | None]
    reasons: Mapping[str, tuple[str, ...]]
    retiring: frozenset[str] = frozenset()
    evicted: Mapping[str, str] = field(default_factory=dict)
    hopeful: frozenset[str] = frozenset()
    looked_at: frozenset[str] = frozenset()
    restless: frozenset[str] = frozenset()
    refusals: Mapping[str, Refusals] = field(default_factory=dict)
    stirred: frozenset[str] = frozenset()

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """Return the assignments that should be: those that were there in their order, and then the new ones."""
        there = {entry.id: entry for entry in self.existing}
        return tuple(entry for entry in {**there, **self.changed}.values() if entry is not None)

    @property
    def put(self) -> list[Assignment]:
        """Return those that are new or another than before."""
        return [entry for entry in self.changed.values() if entry is not None]

    @property
    def dropped(self) -> list[str]:
        """Return who goes."""
        return [worker for worker, entry in self.changed.items() if entry is None]


def plan(situation: Situation, new_id: NewId, due: Due | None = None) -> Plan:
    """Return what becomes of the assignments in a situation; what is valid stays where it is.

    Of a model that was at rest, and about which and about whose hives nothing changed since, nothing new is to be said:
    with `due` only others are looked at.
    """
    draft = drafted(situation)
    models = _models_of(draft, due)
    outdated = {model.name for model in models if _renew(model, draft)}
    for model in models:
        _trim(model, draft)
    models = _in_order([*models, *_unbook(models, draft, due)], draft)
    lacking: dict[str, Refusals] = {}
    for model in sorted(models, key=lambda model: _turn(model, draft)):
        if situation.settled or model.each_host:
            found = _fill(model, draft, lambda name: _unused(name, draft, new_id), due or Due())
            lacking |= {model.name: found} if found.by_hive else {}
    return Plan(
        existing=situation.existing,
        changed=draft.changed,
        reasons={name: found.reasons for name, found in lacking.items()},
        retiring=frozenset(draft.retiring),
        evicted=draft.evicted,
        hopeful=frozenset(name for name, found in lacking.items() if found.hope),
        looked_at=frozenset(model.name for model in models),
        restless=frozenset(each.name for each in models if each.name in outdated or not _rests(each, draft, lacking)),
        refusals={name: found for name, found in lacking.items() if found.lasting},
        stirred=frozenset(draft.stirred),
    )


def _models_of(draft: Draft, due: Due | None) -> list[FleetModel]:
    """Return the models to look at, in their order; what nobody declares any more is dropped on the way."""
    situation = draft.situation
    assigned = situation.assigned
    if due is None:
        for hive in assigned.hives():
            draft.on(hive)
        return list(situation.fleet.models)
    names = {entry.spec.model for hive in due.hives for entry in assigned.on(hive)} | due.models
    for name in names:
        draft.of(name)
    if due.hives:
        names |= {model.name for model in draft.models.values() if model.each_host}
    return _in_order([draft.models[name] for name in names | due.refusals.keys() if name in draft.models], draft)


def _in_order(models: list[FleetModel], draft: Draft) -> list[FleetModel]:
    """Return models as they come in the fleet file."""
    return sorted(models, key=lambda model: draft.order[model.name])


def _rests(model: FleetModel, draft: Draft, lacking: Mapping[str, Refusals]) -> bool:
    """Say whether a model needs no other look before something about it changes."""
    changed, mine = draft.changed, draft.of(model.name)
    if any(entry.id in changed or entry.id in draft.retiring or entry.observed is Observed.BACKOFF for entry in mine):
        return False
    counted, lost = draft.counted(model), sum(entry.intent is Intent.LOST for entry in mine)
    if len(counted) + lost != len(mine):
        return False
    if model.name in lacking:
        return lacking[model.name].lasting
    return model.each_host or len(counted) == draft.wanted(model)


def drafted(situation: Situation) -> Draft:
    """Return the draft of a situation, with what is still wanted."""
    models = by_name(situation.fleet)
    files: dict[str, str] = {}

    def keep(entry: Assignment) -> Assignment | None:
        name = entry.spec.model
        if name in models and name not in files:
            files[name] = content(models[name])
        return _still_wanted(entry, models.get(name), files.get(name, ""), situation)

    return Draft(situation, models, keep)


def moved(entry: Assignment, intent: Intent) -> Assignment:
    """Return the assignment with another intent that the table allows, or unchanged if it has it already."""
    if entry.intent is intent:
        return entry
    if intent not in INTENT_TRANSITIONS[entry.intent]:
        raise ValueError(f"worker {entry.id} cannot go from {entry.intent} to {intent}")
    return replace(entry, intent=intent)


def seek(model: FleetModel, draft: Draft, search: Search | None = None) -> tuple[list[Verdict], Option | None, Evict]:
    """Return what hives say to one more worker, the best place, and who was asked to make room."""
    search = search or Search(model, draft)
    mode = _mode(model, draft)
    verdicts = search.ask(mode)
    found = best(verdicts)
    if found is None and mode is Evict.IDLE and model.name in draft.situation.starved:
        mode = Evict.ANYBODY
        found = best(search.ask(mode))
    return verdicts, found, mode


def _mode(model: FleetModel, draft: Draft) -> Evict:
    """Return who may be asked to make room for one more worker."""
    return Evict.IDLE if len(draft.counted(model)) < max(1, model.replicas_min) else Evict.NOBODY


def _still_wanted(entry: Assignment, model: FleetModel | None, files: str, situation: Situation) -> Assignment | None:
    """Return the assignment as it goes on, or None if its worker is released."""
    hive = situation.hives.get(entry.hive)
    if model is None or hive is None or barred(model, hive) or entry.content != files:
        return None
    if model.gpus and len(entry.spec.devices) != model.gpus:
        return None
    # One that is away runs its workers on and may be undrained before it hears of the drain.
    if hive.drained and hive.presence is Presence.LIVE and entry.id not in situation.busy:
        return None
    if hive.presence is Presence.LOST and not situation.frozen:
        return moved(entry, Intent.LOST)
    return moved(entry, Intent.PLACED) if hive.presence is Presence.LIVE else entry


def _renew(model: FleetModel, draft: Draft) -> bool:
    """Give workers the specs that they should have by now; say whether there is anything to renew, now or later."""
    renewal = renewed(model, draft.of(model.name), draft.situation)
    draft.retiring |= renewal.retiring
    for entry in renewal.assignments:
        draft.put(entry)
    return renewal.outdated


def _trim(model: FleetModel, draft: Draft) -> None:
    """Let go what is too much: workers beyond what is wanted, and those whose replacements serve.

    Until then a stuck worker marks its hive not to try again.
    """
    counted, wanted = draft.counted(model), draft.wanted(model)
    serving = sum(entry.observed is Observed.READY for entry in counted)
    for entry in _surplus(model, counted, draft):
        draft.let_go(entry)
    if serving < wanted:
        return
    for entry in draft.of(model.name):
        if entry.id in draft.situation.stuck or entry.id in draft.situation.moving:
            draft.let_go(entry)


def _unbook(models: Sequence[FleetModel], draft: Draft, due: Due | None) -> list[FleetModel]:
    """Release workers that have not started and never will, since more is promised on their device than it has.

    Their needs turned out larger than was thought when they were placed, or others took the memory; they go elsewhere.
    Return their models as far as they are not among `models`.
    """
    found: dict[str, FleetModel] = {}
    looked_at = {model.name for model in models}
    for hive in _hives_of(models, draft, due):
        waiting = [entry for entry in draft.on(hive.name) if entry.observed is Observed.BACKOFF]
        for entry in reversed(waiting if hive.presence is Presence.LIVE else []):
            accounts = draft.accounts(hive)
            if any(device in accounts and accounts[device].is_overbooked for device in places(entry.spec)):
                draft.drop(entry)
                if entry.spec.model not in looked_at:
                    found[entry.spec.model] = draft.models[entry.spec.model]
    return list(found.values())


def _hives_of(models: Iterable[FleetModel], draft: Draft, due: Due | None) -> list[HiveView]:
    """Return the hives whose bookings may have changed."""
    hives = draft.situation.hives
    if due is None:
        return list(hives.values())
    names = due.hives | {entry.hive for model in models for entry in draft.of(model.name)}
    return [hives[name] for name in names if name in hives]


def _surplus(model: FleetModel, counted: list[Assignment], draft: Draft) -> list[Assignment]:
    """Return the workers to release: not ready ones first, then idle ones, then the newest."""
    if model.each_host:
        first: dict[str, str] = {}
        for entry in counted:
            first.setdefault(entry.hive, entry.id)
        return [entry for entry in counted if first[entry.hive] != entry.id]
    situation = draft.situation
    by_worth = sorted(
        counted,
        key=lambda e: (
            e.observed is not Observed.READY,
            # One that was asked already to empty itself stays the one: otherwise both would.
            e.id in situation.retiring,
            e.id not in situation.busy,
            situation.assigned.turn(e.id),
        ),
    )
    return by_worth[draft.wanted(model) :]


def _turn(model: FleetModel, draft: Draft) -> tuple[int, int]:
    """Return when a model is served that lacks workers."""
    if model.each_host or len(draft.counted(model)) < model.replicas_min:
        return (0, 0)
    queue = draft.situation.queue
    return (1, queue.index(model.name)) if model.name in queue else (2, 0)


def _fill(model: FleetModel, draft: Draft, unused: Callable[[str], str], due: Due) -> Refusals:
    """Place what a model lacks and return what the hives say to what cannot be placed."""
    if model.each_host:
        return _fill_each(model, draft, unused, due)
    if len(draft.counted(model)) >= draft.wanted(model):
        return Refusals()
    still = _still_refused(model, draft, due)
    if still is not None:
        return still
    search = Search(model, draft)
    while len(draft.counted(model)) < draft.wanted(model):
        verdicts, option, mode = seek(model, draft, search)
        if option is None:
            return refused(verdicts, draft, lasting=search.is_free)
        busy = [worker for worker in option.victims if worker in draft.situation.busy]
        if mode is Evict.ANYBODY and busy:
            draft.retiring |= set(option.victims)
            draft.claim(option.hive, option.devices, option.need)
            return refused(verdicts, draft)
        _place(model, option, draft, unused)
        search.placed(option)
    return Refusals()


def _still_refused(model: FleetModel, draft: Draft, due: Due) -> Refusals | None:
    """Return what hives say to a model that fitted nowhere, once those that changed were asked again.

    None if there is a place now, or if it was not so: then every hive is to be asked.
    """
    known = due.refusals.get(model.name)
    if known is None or model.name in draft.stirred_models:
        return None
    modes = (_mode(model, draft), *((Evict.ANYBODY,) if model.name in draft.situation.starved else ()))
    news: dict[str, Refusal] = {}
    for name in known.by_hive.keys() & (due.touched | draft.stirred):
        verdicts = [look(model, draft.situation.hives[name], draft, mode) for mode in modes]
        if any(verdict.option is not None for verdict in verdicts):
            return None
        news |= {name: refusal(verdicts[0])} if refusal(verdicts[0]) != known.by_hive[name] else {}
    return replace(known, by_hive={**known.by_hive, **news}) if news else known


def _fill_each(model: FleetModel, draft: Draft, unused: Callable[[str], str], due: Due) -> Refusals:
    served = {entry.hive for entry in draft.counted(model)}
    known = due.refusals[model.name].by_hive if model.name in due.refusals else {}
    lacking: dict[str, Refusal] = {}
    for hive in draft.situation.hives.values():
        if hive.name in served:
            continue
        if hive.name in known and hive.name not in due.touched and hive.name not in draft.stirred:
            lacking[hive.name] = known[hive.name]
            continue
        verdict = look(model, hive, draft, Evict.IDLE)
        if verdict.option is None:
            lacking[hive.name] = refusal(verdict)
        else:
            _place(model, verdict.option, draft, unused)
    return Refusals(lacking, lasting=True)


def _place(model: FleetModel, option: Option, draft: Draft, unused: Callable[[str], str]) -> None:
    for worker in option.victims:
        draft.evict(worker, model.name)
    build = build_of(engine_of(model), draft.situation.hives[option.hive])
    spec = spec_of(model, unused(model.name), option.devices, build)
    draft.put(Assignment(spec, option.hive, content(model)))


def _unused(name: str, draft: Draft, new_id: NewId) -> str:
    """Return an id that no worker has or had a moment ago."""
    while (candidate := new_id(slug(name))) in draft.changed or candidate in draft.situation.assigned:
        pass
    return candidate
