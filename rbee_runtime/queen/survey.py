"""Where a worker of a model could go: each hive's answer, with the reason and the numbers where it is no. Pure.

A hive is out                                             it may come in by itself
by the model's hosts and labels, or drained, or lost      no
not heard yet, or silent for a moment                     yes
without the engine                                        no
with a model that this one is to stay apart from          no
with a worker of it that cannot be started there          no
without a device that it may use                          no
with too little free memory                               once workers there have ended that need not stay

Of the places that are left the best one has: the fewest workers that have to go, no processor where there are cards,
the fewest workers of the same model (unless it is to be packed), the model's files, and the most free memory, or the
least where it is to be packed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from rbee_runtime.config import FleetModel, Preference
from rbee_runtime.models.references import Scheme
from rbee_runtime.queen import cards, ledger
from rbee_runtime.queen.draft import Draft
from rbee_runtime.queen.eviction import Candidate, Shield, choose, clears
from rbee_runtime.queen.ledger import Account, gib
from rbee_runtime.queen.membership import Presence
from rbee_runtime.queen.needs import CPU
from rbee_runtime.queen.renewal import engine_of, scheme_of
from rbee_runtime.queen.situation import HiveView, Refusal, Refusals

_AWAY = {Presence.UNKNOWN: "not heard yet", Presence.SUSPECT: "silent", Presence.LOST: "lost"}

SMALL = 32
"""A fleet of up to so many hives is asked as a whole."""

ENOUGH = 4
"""Places for which nobody has to leave and where the model has no worker yet: with so many no more are looked for in a
larger fleet, since those are asked first that are likely to have the best one."""

Priced = tuple[cards.Devices, int]
"""Devices of one hive, and the bytes that a worker needs on each of them."""

Rank = tuple[int, int, int, int, float, float, float, str]


class Evict(StrEnum):
    """Who may be asked to make room: nobody, who has nothing to do, or whoever may leave once it has ended."""

    NOBODY = "nobody"
    IDLE = "idle"
    ANYBODY = "anybody"


_PASSABLE = {
    Evict.NOBODY: frozenset[Shield](),
    Evict.IDLE: frozenset({Shield.NONE}),
    Evict.ANYBODY: frozenset({Shield.NONE, Shield.BUSY}),
}


@dataclass(frozen=True)
class Option:
    """A place for one worker: bytes on each of the devices of a hive, and who would have to go; the least rank wins."""

    hive: str
    devices: tuple[str, ...]
    need: int
    victims: tuple[str, ...]
    rank: Rank


@dataclass(frozen=True)
class Verdict:
    """What one hive says to one more worker of a model: an option, or why there is none; `hope` that it may pass."""

    hive: str
    option: Option | None = None
    reason: str = ""
    hope: bool = False
    need: int = 0
    accounts: tuple[Account, ...] = ()
    shields: tuple[tuple[str, Shield], ...] = ()


class Search:
    """What hives say to one worker of a model after the other; an answer is kept until its hive changes."""

    def __init__(self, model: FleetModel, draft: Draft) -> None:
        self._model = model
        self._draft = draft
        self._most = ENOUGH if len(draft.situation.hives) > SMALL else len(draft.situation.hives)
        self._hives: list[HiveView] = []
        self._others = iter(_promising(model, draft))
        self._known: dict[str, Verdict] = {}
        self._evict = Evict.NOBODY

    def ask(self, evict: Evict) -> list[Verdict]:
        """Return what every hive says, or enough of those that are likely to have the best place."""
        if evict is not self._evict:
            self._evict, self._known = evict, {}
        found, good, targets = [], 0, self._targets()
        for hive in self._in_turn():
            verdict = self._known.get(hive.name) or look(self._model, hive, self._draft, evict)
            self._known[hive.name] = verdict
            found.append(verdict)
            good += self._is_good(verdict)
            if good >= self._most and not targets:
                break
        elsewhere = "the worker is being moved to another host"
        bound = targets or frozenset(each.hive for each in found)
        return [each if each.hive in bound else Verdict(each.hive, reason=elsewhere) for each in found]

    def placed(self, option: Option) -> None:
        """Forget what a place has changed."""
        if option.victims:
            # Their models can do without fewer workers elsewhere.
            self._known = {}
        self._known.pop(option.hive, None)

    def _in_turn(self) -> Iterator[HiveView]:
        yield from self._hives
        for hive in self._others:
            self._hives.append(hive)
            yield hive

    def _is_good(self, verdict: Verdict) -> bool:
        option = verdict.option
        return option is not None and not option.victims and not option.rank[2]

    @property
    def is_free(self) -> bool:
        """Say whether the worker may come to any hive."""
        return not self._targets()

    def _targets(self) -> frozenset[str]:
        """Return the hives that a worker is being moved to, none if it may be any."""
        moving, mine = self._draft.situation.moving, self._draft.of(self._model.name)
        targets = frozenset(moving[entry.id] for entry in mine if entry.id in moving)
        return frozenset() if "" in targets else targets


def survey(model: FleetModel, draft: Draft, evict: Evict) -> list[Verdict]:
    """Return what the hives say to one more worker of a model."""
    return Search(model, draft).ask(evict)


def _promising(model: FleetModel, draft: Draft) -> Iterable[HiveView]:
    """Return the hives, in large fleets those first that are likely to have the best place."""
    hives = draft.situation.hives
    return hives.values() if len(hives) <= SMALL else _in_order(model, draft)


def _in_order(model: FleetModel, draft: Draft) -> Iterator[HiveView]:
    """Yield hives by their workers of this model, whether they have its files, all their workers, and unused memory.

    As a rule a few are enough: nobody else is looked at.
    """
    out = []
    for name in _names_in_order(model, draft):
        hive = draft.situation.hives[name]
        if _is_out(model, hive):
            out.append(hive)
        else:
            yield hive
    yield from out


def _names_in_order(model: FleetModel, draft: Draft) -> Iterator[str]:
    """Yield all hives; a group of equal ones is put together when it is asked for, as a rule the first one alone."""
    sign, index, there = 1 if model.placement is Preference.SPREAD else -1, draft.situation.index, draft.counts()
    here = Counter(entry.hive for entry in draft.of(model.name))
    comes, has = _comes(model), index.disks.get(model.name, {})
    names = [hive for _, hive in (index.emptiest if sign > 0 else index.emptiest[::-1])]

    # Most hives neither have a worker of the model nor, where they come, its files: how many workers each has is
    # all that tells those apart, and none of them is like one of the others.
    others = here.keys() | has.keys() if comes else here.keys()
    groups: defaultdict[tuple[int, bool, int], list[str]] = defaultdict(list)
    for hive in filter(others.__contains__, names):
        groups[sign * here[hive], comes and hive not in has, sign * there.get(hive, 0)].append(hive)
    counts = {there.get(hive, 0) for hive in names}
    for group in sorted([*groups, *((0, comes, sign * count) for count in counts)]):
        if group in groups:
            yield from groups[group]
        else:
            yield from (hive for hive in names if sign * there.get(hive, 0) == group[2] and hive not in others)


def _is_out(model: FleetModel, hive: HiveView) -> bool:
    return (
        hive.presence is not Presence.LIVE
        or hive.drained
        or engine_of(model) not in hive.engines
        or bool(barred(model, hive))
    )


def best(verdicts: Iterable[Verdict]) -> Option | None:
    """Return the best place, None if there is none."""
    options = (verdict.option for verdict in verdicts if verdict.option is not None)
    return min(options, key=lambda option: option.rank, default=None)


def refused(verdicts: Iterable[Verdict], draft: Draft, *, lasting: bool = False) -> Refusals:
    """Return what hives say to a model that lacks workers, in the fleet's order."""
    found = {verdict.hive: refusal(verdict) for verdict in verdicts}
    return Refusals({name: found[name] for name in draft.situation.hives if name in found}, lasting)


