"""Models that operators want on a hive's disk although no worker of it needs them yet.

A pull is a model more in the hive's desired document, until the hive has it or the operator takes that back; the hive
fetches it as it fetches what its workers need, and keeps what came. They are in memory alone: who waits for one asks
again all the time, and a queen that starts anew goes on with it.
"""

from collections.abc import Collection, Iterable, Sequence

from rbee_runtime import logs
from rbee_runtime.config import FleetModel
from rbee_runtime.models.references import identity
from rbee_runtime.protocol import Desired, FetchReport, Heartbeat, ModelReport
from rbee_runtime.states import FetchState


class Pulls:
    """Which models are on their way to which hive because somebody asked for that."""

    def __init__(self) -> None:
        self._asked: dict[str, dict[str, None]] = {}
        self._changed: set[str] = set()

    def ask(self, hive: str, model: str) -> None:
        """Have a model fetched."""
        if model not in self.of(hive):
            logs.info("pull asked", hive=hive, model=model)
        self._asked.setdefault(hive, {})[model] = None
        self._changed.add(hive)

    def drop(self, hive: str, model: str) -> bool:
        """Take that back, and say whether it was asked for."""
        asked = self._asked.get(hive, {})
        known = model in asked
        asked.pop(model, None)
        self._changed.add(hive)
        return known

    def of(self, hive: str) -> Iterable[str]:
        """Return the models that a hive is to fetch."""
        return self._asked.get(hive, {}).keys()

    def of_models(self, models: Collection[str]) -> set[str]:
        """Return the hives that are to fetch one of these."""
        return {hive for hive, asked in self._asked.items() if not asked.keys().isdisjoint(models)}

    def take_changed(self) -> set[str]:
        """Return the hives that are to fetch something else than at the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def hear(self, report: Heartbeat, document: Desired) -> None:
        """Forget what a hive has that follows its document; before that it may have another version."""
        if (report.epoch, report.revision) != (document.epoch, document.revision):
            return
        for spec in document.models:
            if spec.name in self.of(report.hive) and is_there(spec.name, spec.source, report.models, report.fetches):
                logs.info("pull over", hive=report.hive, model=spec.name)
                self.drop(report.hive, spec.name)


def is_there(name: str, source: str, held: Sequence[ModelReport], fetches: Sequence[FetchReport]) -> bool:
    """Say whether a hive has a model whole and of this source."""
    comes = any(fetch.name == name and fetch.state is not FetchState.READY for fetch in fetches)
    whole = any(report.name == name and report.source in {"", identity(source)} for report in held)
    return whole and not comes


def has_files(model: FleetModel) -> bool:
    """Say whether there is anything to fetch: the built-in engine for trials needs nothing."""
    return not model.source.startswith("fake:")
