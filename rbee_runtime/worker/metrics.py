"""Figures of one worker and their Prometheus text; the same names whatever its engine."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from rbee_runtime.worker.engines import Gauges, Usage

if TYPE_CHECKING:
    from prometheus_client.core import Metric

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds of the buckets: an H100 needs 5 ms for a token, a queue in front of a laptop minutes for the first."""


@dataclass
class Durations:
    """How often something took how long, in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return Prometheus' cumulative buckets."""
        bounds = [*(f"{bound:g}" for bound in SECONDS), "+Inf"]
        return [(bound, float(count)) for bound, count in zip(bounds, accumulate(self.counts), strict=True)]


@dataclass
class Metrics:
    """What happened since the start; only the event loop writes."""

    requests: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first: Durations = field(default_factory=Durations)
    between: Durations = field(default_factory=Durations)
    whole: Durations = field(default_factory=Durations)

    def watch(self, clock: Callable[[], float]) -> "Watch":
        """Begin to time one answer."""
        return Watch(self, clock)

    def finished(self, outcome: str) -> None:
        """Count one request by how it ended."""
        self.requests[outcome] += 1

    def used(self, usage: Usage) -> None:
        """Count the tokens of one answer."""
        self.prompt_tokens += usage.prompt
        self.cached_tokens += usage.cached
        self.completion_tokens += usage.completion

    def exposed(self, gauges: Gauges, *, in_flight: int, slots: int, ready: bool) -> tuple[bytes, str]:
        """Return the text of `/metrics` and its media type."""
        # Most workers are never asked; the library brings an HTTP server of its own.
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 - see above
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest  # noqa: PLC0415 - see above

        levels = {
            ("in_flight", "Requests being answered or waiting for a slot."): in_flight,
            ("slots", "Answers at a time."): slots,
            ("slots_busy", "Answers being produced, prompts being computed included."): gauges.busy,
            ("queue", "Answers that wait for a slot."): gauges.waiting,
            ("kv_tokens", "Tokens whose state is kept, for answers that run or for prompts to come."): gauges.held,
            ("kv_tokens_limit", "Tokens whose state can be kept."): gauges.cells,
            ("ready", "1 when it takes traffic."): int(ready),
        }
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self, levels))
        return generate_latest(registry), CONTENT_TYPE_LATEST


class Watch:
    """How long one answer lets wait: for its first piece, between pieces, and in all."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._metrics = metrics
        self._begun = self._last = clock()
        self._taken = metrics.first

    def piece(self) -> None:
        """Note that a piece has come."""
        now = self._clock()
        self._taken.add(now - self._last)
        self._last, self._taken = now, self._metrics.between

    def over(self) -> None:
        """Note its end, whatever that is."""
        self._metrics.whole.add(self._clock() - self._begun)


class _Collector:
    def __init__(self, metrics: Metrics, levels: dict[tuple[str, str], int]) -> None:
        self._metrics = metrics
        self._levels = levels

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.core import (  # noqa: PLC0415 - see `exposed`
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        for (name, text), level in self._levels.items():
            yield GaugeMetricFamily(f"rbee_worker_{name}", text, value=float(level))
        metrics = self._metrics
        for name, text, count in (
            ("prompt_tokens", "Tokens of prompts.", metrics.prompt_tokens),
            ("cached_prompt_tokens", "Tokens of prompts not computed again.", metrics.cached_tokens),
            ("completion_tokens", "Tokens of answers.", metrics.completion_tokens),
        ):
            yield CounterMetricFamily(f"rbee_worker_{name}", text, value=float(count))
        ends: Any = CounterMetricFamily("rbee_worker_requests", "Requests by how they ended.", labels=("outcome",))
        for outcome, count in sorted(metrics.requests.items()):
            ends.add_metric([outcome], float(count))
        yield ends
        for name, text, taken in (
            ("time_to_first_token_seconds", "From the request to the first piece of its answer.", metrics.first),
            ("inter_token_seconds", "Between two pieces of an answer.", metrics.between),
            ("request_seconds", "From the request to the end of its answer.", metrics.whole),
        ):
            yield HistogramMetricFamily(f"rbee_worker_{name}", text, buckets=taken.buckets(), sum_value=taken.total)
