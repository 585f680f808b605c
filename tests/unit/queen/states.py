"""Short ways to say which fleet, hives and workers a test is about."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx
import yaml

from rbee_runtime.config import FleetFile, FleetHive, FleetModel
from rbee_runtime.protocol import DeviceReport, Heartbeat, WorkerReport
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.desired import Documents
from rbee_runtime.queen.fleet import FleetSource
from rbee_runtime.queen.keys import Keys
from rbee_runtime.queen.membership import Presence
from rbee_runtime.queen.situation import HiveView
from rbee_runtime.queen.store import Store
from rbee_runtime.queen.usage import Usage
from rbee_runtime.queen.writes import Writes
from rbee_runtime.states import Observed

GIB = 1024**3


@dataclass
class Clock:
    """Time that moves when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def cpu(total: int = 8 * GIB, foreign: int = 0) -> DeviceReport:
    return DeviceReport(id="cpu", kind="cpu", name="test", total=total, used=0, foreign=foreign)


def gpu(name: str, total: int = 24 * GIB) -> DeviceReport:
    return DeviceReport(id=name, kind="cuda", name=name, total=total, used=0)


def view(name: str, presence: Presence = Presence.LIVE, **fields: object) -> HiveView:
    values = {"engines": frozenset({"fake", "llama-cpp"}), "devices": (cpu(),), **fields}
    return HiveView(name, presence, **values)  # type: ignore[arg-type]


def model(name: str = "m", **fields: object) -> FleetModel:
    return FleetModel.model_validate({"name": name, "source": "fake:", "engine": "fake", **fields})


def fleet(*models: FleetModel, hives: tuple[str, ...] = ("a", "b", "c")) -> FleetFile:
    return FleetFile(hives=tuple(FleetHive(name=name) for name in hives), models=models)


def numbered() -> Callable[[str], str]:
    numbers = count(1)
    return lambda slug: f"{slug}-{next(numbers):06x}"


@dataclass
class Fixture:
    """A controller over a real store, with a clock in the test's hand."""

    directory: Path
    declared: FleetFile
    clock: Clock = field(default_factory=Clock)
    epoch: int = 1

    def __post_init__(self) -> None:
        self.write(self.declared)
        self.store = Store(self.directory)
        self.writes = writes = Writes(self.store)
        self.client = httpx.AsyncClient()
        self.documents = Documents("test", self.epoch, self.client, written=writes.settled)
        self.keys = Keys(self.store)
        self.usage = Usage(self.store, self.keys, self.directory, self.epoch)
        self.controller = Controller(
            store=self.store,
            writes=writes,
            fleet=FleetSource(self.directory / "fleet.yaml", self.store),
            keys=self.keys,
            documents=self.documents,
            scheme="http",
            clock=self.clock,
            new_id=numbered(),
        )

    def write(self, declared: FleetFile) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "fleet.yaml").write_text(yaml.safe_dump(declared.model_dump(mode="json")))

    def workers(self, hive: str) -> list[str]:
        return [entry.id for entry in self.controller.assignments.values() if entry.hive == hive]

    def report(self, hive: str, state: Observed = Observed.READY, **fields: object) -> Heartbeat:
        """Return the heartbeat of a hive that has every assigned worker in `state`."""
        mine = [entry for entry in self.controller.assignments.values() if entry.hive == hive]
        reports = tuple(
            WorkerReport(
                id=entry.id,
                model=entry.spec.model,
                spec=entry.spec.digest(),
                state=state,
                address="127.0.0.1",
                port=9000 + index,
                slots=entry.spec.slots,
            )
            for index, entry in enumerate(mine)
        )
        values = {
            "hive": hive,
            "incarnation": "1",
            "url": f"http://{hive}:8600",
            "epoch": 0,
            "revision": 0,
            "version": "0.1.0",
            "engines": ("fake",),
            "devices": (cpu(),),
            "workers": reports,
        }
        return Heartbeat(**{**values, **fields})  # type: ignore[arg-type]

    def beat(self, *hives: str, state: Observed = Observed.READY) -> None:
        for hive in hives:
            self.controller.heartbeat(self.report(hive, state))