def refusal(verdict: Verdict) -> Refusal:
    """Return what is kept of a hive's verdict."""
    return Refusal(f"{verdict.hive}: {verdict.reason}" if verdict.reason else "", verdict.hope)


def barred(model: FleetModel, hive: HiveView) -> str:
    """Return why the declaration keeps `model` off `hive`, or an empty string."""
    if model.hosts and hive.name not in model.hosts:
        return "not among the model's hosts"
    for label, value in model.labels.items():
        if hive.labels.get(label) != value:
            return f"has no label {label}={value}"
    return ""


def look(model: FleetModel, hive: HiveView, draft: Draft, evict: Evict) -> Verdict:
    """Return what one hive says to one more worker of a model."""
    kept_off = barred(model, hive)
    away = "" if kept_off else _AWAY.get(hive.presence, "")
    reason = kept_off or away or _unfit(model, hive, draft)
    if reason:
        return Verdict(hive.name, reason=reason, hope=bool(away) and hive.presence is not Presence.LOST)
    accounts = draft.accounts(hive)
    sets, reason = cards.sets(model, tuple(accounts.values()), draft.needs, draft.situation.facts.get(model.name))
    told = Verdict(hive.name, reason=reason, accounts=tuple(accounts.values()))
    if not sets:
        return told
    # Whoever has room asks nobody to leave, so that nobody is looked at in vain.
    priced = [(each, _need(model, each, draft)) for each in sets]
    free = [(each, need) for each, need in priced if not ledger.short(each, need)]
    others = [] if free else draft.candidates(hive.name, accounts.values(), without=model.name)
    told = replace(told, shields=tuple((other.worker, shield) for other, shield in others)) if others else told
    passable = [other for other, shield in others if shield in _PASSABLE[evict]]
    # Without victims the room alone decides among the devices of one hive.
    places = [min(free, key=lambda place: _room(model, place[0]))] if free else priced
    options = (_option(model, hive, place, draft, passable) for place in places)
    option = min((each for each in options if each is not None), key=lambda each: each.rank, default=None)
    if option is not None:
        return replace(told, option=option, reason="", need=option.need)
    return _refused(told, priced, others)


