"""Figures of one worker and their Prometheus text; the same names whatever its engine."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rbee_runtime import metrics
from rbee_runtime.metrics import Durations
from rbee_runtime.worker.engines import Gauges, Usage

if TYPE_CHECKING:
    from prometheus_client.core import Metric


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
        levels = {
            ("in_flight", "Requests being answered or waiting for a slot."): in_flight,
            ("slots", "Answers at a time."): slots,
            ("slots_busy", "Answers being produced, prompts being computed included."): gauges.busy,
            ("queue", "Answers that wait for a slot."): gauges.waiting,
            ("kv_tokens", "Tokens whose state is kept, for answers that run or for prompts to come."): gauges.held,
            ("kv_tokens_limit", "Tokens whose state can be kept."): gauges.cells,
            ("ready", "1 when it takes traffic."): int(ready),
        }
        return metrics.exposed(_Collector(self, levels))


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
        for (name, text), level in self._levels.items():
            yield metrics.gauge(f"rbee_worker_{name}", text, (), {(): float(level)})
        mine = self._metrics
        for name, text, count in (
            ("prompt_tokens", "Tokens of prompts.", mine.prompt_tokens),
            ("cached_prompt_tokens", "Tokens of prompts not computed again.", mine.cached_tokens),
            ("completion_tokens", "Tokens of answers.", mine.completion_tokens),
        ):
            yield metrics.counter(f"rbee_worker_{name}", text, (), {(): float(count)})
        ends = {(outcome,): float(count) for outcome, count in sorted(mine.requests.items())}
        yield metrics.counter("rbee_worker_requests", "Requests by how they ended.", ("outcome",), ends)
        for name, text, taken in (
            ("time_to_first_token_seconds", "From the request to the first piece of its answer.", mine.first),
            ("inter_token_seconds", "Between two pieces of an answer.", mine.between),
            ("request_seconds", "From the request to the end of its answer.", mine.whole),
        ):
            yield metrics.histogram(f"rbee_worker_{name}", text, (), [((), taken)])
