"""What a queen counts of requests: a few additions for each, and text for Prometheus only when somebody asks.

There are as many series as the inventory has models: whatever else clients ask for is `other`, and the further names of
a model are the model.
"""

from collections.abc import Iterator
from typing import Final

from rbee_runtime.gateway.exchange import Outcome
from rbee_runtime.metrics import Durations
from rbee_runtime.queen.fleet import FleetSource

OTHER: Final = "other"
"""The label of a model that the inventory does not know; that of a request that named none is empty."""

MOST_ROWS = 5000
"""Of model, route and status: a year of changed inventories comes to fewer. Beyond, models are `other`."""

DONE: Final = "done"
"""Why a stream ended that has all its events."""


class OfModel:
    """What is counted of one model."""

    __slots__ = ("answer_tokens", "continued", "ends", "first", "prompt_tokens", "retries", "seconds", "waits")

    def __init__(self) -> None:
        self.prompt_tokens = self.answer_tokens = self.retries = self.continued = 0
        self.first, self.seconds, self.waits = Durations(), Durations(), Durations()
        self.ends: dict[str, int] = {}


class Row:
    """How many requests of one model and route had one status."""

    __slots__ = ("count", "of")

    def __init__(self, of: OfModel) -> None:
        self.count = 0
        self.of = of


class Figures:
    """The one counter of a queen's requests."""

    def __init__(self, fleet: FleetSource) -> None:
        self.models: dict[str, OfModel] = {}
        self.refusals: dict[str, int] = {}
        self._fleet = fleet
        self._names = fleet.names
        self._known: dict[tuple[str, str, int], Row] = {}
        self._rows: dict[tuple[str, str, int], Row] = {}

    def over(self, outcome: Outcome) -> None:
        """Count a request that was for a worker."""
        if self._names is not self._fleet.names:
            self._names = self._fleet.names
            self._known.clear()
        row = self._known.get((outcome.path, outcome.model, outcome.status)) or self._row(outcome)
        row.count += 1
        of = row.of
        if outcome.refused:
            self.refusals[outcome.code] = self.refusals.get(outcome.code, 0) + 1
        else:
            of.seconds.add(outcome.seconds)
            if outcome.sent:
                of.first.add(outcome.first)
            if outcome.stream:
                cause = outcome.code or DONE
                of.ends[cause] = of.ends.get(cause, 0) + 1
        if outcome.tokens is not None:
            of.prompt_tokens += outcome.tokens[0]
            of.answer_tokens += outcome.tokens[1]
        if outcome.attempts > 1:
            of.retries += outcome.attempts - 1
            of.continued += outcome.continued
        if outcome.waited:
            of.waits.add(outcome.waited)

    def asked(self, route: str, status: int) -> None:
        """Count a request that the queen answers herself."""
        self._at(route, "", status).count += 1

    def requests(self) -> Iterator[tuple[tuple[str, str, str], float]]:
        """Yield route, model and status of requests, and how many there were."""
        for (route, model, status), row in self._rows.items():
            yield (route, model, str(status) if status else "none"), float(row.count)

    def _row(self, outcome: Outcome) -> Row:
        name = self._fleet.resolve(outcome.model)
        known = not name or name in self._names
        row = self._at(outcome.path, name if known else OTHER, outcome.status)
        if known and len(self._known) < MOST_ROWS:
            self._known[outcome.path, outcome.model, outcome.status] = row
        return row

    def _at(self, route: str, model: str, status: int) -> Row:
        row = self._rows.get((route, model, status))
        if row is None:
            model = model if len(self._rows) < MOST_ROWS else OTHER
            of = self.models.setdefault(model, OfModel())
            row = self._rows.setdefault((route, model, status), Row(of))
        return row
