"""Give workers the spec that they should have by now, without taking a model out of service. Pure.

An outdated worker        is renewed
that serves               alone of its model, when every other one is ready: a build that does not start costs one
                          (one that failed with the build before too is not waited for)
that has our requests     once they have ended; it takes no new ones until then
that does not serve       at once
that nobody told of       not yet: its hive has just started, or does not know of it
whose hive is away        not yet, nor on one that is drained

The hive of a renewed worker stops it, after its requests, and starts it anew under the same id.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import msgspec

from rbee_runtime.config import FleetModel
from rbee_runtime.models.references import Scheme, Source, parse_source
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.queen.membership import Presence
from rbee_runtime.queen.records import Assignment
from rbee_runtime.queen.situation import HiveView, Situation
from rbee_runtime.states import Intent, Observed


@dataclass(frozen=True)
class Renewal:
    """The assignments of a model that have new specs now; `retiring` get no more requests, and are renewed next.

    `outdated` says that there is still something to renew, now or later.
    """

    assignments: list[Assignment]
    retiring: frozenset[str]
    outdated: bool = False


def spec_of(model: FleetModel, worker_id: str, devices: tuple[str, ...], build: str = "") -> WorkerSpec:
    """Return the spec of one worker; the options of a `fake:` source become the engine's."""
    source = _parsed(model.source)
    options = dict(model.options)
    if source.scheme is Scheme.FAKE:
        pairs = (part.partition("=") for part in source.rest.split(",") if part.strip())
        options |= {key.strip(): value.strip() for key, _, value in pairs}
    return WorkerSpec(
        id=worker_id,
        model=model.name,
        engine=engine_of(model),
        context=model.context,
        slots=model.slots,
        devices=devices,
        options=options,
        build=build,
    )


def engine_of(model: FleetModel) -> str:
    """Return the engine that serves a model."""
    return "fake" if scheme_of(model.source) is Scheme.FAKE else model.engine


def scheme_of(source: str) -> Scheme:
    """Return the kind of a source."""
    return _parsed(source).scheme


@lru_cache(4096)
def _parsed(source: str) -> Source:
    """Return what plans ask for again and again."""
    return parse_source(source)


def build_of(engine: str, hive: HiveView, held: str = "") -> str:
    """Return which build of an engine a hive starts now; `held` where it has none at all, "" where it knows of none."""
    return hive.builds.get(engine, "") if engine in hive.engines else held


def renewed(model: FleetModel, mine: Sequence[Assignment], situation: Situation) -> Renewal:
    """Return those assignments of a model whose specs are to be renewed, and can be now."""
    bare = spec_of(model, "", ())
    fresh = {entry.id: _fresh(bare, entry, situation.hives[entry.hive]) for entry in mine}
    outdated = [entry for entry in mine if entry.spec != fresh[entry.id]]
    if not outdated:
        return Renewal([], frozenset())
    serving = [entry for entry in outdated if entry.observed is Observed.READY]
    unseen = [entry for entry in outdated if entry.observed is None and entry.port]
    turn = {entry.id for entry in outdated if entry not in serving and entry not in unseen}
    others = [entry for entry in mine if entry not in outdated]
    coming = {fresh[entry.id].build for entry in serving}
    if serving and not turn and not unseen and not any(_unsettled(entry, coming, situation) for entry in others):
        turn.add(serving[0].id)
    now = turn - situation.held
    # Its hive restarts it under the same id, so it does not serve until it is seen again.
    done = [replace(e, spec=fresh[e.id], observed=None, slots=0) for e in mine if e.id in now]
    return Renewal(done, frozenset(turn - now), outdated=True)


def _fresh(bare: WorkerSpec, entry: Assignment, hive: HiveView) -> WorkerSpec:
    """Return the spec that a worker should have; the one that it has where its hive cannot be asked to change it."""
    if hive.presence is not Presence.LIVE or hive.drained:
        return entry.spec
    build = build_of(bare.engine, hive, entry.spec.build)
    return msgspec.structs.replace(bare, id=entry.id, devices=entry.spec.devices, build=build)


def _unsettled(entry: Assignment, coming: set[str], situation: Situation) -> bool:
    """Say whether no other worker may be taken out of service because of this one."""
    if entry.id in situation.unreachable and entry.intent is Intent.PLACED:
        return True
    # A host that was lost while it started the very build that is to come may have been lost for it.
    if entry.id in situation.broken:
        return False
    counts = entry.intent is Intent.PLACED or (entry.spec.build != "" and entry.spec.build in coming)
    return counts and entry.observed is not Observed.READY
