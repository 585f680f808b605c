"""What plans are made from: plain values, without any rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rbee_runtime.config import FleetFile
from rbee_runtime.protocol import DeviceReport
from rbee_runtime.queen.membership import Presence
from rbee_runtime.queen.records import Assignment


@dataclass(frozen=True)
class HiveView:
    """A hive as placement sees it; `sizes` are bytes of models on its disk by name, `builds` what its engines run."""

    name: str
    presence: Presence
    drained: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    engines: frozenset[str] = frozenset()
    builds: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[DeviceReport, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Situation:
    """Everything that a plan depends on.

    `busy` are workers with requests in flight, `held` those of them whose renewal has to wait for that, `stuck` those
    that their hives cannot start where they are, `unreachable` those that refuse connections whatever their hives say,
    `broken` those that failed with an earlier build already and still do.
    `frozen` forbids to replace what is lost; `settled` is False for a moment after a start, while hives that may hold
    better places have not spoken yet.
    """

    fleet: FleetFile
    hives: Mapping[str, HiveView]
    existing: Sequence[Assignment]
    busy: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    stuck: frozenset[str] = frozenset()
    unreachable: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()
    frozen: bool = False
    settled: bool = True
