"""How much memory a worker of a model needs on each of its devices, by the best that anybody knows. Pure.

what a hive books for such a worker              as it says: it knows what was measured, and its engine's habits
headers of the model's files, on any hive        the estimate of `models.estimate`
only their size                                  a fifth more, and a process around it
nothing                                          a process
"""

from collections.abc import Mapping

import msgspec

from rbee_runtime.config import FleetModel
from rbee_runtime.errors import RbeeError
from rbee_runtime.models import estimate, needs
from rbee_runtime.models.facts import ModelFacts
from rbee_runtime.protocol import ModelReport, WorkerSpec
from rbee_runtime.queen.fleet import content
from rbee_runtime.queen.renewal import engine_of, spec_of
from rbee_runtime.queen.situation import Situation

MIB = 1024**2
_FACTOR, _OVERHEAD = 1.2, 256 * MIB
"""A model needs its files' size plus a fifth for buffers and the context, and a process around it."""

CPU = "cpu"


def places(spec: WorkerSpec) -> tuple[str, ...]:
    """Return the devices that a spec means: none named is the processor."""
    return spec.devices or (CPU,)


def key(spec: WorkerSpec, content: str) -> str:
    """Return what the memory of a worker depends on: all of its spec but who it is and which code it runs."""
    devices = places(spec)
    bare = msgspec.structs.replace(spec, id="", build="", devices=())
    return f"{content}/{bare.digest()}/x{len(devices)}{'/cpu' if CPU in devices else ''}"


def facts_of(report: ModelReport) -> ModelFacts | None:
    """Return what a hive tells of a model's headers, None if that is nothing or not understood."""
    try:
        return msgspec.convert({"main": "", "quantisation": "", **report.facts}, ModelFacts) if report.facts else None
    except msgspec.ValidationError:
        # A hive of another release; sizes still count.
        return None


class Needs:
    """What is known in one situation; each answer is worked out once."""

    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        self._known: dict[tuple[str, int, bool], int] = {}

    def of(self, model: FleetModel, devices: int = 1, *, processor: bool = False) -> int:
        """Return the bytes on each of so many cards, or of main memory."""
        asked = (model.name, devices, processor)
        if asked not in self._known:
            self._known[asked] = self._learnt(model, devices, processor) or self._guess(model, devices, processor)
        return self._known[asked]

    def _learnt(self, model: FleetModel, devices: int, processor: bool) -> int:
        if not self._situation.learnt:
            return 0
        named = (CPU,) if processor else tuple(str(number) for number in range(devices))
        return self._situation.learnt.get(key(spec_of(model, "", named), content(model)), 0)

    def _guess(self, model: FleetModel, devices: int, processor: bool) -> int:
        facts, engine = self._situation.facts.get(model.name), engine_of(model)
        if facts is not None:
            found = _estimate(facts, model, devices=devices, processor=processor)
            if found:
                return found + needs.beside(model.options, engine=engine, in_memory=processor)
        return int(self._size(model) * _FACTOR / devices) + _OVERHEAD

    def _size(self, model: FleetModel) -> int:
        declared = sum(file.size for file in model.files)
        return declared or max(self._situation.index.disks.get(model.name, {}).values(), default=0)


def learn(before: Mapping[str, int], spec: WorkerSpec, content: str, need: int) -> Mapping[str, int]:
    """Return what is known once a hive has said what it books for a worker; the larger one counts."""
    name = key(spec, content)
    return {**before, name: need} if need > before.get(name, 0) else before


def heads_of(facts: ModelFacts | None) -> int:
    """Return how many attention heads are to be shared out among cards, 0 if that is not known."""
    return facts.heads if facts is not None else 0


def _estimate(facts: ModelFacts, model: FleetModel, *, devices: int, processor: bool) -> int:
    engine = engine_of(model)
    try:
        return estimate.memory(
            facts,
            context=model.context,
            slots=model.slots,
            engine=engine,
            accelerated=not processor,
            devices=devices,
            settings=needs.settings_of(model.options, facts, engine=engine),
        ).total
    except (RbeeError, ValueError, ArithmeticError):
        return 0
