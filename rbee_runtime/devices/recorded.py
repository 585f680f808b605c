"""What probes read on a host, kept in a file and played back: another host's devices on this one.

A recording is JSON: `driver` and `captured_with` (what was read, and by which command), and `readings`, a list of
`{kind, raw}`. `raw` of `nvidia` is what `Nvml.read` returns; of `amd`, `intel` and `cpu` it is `{texts, links}`,
the kernel's files by path. Recordings that were written by hand are called `synthetic_*.json`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rbee_runtime.devices import nvidia
from rbee_runtime.devices.amd import AmdProbe
from rbee_runtime.devices.cpu import CpuProbe
from rbee_runtime.devices.intel import IntelProbe
from rbee_runtime.devices.nvml import Nvml
from rbee_runtime.devices.reading import DeviceProbe, Reading, Workers
from rbee_runtime.devices.tree import HostTree, RecordedTree, Tree, WatchedTree
from rbee_runtime.errors import ConfigError

CAPTURED_WITH = "python -m rbee_runtime.devices record"

_OF_FILES: dict[str, Callable[[Tree], DeviceProbe]] = {"amd": AmdProbe, "intel": IntelProbe, "cpu": CpuProbe}
KINDS = ("nvidia", *_OF_FILES)


class RecordedProbe:
    """Plays one kind of a recording; a file that changes is read again, so devices can come and go."""

    def __init__(self, path: Path, kind: str) -> None:
        self.kind = kind
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._raw: dict[str, Any] | None = None

    def read(self, workers: Workers) -> Reading:
        """Return the recorded devices; raises ConfigError when the file is not a recording any more."""
        status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp != self._stamp:
            self._raw = next((entry["raw"] for entry in load(self._path) if entry["kind"] == self.kind), None)
            self._stamp = stamp
        return Reading() if self._raw is None else play(self.kind, self._raw, workers)


def probes(path: Path) -> list[DeviceProbe]:
    """Return a probe for each kind in a recording; raises ConfigError when it cannot be used."""
    return [RecordedProbe(path, kind) for kind in dict.fromkeys(entry["kind"] for entry in load(path))]


def load(path: Path) -> list[dict[str, Any]]:
    """Return the readings of a recording; raises ConfigError in one sentence."""
    try:
        readings = json.loads(path.read_bytes())["readings"]
        wrong = [
            entry["kind"] for entry in readings if entry["kind"] not in KINDS or not isinstance(entry["raw"], dict)
        ]
    except OSError as error:
        raise ConfigError(
            f"cannot read the recorded devices {path}: {error.strerror}; check devices.recorded"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a recording of devices; make one with `{CAPTURED_WITH}`") from error
    if wrong:
        raise ConfigError(f"{path} has readings of the unknown kind {wrong[0]!r}; known are {', '.join(KINDS)}")
    return list(readings)


def play(kind: str, raw: dict[str, Any], workers: Workers) -> Reading:
    """Return what the probe of a kind makes of raw readings; raises ConfigError when they are not of its form."""
    try:
        if kind == nvidia.KIND:
            return nvidia.reading(raw)
        return _OF_FILES[kind](RecordedTree(raw["texts"], raw.get("links", {}))).read(workers)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ConfigError(f"the recorded {kind} readings are incomplete: {error!r}") from error


def capture() -> dict[str, Any]:
    """Return a recording of this host; kinds of which it has nothing are left out."""
    readings: list[dict[str, Any]] = []
    drivers: list[str] = []
    raw = Nvml().read()
    if not raw.get("absent"):
        readings.append({"kind": nvidia.KIND, "raw": raw})
    for kind, make in _OF_FILES.items():
        tree = WatchedTree(HostTree())
        reading = make(tree).read({})
        if not reading.absent:
            readings.append({"kind": kind, "raw": {"texts": tree.texts, "links": tree.links}})
    for entry in readings:
        played = play(entry["kind"], entry["raw"], {})
        found = {device.attributes.get("driver", "none") for device in played.devices}
        drivers.append(f"{entry['kind']} {', '.join(sorted(found)) or 'unreadable'}")
    return {"driver": "; ".join(drivers), "captured_with": CAPTURED_WITH, "readings": readings}
