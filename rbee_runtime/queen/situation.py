"""What plans are made from: plain values, without any rule."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from rbee_runtime.config import FleetFile
from rbee_runtime.models.facts import ModelFacts
from rbee_runtime.protocol import DeviceReport
from rbee_runtime.queen.assigned import Assigned, Entries
from rbee_runtime.queen.membership import Presence
from rbee_runtime.queen.records import Assignment


@dataclass(frozen=True)
class HiveView:
    """A hive as placement sees it.

    `sizes` are bytes of models on its disk by name, `builds` what its engines run, `memory` bytes by worker and device
    that were measured; `unused` are the most bytes that are unused on one of its devices.
    """

    name: str
    presence: Presence
    drained: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    engines: frozenset[str] = frozenset()
    builds: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[DeviceReport, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    memory: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unused: int = field(init=False)

    def __post_init__(self) -> None:
        """Work out what every plan asks of every hive."""
        self.__dict__["unused"] = max([device.total - device.used for device in self.devices], default=0)


@dataclass(frozen=True)
class Index:
    """What plans look up among hives: bytes of models on their `disks`, by model and hive, and who has most unused.

    `emptiest` are (- unused bytes, name), so the first one has most.
    """

    disks: Mapping[str, Mapping[str, int]]
    emptiest: Sequence[tuple[int, str]]


def index_of(hives: Collection[HiveView]) -> Index:
    """Return the index of some hives."""
    disks: dict[str, dict[str, int]] = {}
    for hive in hives:
        for model, size in hive.sizes.items():
            disks.setdefault(model, {})[hive.name] = size
    return Index(disks, sorted((-hive.unused, hive.name) for hive in hives))


@dataclass(frozen=True)
class Use:
    """What speaks for a worker, in seconds: since it became ready, since its last request, and of its last load."""

    resident: float = 0.0
    idle: float = 0.0
    reload: float = 0.0


@dataclass(frozen=True)
class Situation:
    """Everything that a plan depends on.

    `busy` are workers with requests in flight, `held` those of them whose renewal has to wait for that, `stuck` those
    that their hives cannot start where they are, `unreachable` those that refuse connections whatever their hives say,
    `broken` those that failed with an earlier build already and still do, `retiring` those that take no new requests.
    `frozen` forbids to replace what is lost; `settled` is False for a moment after a start, while hives that may hold
    better places have not spoken yet.

    By model: `wanted` is how many workers it is to have (its minimum where it is not in there), `waiting` those with
    requests in line, `queue` those that are being loaded, the oldest load first, `starved` those whose load has waited
    for room so long that busy workers are asked to empty themselves for it. `moving` says of a worker where it is to go
    ("": anywhere else). `facts` are of model files on any hive, `learnt` bytes by `needs.key`; `indexed`: see `index`.
    """

    fleet: FleetFile
    hives: Mapping[str, HiveView]
    existing: Sequence[Assignment]
    busy: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    stuck: frozenset[str] = frozenset()
    unreachable: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()
    retiring: frozenset[str] = frozenset()
    frozen: bool = False
    settled: bool = True
    wanted: Mapping[str, int] = field(default_factory=dict)
    waiting: frozenset[str] = frozenset()
    queue: tuple[str, ...] = ()
    starved: frozenset[str] = frozenset()
    moving: Mapping[str, str] = field(default_factory=dict)
    uses: Mapping[str, Use] = field(default_factory=dict)
    facts: Mapping[str, ModelFacts] = field(default_factory=dict)
    learnt: Mapping[str, int] = field(default_factory=dict)
    indexed: Index | None = None

    @cached_property
    def index(self) -> Index:
        """Return what is looked up among the hives."""
        return self.indexed or index_of(self.hives.values())

    @cached_property
    def assigned(self) -> Assigned:
        """Return those that exist, to be found by model and by hive."""
        return self.existing.assigned if isinstance(self.existing, Entries) else Assigned(self.existing)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What one hive says to a model that lacks workers ("": nothing against it); `hope` that this passes by itself."""

    reason: str
    hope: bool


@dataclass(frozen=True)
class Refusals:
    """What hives say to a model that lacks workers, by name; `lasting` until one changes, as all of them refuse it."""

    by_hive: Mapping[str, Refusal] = field(default_factory=dict)
    lasting: bool = False

    @cached_property
    def reasons(self) -> tuple[str, ...]:
        """Return a sentence for each hive that has no place."""
        return tuple(each.reason for each in self.by_hive.values() if each.reason) or ("no hive is declared",)

    @cached_property
    def hope(self) -> bool:
        """Say whether one of them passes by itself."""
        return any(each.hope for each in self.by_hive.values())


@dataclass(frozen=True)
class Due:
    """What changed since the last plan, so that another one may say something else.

    `models` and `hives` are those that are to be looked at. `touched` are the hives that may say something else to a
    model that fitted nowhere, and `refusals` what all hives said to the models to which nothing else happened.
    """

    models: frozenset[str] = frozenset()
    hives: frozenset[str] = frozenset()
    touched: frozenset[str] = frozenset()
    refusals: Mapping[str, Refusals] = field(default_factory=dict)
