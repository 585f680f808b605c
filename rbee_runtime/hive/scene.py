"""What decisions are made from and what they are: plain values, without any rule."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rbee_runtime.hive.health import Health
from rbee_runtime.hive.launchers import UnitStatus
from rbee_runtime.hive.ledger import Ledger
from rbee_runtime.hive.loading import Load
from rbee_runtime.hive.records import WorkerRecord
from rbee_runtime.protocol import Desired, WorkerSpec
from rbee_runtime.states import ExitReason, Observed


class Act(StrEnum):
    """What the supervisor does for a decision: `stop` lets requests end first, `kill` does not."""

    NONE = "none"
    START = "start"
    STOP = "stop"
    KILL = "kill"
    FORGET = "forget"


@dataclass(frozen=True)
class ModelState:
    """A model that the document names: `path` of its first file ("" for none); `basis` changes with its content.

    `stamp` changes when somebody writes its files again, even with the same content: a repaired file is worth a try.
    `size` is bytes of all its files, `facts` what their headers say ({} if unknown).
    """

    ready: bool
    path: str = ""
    basis: str = ""
    stamp: str = ""
    said: str = ""
    size: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """State and action for one worker, and its record as it is from now on.

    `reason` is why it does not serve although its process may be alive; without it the record's last exit counts.
    """

    worker: str
    state: Observed
    record: WorkerRecord
    act: Act = Act.NONE
    said: str = ""
    reason: ExitReason | None = None


@dataclass(frozen=True)
class Scene:
    """Everything that decisions are made from, at one moment; maps are by worker id, `models` by model name.

    `lost` is why nothing may run on a device, `unjudged` why nobody can see whether it is there, and `faults` the
    workers that found it broken, by device id; `early` that a driver still comes up; `unfit` why an engine that is
    installed cannot run here, by engine; `needs` bytes on each of a worker's devices; `drained` that nothing shall run
    here; `loads` the workers that are loading; `refused` why a worker could not be told to end; `trouble` is why
    nothing can be put on record now; `unseen` why the disk is not known.
    """

    now: float
    boot: str
    desired: Desired | None = None
    records: Mapping[str, WorkerRecord] = field(default_factory=dict)
    statuses: Mapping[str, UnitStatus] = field(default_factory=dict)
    health: Mapping[str, Health] = field(default_factory=dict)
    models: Mapping[str, ModelState] = field(default_factory=dict)
    engines: frozenset[str] = frozenset()
    unfit: Mapping[str, str] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    unjudged: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    needs: Mapping[str, int] = field(default_factory=dict)
    loads: Mapping[str, Load] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    credentials: str = ""
    early: bool = False
    drained: bool = False
    trouble: str = ""
    unseen: str = ""

    def basis(self, model: str) -> str:
        """Return what besides the spec a worker is launched with: its model's content and our credentials."""
        state = self.models.get(model)
        return f"{state.basis if state is not None else ''}/{self.credentials}"

    def identity(self, wanted: WorkerSpec) -> str:
        """Return what a running worker has to agree with."""
        return f"{wanted.digest()}/{self.basis(wanted.model)}"
