"""Figures in Prometheus' text form, and how long things took; the same for queen, hive and worker."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds of the buckets: an H100 needs 5 ms for a token, a queue in front of a laptop minutes for the first."""

Values = Mapping[Any, float]
"""Label values → figure."""


@dataclass
class Durations:
    """How often something took how long, in seconds; `bounds` are the upper ones of its buckets."""

    bounds: tuple[float, ...] = SECONDS
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return Prometheus' cumulative buckets."""
        bounds = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        return [(bound, float(count)) for bound, count in zip(bounds, accumulate(self.counts), strict=True)]


def exposed(collector: "Collector") -> tuple[bytes, str]:
    """Return the text of `/metrics` and its media type."""
    # Most processes are never asked; the library brings an HTTP server of its own.
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - see above
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest  # noqa: PLC0415 - see above

    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry), CONTENT_TYPE_LATEST


def gauge(name: str, text: str, labels: tuple[str, ...], values: Values) -> "Metric":
    """Return what may rise and fall."""
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 - see `exposed`

    return _filled(GaugeMetricFamily(name, text, labels=labels), values)


def counter(name: str, text: str, labels: tuple[str, ...], values: Values) -> "Metric":
    """Return what only rises; the library adds `_total` to its name."""
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415 - see `exposed`

    return _filled(CounterMetricFamily(name, text, labels=labels), values)


def histogram(name: str, text: str, labels: tuple[str, ...], taken: Iterable[tuple[Any, Durations]]) -> "Metric":
    """Return how long things took, by label values."""
    from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415 - see `exposed`

    family: Any = HistogramMetricFamily(name, text, labels=labels)
    for values, durations in taken:
        family.add_metric(list(values), durations.buckets(), durations.total)
    filled: Metric = family
    return filled


def _filled(family: Any, values: Values) -> "Metric":
    for labels, value in values.items():
        family.add_metric(list(labels), value)
    filled: Metric = family
    return filled
