"""What one probe says at one time, before anybody judges it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rbee_runtime.protocol import DeviceReport

Workers = Mapping[int, frozenset[int]]
"""The pids of every worker's processes, its own and its descendants', by its own."""


@dataclass(frozen=True)
class Reading:
    """The devices of one kind.

    In their attributes `temperature` is °C, `power` and `power_limit` W, `utilisation` 0 to 1, other sizes bytes.
    `processes` is bytes by pid by device id, None where the driver does not say; a device that is missing there has
    processes that nobody can see. `problems` are sentences with their fix. `absent` means that this host has nothing
    of the kind, so that asking again soon is a waste.
    """

    devices: tuple[DeviceReport, ...] = ()
    processes: Mapping[str, Mapping[int, int | None]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    absent: bool = False


class DeviceProbe(Protocol):
    """Reads the devices of one kind."""

    @property
    def kind(self) -> str:
        """Return the kind in `DeviceReport.kind`."""

    def read(self, workers: Workers) -> Reading:
        """Return the devices now; runs in a thread."""
