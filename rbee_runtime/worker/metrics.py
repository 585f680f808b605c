"""Counters of one worker and their Prometheus text."""

from collections import Counter
from dataclasses import dataclass, field

from rbee_runtime.worker.engines import Usage


@dataclass
class Metrics:
    """What happened since the start; only the event loop writes."""

    requests: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def finished(self, outcome: str) -> None:
        """Count one request by how it ended."""
        self.requests[outcome] += 1

    def used(self, usage: Usage) -> None:
        """Count the tokens of one answer."""
        self.prompt_tokens += usage.prompt
        self.cached_tokens += usage.cached
        self.completion_tokens += usage.completion

    def render(self, *, in_flight: int, slots: int, ready: bool) -> str:
        """Return the Prometheus text format."""
        rows = [
            _row("in_flight", "gauge", "Requests being answered or waiting for a slot.", in_flight),
            _row("slots", "gauge", "Answers at a time.", slots),
            _row("ready", "gauge", "1 when it takes traffic.", int(ready)),
            _row("prompt_tokens_total", "counter", "Tokens of prompts.", self.prompt_tokens),
            _row("cached_prompt_tokens_total", "counter", "Tokens of prompts not computed again.", self.cached_tokens),
            _row("completion_tokens_total", "counter", "Tokens of answers.", self.completion_tokens),
            _head("requests_total", "counter", "Requests by how they ended."),
        ]
        rows += [f'rbee_worker_requests_total{{outcome="{name}"}} {n}\n' for name, n in sorted(self.requests.items())]
        return "".join(rows)


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP rbee_worker_{name} {text}\n# TYPE rbee_worker_{name} {kind}\n"


def _row(name: str, kind: str, text: str, value: int) -> str:
    return f"{_head(name, kind, text)}rbee_worker_{name} {value}\n"