def _unfit(model: FleetModel, hive: HiveView, draft: Draft) -> str:
    """Return why a hive that may have a model cannot have it."""
    engine, there = engine_of(model), draft.on(hive.name)
    if hive.drained:
        return "drained"
    if engine not in hive.engines:
        return f"has no engine {engine} (it has {', '.join(sorted(hive.engines)) or 'none'})"
    mine = [entry.id for entry in there if entry.spec.model == model.name]
    if not draft.situation.stuck.isdisjoint(mine):
        return "its worker there cannot be started now"
    if any(worker in draft.situation.moving for worker in mine):
        return "its worker is being moved away from there"
    apart = draft.apart_from(model)
    return "has a model that it is to stay apart from" if any(entry.spec.model in apart for entry in there) else ""


def _option(
    model: FleetModel, hive: HiveView, place: Priced, draft: Draft, passable: Sequence[Candidate]
) -> Option | None:
    devices, need = place
    short = ledger.short(devices, need)
    spare = {other.model: draft.spare(draft.models[other.model]) for other in passable} if short else {}
    leaving = choose(short, passable, spare) if short else ()
    if leaving is None:
        return None
    rank = _rank(model, hive, devices, draft, leaving)
    victims = tuple(each.worker for each in leaving)
    return Option(hive.name, tuple(account.id for account in devices), need, victims, rank)


def _rank(
    model: FleetModel, hive: HiveView, devices: cards.Devices, draft: Draft, leaving: Sequence[Candidate]
) -> Rank:
    packs = model.placement is Preference.PACK
    here = sum(entry.spec.model == model.name for entry in draft.on(hive.name))
    processor, share, free = _room(model, devices)
    worth = sum(each.idle / (each.reload + 1.0) for each in leaving)
    return (
        len(leaving),
        int(processor and any(account.device.kind != CPU for account in draft.accounts(hive).values())),
        0 if packs else here,
        int(_has_to_come(model, hive)),
        share,
        free,
        -worth,
        hive.name,
    )


def _room(model: FleetModel, devices: cards.Devices) -> tuple[bool, float, float]:
    """Return whether devices are no cards, and their free share and bytes, so that the least is best."""
    sign = 1 if model.placement is Preference.PACK else -1
    share = min([account.free / max(account.device.total, 1) for account in devices])
    return cards.is_processor(devices), sign * share, sign * float(min([account.free for account in devices]))


def _need(model: FleetModel, devices: cards.Devices, draft: Draft) -> int:
    return draft.needs.of(model, len(devices), processor=cards.is_processor(devices))


def _has_to_come(model: FleetModel, hive: HiveView) -> bool:
    return model.name not in hive.sizes and _comes(model)


def _comes(model: FleetModel) -> bool:
    """Say whether the files of a model are brought to its hives."""
    return scheme_of(model.source) not in {Scheme.FAKE, Scheme.FILE}


def _refused(told: Verdict, priced: Sequence[Priced], others: Sequence[tuple[Candidate, Shield]]) -> Verdict:
    """Return the numbers of the place that lacks least, and what shields the workers there."""
    devices, need = min(priced, key=lambda pair: sum(ledger.short(*pair).values()))
    short = ledger.short(devices, need)
    counted = Counter(shield for other, shield in others if shield and set(other.sizes) & set(short))
    there = ", ".join(f"{count} {shield}" for shield, count in counted.items())
    each = f" on each of {len(devices)} devices" if len(devices) > 1 else ""
    numbers = "; ".join(account.explain() for account in devices)
    reason = f"needs {gib(need)}{each}, {numbers}" + (f"; workers there: {there}" if there else "")
    passing = [other for other, shield in others if not shield.lasts]
    return replace(told, reason=reason, need=need, hope=clears(short, passing))
