"""Devices that do not exist, for trying out placement."""

from collections.abc import Sequence

from rbee_runtime.config import SimulatedDevice
from rbee_runtime.devices.reading import Reading, Workers
from rbee_runtime.protocol import DeviceReport


class SimulatedProbe:
    """Says what the settings say; workers take nothing of these devices."""

    kind = "simulated"

    def __init__(self, devices: Sequence[SimulatedDevice]) -> None:
        self._reading = Reading(
            tuple(
                DeviceReport(
                    id=device.id,
                    kind=device.kind,
                    name=device.name,
                    total=device.total,
                    used=device.used,
                    foreign=device.used,
                    index=index,
                    attributes={"simulated": "yes"},
                )
                for index, device in enumerate(devices)
            )
        )

    def read(self, workers: Workers) -> Reading:  # noqa: ARG002 - nothing runs on them
        """Return the devices."""
        return self._reading
