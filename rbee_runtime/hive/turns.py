"""Whose turn it is to start: memory is there, and nobody else loads or leaves on the same GPU. Pure."""

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from rbee_runtime.hive import ledger as books
from rbee_runtime.hive.ledger import Ledger
from rbee_runtime.hive.scene import Act, Decision, Scene
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.states import ExitReason, Observed


def take(decisions: Iterable[Decision], scene: Scene) -> list[Decision]:
    """Return the decisions with only those starts that may happen now; the others wait in backoff and say why.

    The one that has waited longest since its last failure goes first.
    """
    decided = list(decisions)
    specs = {spec.id: spec for spec in scene.desired.workers} if scene.desired is not None else {}
    starts = [decision for decision in decided if decision.act is Act.START]
    book, answers = scene.ledger, {}
    for decision in sorted(starts, key=lambda start: (start.record.next_try, start.worker)):
        spec = specs[decision.worker]
        answers[decision.worker] = answer = _answer(decision, spec, book, scene.needs.get(spec.id, 0))
        if answer.act is Act.START:
            book = book.with_start(spec.id, spec.devices, scene.needs.get(spec.id, 0))
    return [answers.get(decision.worker, decision) for decision in decided]


def _answer(start: Decision, spec: WorkerSpec, book: Ledger, need: int) -> Decision:
    waiting = replace(start, state=Observed.BACKOFF, act=Act.NONE)
    accounts = [book.accounts[device] for device in books.places(spec.devices) if device in book.accounts]
    for account in accounts:
        said = books.wait(account, spec.id)
        if said:
            return replace(waiting, said=said)
    for account in accounts:
        said = books.refusal(account, spec.id, need)
        if said:
            # The queen is told what it would take: she may have room made for that.
            record = msgspec.structs.replace(start.record, need=need)
            return replace(waiting, record=record, said=said, reason=ExitReason.OUT_OF_MEMORY)
    return replace(start, record=msgspec.structs.replace(start.record, need=need, had=book.free(spec.devices)))
