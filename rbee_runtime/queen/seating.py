"""What heartbeats say about hosts and workers, turned into what plans and routing are made from. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from rbee_runtime.config import FleetModel
from rbee_runtime.models.facts import ModelFacts
from rbee_runtime.protocol import Heartbeat, WorkerReport
from rbee_runtime.queen.membership import Member, Membership, Presence
from rbee_runtime.queen.needs import facts_of
from rbee_runtime.queen.records import Assignment
from rbee_runtime.queen.seats import Seat
from rbee_runtime.queen.situation import HiveView
from rbee_runtime.states import Observed


def hive_view(name: str, labels: Mapping[str, str], membership: Membership) -> HiveView:
    """Return a hive as placement sees it."""
    member = membership.members.get(name)
    if member is None:
        return HiveView(name, Presence.UNKNOWN, labels=labels)
    report, presence = member.report, membership.presence(name)
    if report is None:
        return HiveView(name, presence, member.record.drained, labels)
    return HiveView(
        name,
        presence,
        drained=is_drained(member),
        labels=labels,
        engines=frozenset(report.engines),
        builds=report.builds,
        devices=report.devices,
        sizes={model.name: model.size for model in report.models},
        memory={worker.id: worker.memory for worker in report.workers if worker.memory},
    )


def empties_itself(member: Member) -> bool:
    """Say whether a hive was told on its own host to empty itself."""
    return member.report is not None and member.report.draining


def is_drained(member: Member | None) -> bool:
    """Say whether a hive gets no new requests."""
    return member is not None and (member.record.drained or empties_itself(member))


def seen(entry: Assignment, report: WorkerReport | None) -> Assignment:
    """Return an assignment as its hive reports it now."""
    if report is None:
        return replace(entry, observed=None)
    drifted = report.state is Observed.READY and report.spec != entry.spec.digest()
    return replace(
        entry,
        observed=Observed.DRIFTED if drifted else report.state,
        address=report.address or entry.address,
        port=report.port or entry.port,
        slots=report.slots,
    )


def seat_of(entry: Assignment, url: str, *, usable: bool) -> Seat:
    """Return a worker as routing sees it; with what one of an older spec runs is not known."""
    spec, is_known = entry.spec, entry.observed is Observed.READY
    return Seat(
        entry.id,
        spec.model,
        url,
        entry.capacity,
        usable,
        context=spec.context if is_known else 0,
        build=spec.build,
        revision=_revision(entry) if is_known else "",
    )


def _revision(entry: Assignment) -> str:
    """Return what the text of an answer hangs on: the model's files, the engine and its options."""
    options = f" {sorted(entry.spec.options.items())}" if entry.spec.options else ""
    return f"{entry.content} {entry.spec.engine}{options}"


def differs(before: HiveView, now: HiveView) -> bool:
    """Say whether a hive is another one than before to a plan, but for how much of its memory is used."""
    return _place(before) != _place(now)


def _place(view: HiveView) -> tuple[object, ...]:
    devices = tuple((each.id, each.total, each.healthy) for each in view.devices)
    return (view.presence, view.drained, view.labels, view.engines, view.builds, view.sizes, devices)


def tells(before: Heartbeat | None, now: Heartbeat) -> bool:
    """Say whether a heartbeat tells more than how much of all is used: what no plan can wait a second for."""
    return before is None or _material(before) != _material(now)


def _material(report: Heartbeat) -> tuple[object, ...]:
    workers = [(w.id, w.spec, w.wanted, w.state, w.port, w.detail, w.last_exit, w.need) for w in report.workers]
    devices = [(device.id, device.total, device.healthy) for device in report.devices]
    models = [(model.name, model.size) for model in report.models]
    return (report.incarnation, report.url, report.draining, report.engines, report.builds, workers, devices, models)


class Headers:
    """Facts and sizes of models on any hive; each header is read once."""

    def __init__(self) -> None:
        self.known: dict[str, ModelFacts] = {}
        self._raw: dict[str, dict[str, object]] = {}
        self._sizes: dict[str, int] = {}

    def hear(self, report: Heartbeat) -> set[str]:
        """Learn what a hive tells of the models on its disk; return those of which that is new."""
        news: set[str] = set()
        for model in report.models:
            if self._sizes.get(model.name) != model.size:
                news.add(model.name)
            self._sizes[model.name] = model.size
            if not model.facts or self._raw.get(model.name) == model.facts:
                continue
            self._raw[model.name] = model.facts
            facts = facts_of(model)
            if facts is not None:
                self.known[model.name] = facts
                news.add(model.name)
        return news

    def size(self, model: FleetModel | None) -> int:
        """Return the bytes of a model's files, 0 while nobody knows them."""
        if model is None:
            return 0
        return sum(file.size for file in model.files) or self._sizes.get(model.name, 0)
