"""What people see of the fleet: typed answers of the admin API and of `/v1/models`."""

from collections import defaultdict
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from rbee_runtime.models.references import shown
from rbee_runtime.protocol import Heartbeat, to_builtins
from rbee_runtime.queen.admission import unknown_model
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.ejection import Breaker, explained
from rbee_runtime.queen.external import Place
from rbee_runtime.queen.grants import may_use
from rbee_runtime.queen.membership import Member, Presence
from rbee_runtime.queen.records import Assignment, KeyRecord
from rbee_runtime.states import FetchState, Intent, Observed

EXTERNAL = "external"
"""The engine of a model that no host of the fleet runs."""


class ModelState(StrEnum):
    """What a client can expect of a model now; a `cold` one is loaded when somebody asks for it."""

    READY = "ready"
    LOADING = "loading"
    COLD = "cold"
    UNAVAILABLE = "unavailable"


class HiveAnswer(BaseModel):
    """One hive. `heard` is seconds since its last heartbeat, None before the first; memory in bytes.

    `drained` is what the operator asked the queen for, `draining` what the hive itself was told on its host; `builds`
    is what a worker of each engine runs if it is started now.
    """

    name: str
    state: Presence
    drained: bool
    draining: bool = False
    url: str = ""
    version: str = ""
    heard: float | None = None
    engines: list[str] = []
    builds: dict[str, str] = {}
    devices: list[dict[str, Any]] = []
    models: list[str] = []
    fetches: list[dict[str, Any]] = []
    workers: int = 0
    follows: bool = False
    detail: str = ""


class WorkerAnswer(BaseModel):
    """One worker: what is wanted and what is seen; no state while the queen cannot reach it, whatever its hive said.

    A model of a server that is not ours is one too, without a hive: `external:model`, ready or why not.

    `in_flight` counts this queen's requests, `outstanding` the tokens that those are thought to have left. One whose
    `breaker` is `open` failed too often and gets none for `ejected` seconds; `half_open`, it gets one, to be tried.
    `unit` is its name in `systemctl` or `podman ps` on its host; `next_try` is seconds until it is started again (0:
    not planned); `memory` is bytes by device. `build` is the code that it is to run; an `outdated` one has another
    build than its hive has now, or is being replaced for that: `renewed`.
    """

    id: str
    model: str
    hive: str
    intent: Intent
    state: Observed | None
    url: str
    context: int
    slots: int
    in_flight: int
    outstanding: int = 0
    breaker: Breaker = Breaker.CLOSED
    ejected: float = 0.0
    restarts: int = 0
    last_exit: str = ""
    detail: str = ""
    unit: str = ""
    devices: list[str] = []
    build: str = ""
    outdated: bool = False
    renewed: bool = False
    next_try: float = 0.0
    memory: dict[str, int] = {}


class FetchAnswer(BaseModel):
    """A model on its way to one hive's disk: bytes, bytes/s, seconds (None while unknown)."""

    hive: str
    state: FetchState
    done: int = 0
    total: int = 0
    rate: float = 0.0
    eta: float | None = None
    detail: str = ""
    next_try: float = 0.0


class ModelAnswer(BaseModel):
    """One declared model. `missing` says per hive why it has fewer workers than wanted.

    `held` are the hives that have it on disk, `fetches` those on which it is on its way.
    """

    name: str
    source: str
    engine: str
    state: ModelState
    ready: int
    workers: int
    waiting: int = 0
    missing: list[str] = []
    held: list[str] = []
    fetches: list[FetchAnswer] = []


def hives(controller: Controller) -> Iterator[HiveAnswer]:
    """Yield declared hives, and of others those that speak or are held to have workers: not each that ever was."""
    members = controller.membership.members
    declared = dict.fromkeys(hive.name for hive in controller.fleet.current.hives)
    others = [name for name in sorted(members) if not declared or _matters(controller, name)]
    for name in dict.fromkeys((*declared, *others)):
        foreign = bool(declared) and name not in declared
        yield _hive(controller, name, members.get(name), foreign=foreign)


def workers(controller: Controller) -> Iterator[WorkerAnswer]:
    """Yield every assignment, and every model of a server that is not ours."""
    for entry in tuple(controller.assignments.values()):
        yield WorkerAnswer(**_judged(controller, _worker(controller, entry)))
    for place in tuple(controller.externals.places()):
        yield WorkerAnswer(**_judged(controller, _external(controller, place)))


def models(controller: Controller) -> Iterator[ModelAnswer]:
    """Yield every declared model."""
    held: dict[str, list[str]] = defaultdict(list)
    fetches: dict[str, list[FetchAnswer]] = defaultdict(list)
    for hive, report in _reports(controller):
        for model in report.models:
            held[model.name].append(hive)
        for fetch in report.fetches:
            if fetch.state is not FetchState.READY:
                told = {key: value for key, value in to_builtins(fetch).items() if key != "name"}
                fetches[fetch.name].append(FetchAnswer(hive=hive, **told))
    for name in tuple(controller.fleet.names):
        yield _model(controller, name, held[name], fetches[name])


def openai_models(controller: Controller, key: KeyRecord) -> dict[str, Any]:
    """Return the list of `GET /v1/models` for one key."""
    names = [name for name in _called(controller) if _shown(controller, key, name)]
    return {"object": "list", "data": [_openai_row(controller, name) for name in names]}


