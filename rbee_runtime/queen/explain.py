"""Why a model's workers are where they are, and what another one would find: a dry run of the plan's own functions."""

from collections.abc import Sequence
from dataclasses import replace

from pydantic import BaseModel

from rbee_runtime.config import FleetModel
from rbee_runtime.errors import RequestError
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.draft import Draft
from rbee_runtime.queen.ejection import explained
from rbee_runtime.queen.ledger import Account
from rbee_runtime.queen.lifecycle import is_kept_up
from rbee_runtime.queen.loads import Phase
from rbee_runtime.queen.placement import drafted, seek
from rbee_runtime.queen.records import Assignment, Cause
from rbee_runtime.queen.situation import Situation
from rbee_runtime.queen.survey import Evict, Option, Verdict, best, survey
from rbee_runtime.states import Intent, Observed


class LoadAnswer(BaseModel):
    """The load of a model: seconds since it began and since it last moved; `again` until a failure is forgotten."""

    model: str
    phase: Phase
    cause: Cause
    created: float
    seconds: float
    quiet: float
    waiting: int = 0
    failures: int = 0
    again: float = 0.0
    detail: str = ""


class DeviceAnswer(BaseModel):
    """One device as placement books it, in bytes; `free` is what one more worker can have."""

    id: str
    name: str
    healthy: bool
    total: int
    foreign: int
    reserved: int
    measured: int
    headroom: int
    free: int


class PlaceAnswer(BaseModel):
    """What one hive says to one more worker of a model.

    `needs` is bytes on each of `devices`; `evicts` are workers that would go for it, `shielded` why others would not.
    """

    hive: str
    fits: bool
    chosen: bool = False
    reason: str = ""
    passes: bool = False
    needs: int = 0
    devices: list[str] = []
    evicts: list[str] = []
    shielded: dict[str, str] = {}
    ledger: list[DeviceAnswer] = []


class PlacedAnswer(BaseModel):
    """One worker of a model: `why` it is there, or on its way out, and before that why it gets no requests."""

    id: str
    hive: str
    devices: list[str]
    state: Observed | None
    in_flight: int
    idle: float
    why: str


class Explanation(BaseModel):
    """Everything that decides about a model's workers now; `summary` is it in a sentence."""

    model: str
    summary: str
    wanted: int
    ready: int
    waiting: int
    load: LoadAnswer | None = None
    workers: list[PlacedAnswer] = []
    places: list[PlaceAnswer] = []


def explanation(controller: Controller, name: str) -> Explanation:
    """Return why a model is as it is, or raise RequestError 404."""
    model = declared(controller, name)
    situation = controller.situation()
    draft = drafted(situation)
    verdicts, option, mode = seek(model, draft)
    mine = draft.of(name)
    serving = [entry for entry in mine if entry.serves]
    wanted = draft.wanted(model)
    return Explanation(
        model=name,
        summary=_summary(controller, model, serving, _outlook(verdicts, option, mode, situation)),
        wanted=wanted,
        ready=len(serving),
        waiting=controller.waiting(name),
        load=load_of(controller, name),
        workers=[_placed(entry, draft, controller) for entry in mine],
        places=[_place(verdict, option) for verdict in _asked_all(verdicts, option, model, draft)],
    )


def loads(controller: Controller) -> list[LoadAnswer]:
    """Return the loads that go on and those whose failure is still told, the oldest first."""
    found = (load_of(controller, name) for name in controller.lifecycle.jobs)
    return sorted((load for load in found if load is not None), key=lambda load: load.created)


def load_of(controller: Controller, name: str) -> LoadAnswer | None:
    """Return the load of a model as people see it, None if there is none to tell of."""
    job = controller.lifecycle.told(name)
    if job is None:
        return None
    now = controller.membership.clock()
    return LoadAnswer(
        model=job.model,
        phase=job.phase,
        cause=job.cause,
        created=job.created,
        seconds=round(now - job.begun, 3),
        quiet=round(now - job.moved, 3),
        waiting=controller.waiting(job.model),
        failures=job.failures,
        again=round(controller.lifecycle.retry_after(name), 3),
        detail=job.detail,
    )


def declared(controller: Controller, name: str) -> FleetModel:
    """Return a model of the inventory, or raise RequestError 404."""
    model = controller.model(name)
    if model is None:
        message = f"the model {name[:100]!r} is not in the inventory; GET /api/v1/models lists those that are"
        raise RequestError(404, message, code="model_not_found", param="model")
    return model


