"""Adds to what is on disk the facts of each model that memory follows from, so that the queen can place it."""

from collections.abc import Iterable
from typing import Any

import msgspec

from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelFile, ModelReport

_NOT_TOLD = frozenset({"chat_template", "main", "quantisation"})
"""Long, or of no use for memory."""


class Headers:
    """Remembers what was read, by content: what is on disk is looked at every few seconds."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._known: dict[tuple[str, tuple[ModelFile, ...]], dict[str, Any]] = {}

    def tell(self, reports: Iterable[ModelReport]) -> tuple[ModelReport, ...]:
        """Return the reports with their facts."""
        found = tuple(msgspec.structs.replace(report, facts=self._facts(report)) for report in reports)
        self._known = {(report.name, report.files): report.facts for report in found if report.facts}
        return found

    def _facts(self, report: ModelReport) -> dict[str, Any]:
        known = self._known.get((report.name, report.files))
        if known is not None:
            return known
        return {name: value for name, value in self._store.facts(report.name).items() if name not in _NOT_TOLD}
