"""Models are fetched before their hive wants them: all that can come does, and what is there already stays."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError
from rbee_runtime.hive import ahead
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.sources import Listing, TransientError
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelSpec
from tests.unit.hive.fetch_case import Source
from tests.unit.models.pulling import uninspected


class Flaky(Source):
    """Fails so many times before it lists its file."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)
        self.go_on.set()

    async def list(self) -> Listing:
        self.opened += 1
        if self.errors:
            raise self.errors.pop(0)
        return await super().list()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """Give an empty store."""
    return ModelStore(tmp_path, StoreSettings(spare=0), holder="fleet-gpu1-ahead")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next try come at once."""
    monkeypatch.setattr(ahead, "FIRST_DELAY", 0.0)


def fetched(store: ModelStore, sources: Mapping[str, Source]) -> list[str]:
    """Fetch one model from each source, by name; returns the sentences."""
    specs = [ModelSpec(name=name, source=f"https://models.example/{name}/m.gguf") for name in sources]
    puller = Puller(
        store,
        opener=lambda reference, *_: next(source for name, source in sources.items() if f"/{name}/" in str(reference)),
        inspect=uninspected,
    )
    return asyncio.run(ahead.fetch(store, puller, specs))


def test_what_can_come_comes_and_the_rest_is_told(store: ModelStore) -> None:
    """A model whose source says no is one sentence; the models before and after it are there."""
    sources = {"a": Flaky(), "b": Flaky(ModelStoreError("there is no such file")), "c": Flaky()}
    said = fetched(store, sources)
    assert said == ["cannot be fetched ahead: model b: there is no such file"]
    assert sorted(report.name for report in store.reports()) == ["a", "c"]


def away(times: int) -> list[Exception]:
    """Return trouble that passes, so many times."""
    return [TransientError("away") for _ in range(times)]


def test_a_dropped_connection_is_tried_again(store: ModelStore) -> None:
    """Trouble that passes costs a wait; a source that stays away is given up after so many tries."""
    source, gone = Flaky(*away(ahead.TRIES - 1)), Flaky(*away(ahead.TRIES))
    assert fetched(store, {"a": source, "b": gone}) == ["cannot be fetched ahead: model b: away"]
    assert (source.opened, gone.opened) == (ahead.TRIES + 1, ahead.TRIES)


def test_what_came_is_held_until_its_hive_wants_it(store: ModelStore, tmp_path: Path) -> None:
    """Another process on the store sees that the model is in use, and that nothing is being pulled any more."""
    fetched(store, {"a": Flaky()})
    other = ModelStore(tmp_path, StoreSettings(spare=0), holder="fleet-gpu1")
    assert other.leases.others().keys() == {"a"}
    assert other.leases.blobs() == frozenset()