def openai_model(controller: Controller, key: KeyRecord, name: str) -> dict[str, Any]:
    """Return the answer of `GET /v1/models/{name}`, or raise RequestError if the key has no such model."""
    if name not in _called(controller) or not _shown(controller, key, name):
        raise unknown_model(name)
    return _openai_row(controller, name)


def _called(controller: Controller) -> list[str]:
    """Return what clients may ask for: the models, and their further names behind them."""
    return [*controller.fleet.names, *controller.fleet.current.aliases]


def _shown(controller: Controller, key: KeyRecord, name: str) -> bool:
    return may_use(key, name) or may_use(key, controller.resolve(name))


def _openai_row(controller: Controller, name: str) -> dict[str, Any]:
    expected = state(controller, controller.resolve(name))
    return {"id": name, "object": "model", "created": 0, "owned_by": "rbee", "state": expected}


def state(controller: Controller, model: str) -> ModelState:
    """Return what a client can expect of a model that is declared."""
    if any(seat.usable for seat in controller.seats(model)):
        return ModelState.READY
    if controller.hopeless(model):
        return ModelState.UNAVAILABLE
    return ModelState.COLD if controller.is_cold(model) else ModelState.LOADING


def _hive(controller: Controller, name: str, member: Member | None, *, foreign: bool) -> HiveAnswer:
    count = len(controller.assignments.on(name))
    if member is None:
        return HiveAnswer(name=name, state=Presence.UNKNOWN, drained=False, workers=count)
    base = HiveAnswer(
        name=name,
        state=controller.membership.presence(name),
        drained=member.record.drained,
        url=member.record.url,
        workers=count,
        detail=_detail(controller, name, foreign=foreign),
    )
    report = member.report
    if report is None:
        return base
    wanted = controller.documents.document(name)
    return base.model_copy(
        update={
            "version": report.version,
            "heard": round(controller.membership.clock() - member.heard, 3),
            "engines": list(report.engines),
            "builds": report.builds,
            "devices": [to_builtins(device) for device in report.devices],
            "models": [model.name for model in report.models],
            "fetches": [to_builtins(fetch) for fetch in report.fetches],
            "draining": report.draining,
            "follows": (report.epoch, report.revision) == (wanted.epoch, wanted.revision),
        }
    )


def _matters(controller: Controller, name: str) -> bool:
    speaks = controller.membership.presence(name) in {Presence.LIVE, Presence.SUSPECT}
    return speaks or bool(controller.assignments.on(name))


def _detail(controller: Controller, name: str, *, foreign: bool) -> str:
    if foreign:
        return "not in the inventory: nothing is placed here"
    said = (controller.unheard_drain(name), controller.documents.problem(name))
    return "; ".join(part for part in said if part)


def _worker(controller: Controller, entry: Assignment) -> dict[str, Any]:
    """Return the fields of a worker's answer but for what routing holds of it."""
    report = controller.report(entry.id)
    answer: dict[str, Any] = {
        "id": entry.id,
        "model": entry.spec.model,
        "hive": entry.hive,
        "intent": entry.intent,
        "state": entry.observed,
        "url": f"{entry.address}:{entry.port}" if entry.port else "",
        "context": entry.spec.context,
        "slots": entry.capacity,
        "in_flight": controller.roster.in_flight(entry.id),
        "devices": entry.spec.devices,
        "build": entry.spec.build,
        "outdated": controller.outdated(entry),
        "renewed": controller.renewed(entry.id),
    }
    if entry.id in controller.unreachable:
        answer |= {"state": None, "detail": "does not answer the queen; it is asked again"}
    elif report is not None:
        answer |= {
            "restarts": report.restarts,
            "last_exit": str(report.last_exit or ""),
            "detail": report.detail,
            "unit": report.unit,
            "next_try": report.next_try,
            "memory": report.memory,
        }
    return answer


def _judged(controller: Controller, answer: dict[str, Any]) -> dict[str, Any]:
    """Return a worker's fields with what routing holds of it."""
    worker, roster = answer["id"], controller.roster
    health, left = roster.health(worker), roster.rests(worker)
    answer |= {"outstanding": roster.outstanding(worker), "breaker": health.state}
    if left is not None:
        answer |= {"ejected": round(left, 3), "detail": answer.get("detail") or explained(health, left)}
    return answer


def _external(controller: Controller, place: Place) -> dict[str, Any]:
    return {
        "id": place.id,
        "model": place.model,
        "hive": "",
        "intent": Intent.PLACED,
        "state": None if place.problem else Observed.READY,
        "url": place.server.url,
        "context": 0,
        "slots": place.server.slots,
        "in_flight": controller.roster.in_flight(place.id),
        "detail": place.problem,
    }


def _model(controller: Controller, name: str, held: list[str], fetches: list[FetchAnswer]) -> ModelAnswer:
    declared = controller.model(name)
    seats = controller.seats(name)
    return ModelAnswer(
        name=name,
        source=shown(declared.source) if declared is not None else "",
        engine=declared.engine if declared is not None else EXTERNAL,
        state=state(controller, name),
        ready=sum(seat.usable for seat in seats),
        workers=len(seats),
        waiting=controller.waiting(name),
        missing=list(controller.reasons.get(name, ())),
        held=held,
        fetches=fetches,
    )


def _reports(controller: Controller) -> list[tuple[str, Heartbeat]]:
    members = sorted(controller.membership.members.items())
    return [(name, member.report) for name, member in members if member.report is not None]
