"""The share of its GPUs that a server which takes shares may have."""

from collections.abc import Sequence

from rbee_runtime.devices.nvidia import NvidiaProbe
from rbee_runtime.devices.reading import DeviceProbe
from rbee_runtime.models.estimate import Estimate, utilisation


def share_of(need: Estimate, devices: Sequence[str], probe: DeviceProbe | None = None) -> float | None:
    """Return the largest share that any of the devices has to give, None where nothing says how large they are.

    Raises EngineLoadError (out of memory) where one of them has too little free.
    """
    found = [device for device in (probe or NvidiaProbe()).read({}).devices if device.id in set(devices)]
    shares = [utilisation(need, device.total, device.total - device.used) for device in found if device.total]
    return max(shares, default=None)
