"""Devices that a host does not have, to try out a fleet: made-up ones, or those that another host had."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbee_deploy import _fields as check
from rbee_deploy.errors import InventoryError
from rbee_runtime import ports
from rbee_runtime.config import SimulatedDevice
from rbee_runtime.errors import ConfigError

_DEFAULT = SimulatedDevice(id="")
RECORDING = ports.ETC / "devices.json"
"""Where the hive finds a recording."""


@dataclass(frozen=True)
class Simulated:
    """A device that does not exist: `memory` and what others have `used` of it in bytes, `card` is its model."""

    name: str = check.setting(check.host_name)
    memory: int = check.setting(check.size(1), default=_DEFAULT.total)
    used: int = check.setting(check.size(0), default=_DEFAULT.used)
    card: str = check.setting(check.text, default=_DEFAULT.name)


@dataclass(frozen=True)
class Recorded:
    """The devices of a recording on the operator's machine; `text` is what it says."""

    path: str
    text: str


Devices = tuple[Simulated, ...] | Recorded


def simulated(name: object = "", *extra: object, **fields: Any) -> Simulated:
    """Declare a device that does not exist; the fields are those of Simulated."""
    device = check.construct(Simulated, "simulated", name, extra, fields)
    if device.used > device.memory:
        raise InventoryError(f"simulated {device.name!r}: used is {device.used}, more than its memory {device.memory}")
    return device


def recorded(path: str | Path) -> Recorded:
    """Declare the devices of a file that `python -m rbee_runtime.devices record` wrote on another host."""
    # Loads the probes of all kinds of devices.
    from rbee_runtime.devices import recorded as recordings  # noqa: PLC0415

    try:
        file = Path(check.operator_file(path))
        recordings.probes(file)
        return Recorded(str(file), file.read_text(encoding="utf-8"))
    except (ConfigError, check.UnfitError, UnicodeDecodeError) as error:
        raise InventoryError(f"recorded {str(path)!r}: {error}") from error


def declared(value: object) -> Devices:
    """Accept what a host's field `devices` may be."""
    if isinstance(value, Recorded):
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(item, Simulated) for item in value):
        raise check.UnfitError("it must be a list of simulated(…), or recorded(…)")
    names = [item.name for item in value]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise check.ExposedError(f"has the device {twice!r} twice; give each its own name")
    return tuple(value)


def settings(devices: Devices) -> dict[str, Any]:
    """Return what the hive has to be told of its devices; nothing where they are those of the host."""
    if isinstance(devices, Recorded):
        return {"recorded": RECORDING}
    return {"simulate": _simulated(devices)} if devices else {}


def _simulated(devices: Sequence[Simulated]) -> list[dict[str, Any]]:
    return [{"id": item.name, "name": item.card, "total": item.memory, "used": item.used} for item in devices]
