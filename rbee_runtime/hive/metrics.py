"""The hive's figures for Prometheus, read when somebody asks for them and not before."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rbee_runtime import __version__, metrics
from rbee_runtime.errors import RbeeError
from rbee_runtime.metrics import Values
from rbee_runtime.protocol import DeviceReport, FetchReport, ModelReport, WorkerReport
from rbee_runtime.states import FetchState, Observed

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_READINGS = {"temperature_celsius": "temperature", "power_watts": "power", "utilisation_ratio": "utilisation"}
"""Figure → name in `DeviceReport.attributes`."""

MEMORY_KINDS = ("total", "used", "foreign", "reserved", "measured")


@dataclass
class Meters:
    """What is counted as it happens, and the last snapshot; the feed writes it."""

    name: str = ""
    workers: Mapping[str, WorkerReport] = field(default_factory=dict)
    models: Mapping[str, ModelReport] = field(default_factory=dict)
    fetches: Mapping[str, FetchReport] = field(default_factory=dict)
    devices: Mapping[str, DeviceReport] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)
    events: Mapping[str, int] = field(default_factory=dict)
    fetched: int = 0
    heartbeat_failures: int = 0
    loop_lag: float = 0.0
    tick_seconds: float = 0.0
    free: Callable[[], int] = int


def exposed(meters: Meters) -> tuple[bytes, str]:
    """Return the text of `/metrics` and its media type."""
    return metrics.exposed(_Collector(meters))


class _Collector:
    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    def collect(self) -> "Iterator[Metric]":
        yield from self._workers()
        yield from self._devices()
        yield from self._models()
        yield from self._process()

    def _workers(self) -> "Iterator[Metric]":
        workers = self._meters.workers.values()
        counts = Counter(worker.state for worker in workers)
        states = {(state.value,): float(counts[state]) for state in Observed}
        yield _gauge("workers", "Workers by state.", ("state",), states)
        restarts = {(worker.id, worker.model): float(worker.restarts) for worker in workers}
        yield _counter("worker_restarts", "Starts after an end.", ("worker", "model"), restarts)
        exits = {(reason,): float(count) for reason, count in self._meters.exits.items()}
        yield _counter("worker_exits", "Ends of workers by reason.", ("reason",), exits)

    def _devices(self) -> "Iterator[Metric]":
        devices = self._meters.devices.values()
        memory = {(device.id, kind): float(getattr(device, kind)) for device in devices for kind in MEMORY_KINDS}
        yield _gauge("device_memory_bytes", "Memory of a device.", ("device", "kind"), memory)
        healthy = {(device.id,): float(device.healthy) for device in devices}
        yield _gauge("device_healthy", "Whether a device takes workers.", ("device",), healthy)
        for figure, attribute in _READINGS.items():
            found = {(device.id,): reading(device.attributes.get(attribute, "")) for device in devices}
            known = {labels: value for labels, value in found.items() if value is not None}
            yield _gauge(f"device_{figure}", f"The {attribute} of a device.", ("device",), known)

    def _models(self) -> "Iterator[Metric]":
        models, fetches = self._meters.models, self._meters.fetches
        sizes = {(name,): float(model.size) for name, model in models.items()}
        yield _gauge("model_bytes", "Size of a model on disk.", ("model",), sizes)
        yield _gauge("model_store_bytes", "Size of all models on disk.", (), {(): sum(sizes.values())})
        yield _gauge("model_store_free_bytes", "Free bytes of the models' disk.", (), self._free())
        states = {(name, state.value): float(f.state is state) for name, f in fetches.items() for state in FetchState}
        yield _gauge("fetch_state", "1 for the state that a fetch is in.", ("model", "state"), states)
        yield _counter("fetch_bytes", "Bytes of models that were fetched.", (), {(): float(self._meters.fetched)})

    def _free(self) -> Values:
        try:
            return {(): float(self._meters.free())}
        except RbeeError:
            # There is no models folder yet, or its disk is away: no figure is better than a wrong one.
            return {}

    def _process(self) -> "Iterator[Metric]":
        meters = self._meters
        labels = {(__version__, meters.name): 1.0}
        yield _gauge("info", "Version and name of this hive.", ("version", "hive"), labels)
        failures = {(): float(meters.heartbeat_failures)}
        yield _counter("heartbeat_failures", "Heartbeats that the queen did not take.", (), failures)
        yield _gauge("loop_lag_seconds", "How late the event loop was last time.", (), {(): meters.loop_lag})
        yield _gauge("tick_seconds", "How long the last look at all workers took.", (), {(): meters.tick_seconds})
        events = {(kind,): float(count) for kind, count in meters.events.items()}
        yield _counter("events", "Events by kind.", ("kind",), events)


def reading(text: str) -> float | None:
    """Return the number at the start of an attribute such as `43`, `43.5 W`; None for anything else."""
    try:
        return float(text.split(maxsplit=1)[0])
    except (ValueError, IndexError):
        return None


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Values) -> "Metric":
    return metrics.gauge(f"rbee_hive_{name}", text, labels, values)


def _counter(name: str, text: str, labels: tuple[str, ...], values: Values) -> "Metric":
    return metrics.counter(f"rbee_hive_{name}", text, labels, values)