def check_move(controller: Controller, worker: str, hive: str) -> Assignment:
    """Return the worker that a move is about, or raise RequestError: 404, or 409 with the numbers of a dry run."""
    entry = controller.assignments.get(worker)
    if entry is None:
        raise RequestError(404, f"there is no worker {worker[:100]!r}", code="worker_not_found")
    model, now = declared(controller, entry.spec.model), controller.situation()
    if hive and hive not in now.hives:
        raise RequestError(404, f"there is no hive {hive[:100]!r} in the inventory", code="hive_not_found")
    if model.each_host:
        raise _conflict(f"{model.name} has one worker on each host; a host is emptied by draining it")
    if hive == entry.hive:
        raise _conflict(f"worker {worker} is on {hive} already")
    moving = replace(now, moving={**now.moving, worker: hive})
    verdicts = survey(model, drafted(moving), Evict.IDLE)
    if best(verdicts) is None:
        said = (f"{each.hive}: {each.reason}" for each in verdicts if not hive or each.hive == hive)
        raise _conflict(f"worker {worker} cannot be moved: {'; '.join(said)}")
    return entry


def _conflict(message: str) -> RequestError:
    return RequestError(409, message, kind="conflict_error", code="not_possible")


def _asked_all(verdicts: list[Verdict], option: Option | None, model: FleetModel, draft: Draft) -> list[Verdict]:
    """Return what hives say; those that only refuse because others are busy, as they would once those have ended."""
    return (
        survey(model, draft, Evict.ANYBODY) if option is not None and option.hive not in _fits(verdicts) else verdicts
    )


def _fits(verdicts: Sequence[Verdict]) -> set[str]:
    return {verdict.hive for verdict in verdicts if verdict.option is not None}


def _outlook(verdicts: Sequence[Verdict], option: Option | None, mode: Evict, situation: Situation) -> str:
    if option is not None:
        names = f", for which {', '.join(option.victims)} would go" if option.victims else ""
        waits = " once their requests have ended" if mode is Evict.ANYBODY and option.victims else ""
        return f"one more worker would go to {option.hive} ({', '.join(option.devices)}){names}{waits}"
    if not situation.settled:
        return "the queen has just started and waits for hives that were not heard yet"
    passes = "; this may pass by itself" if any(verdict.hope for verdict in verdicts) else ""
    return f"one more worker fits nowhere{passes}"


def _summary(controller: Controller, model: FleetModel, serving: Sequence[Assignment], outlook: str) -> str:
    job, ready = controller.lifecycle.told(model.name), len(serving)
    if ready:
        out = sum(controller.roster.rests(entry.id) is not None for entry in serving)
        left_out = f", {out} of them ejected" if out else ""
        return f"{model.name} serves with {ready} worker{'' if ready == 1 else 's'}{left_out}; {outlook}"
    if job is not None and not job.open:
        again = controller.lifecycle.retry_after(model.name)
        return f"the last load of {model.name} failed: {job.detail}; not tried again for {again:.0f} s"
    if job is not None:
        return f"{model.name} is {job.phase}" + (f" ({job.detail})" if job.detail else "") + f"; {outlook}"
    if is_kept_up(model):
        absence = controller.absence(model.name)
        return f"{model.name} does not serve" + (f": {absence}" if absence else "") + f"; {outlook}"
    return f"{model.name} is not loaded, and is when somebody asks for it; {outlook}"


def _placed(entry: Assignment, draft: Draft, controller: Controller) -> PlacedAnswer:
    situation, shield = draft.situation, draft.shield(entry)
    use = situation.uses.get(entry.id)
    if entry.id in situation.moving:
        why = f"moves to {situation.moving[entry.id] or 'another host'} once that serves"
    elif entry.id in situation.retiring:
        why = "takes no new requests: it goes or is renewed once those that it has have ended"
    elif entry.id in situation.stuck:
        why = "its hive cannot start it; it goes once its replacement serves"
    elif entry.intent is Intent.LOST:
        why = "its hive is lost; it is wanted again when that is back"
    elif shield:
        why = f"stays: {shield}"
    else:
        why = "may make room for another model"
    left = controller.roster.rests(entry.id)
    if left is not None:
        why = f"{explained(controller.roster.health(entry.id), left)}; {why}"
    return PlacedAnswer(
        id=entry.id,
        hive=entry.hive,
        devices=list(entry.spec.devices),
        state=entry.observed,
        in_flight=controller.roster.in_flight(entry.id),
        idle=round(use.idle, 3) if use is not None else 0.0,
        why=why,
    )


def _place(verdict: Verdict, chosen: Option | None) -> PlaceAnswer:
    option = verdict.option
    return PlaceAnswer(
        hive=verdict.hive,
        fits=option is not None,
        chosen=chosen is not None and chosen.hive == verdict.hive,
        reason=verdict.reason,
        passes=verdict.hope,
        needs=verdict.need,
        devices=list(option.devices) if option is not None else [],
        evicts=list(option.victims) if option is not None else [],
        shielded={worker: str(shield) for worker, shield in verdict.shields if shield},
        ledger=[_device(account) for account in verdict.accounts],
    )


def _device(account: Account) -> DeviceAnswer:
    return DeviceAnswer(
        id=account.id,
        name=account.device.name,
        healthy=account.device.healthy,
        total=account.device.total,
        foreign=account.device.foreign,
        reserved=account.reserved,
        measured=account.measured,
        headroom=account.headroom,
        free=account.free,
    )
