"""What a hive tells of the headers of models on its disk."""

from itertools import count
from pathlib import Path

import pytest

from rbee_runtime.hive.headers import Headers
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelFile, ModelReport, decode, encode

FACTS = {"layers": 2, "heads": 4, "kv_heads": [4, 4], "chat_template": "x" * 9000, "main": "f", "quantisation": "Q4"}


def report(digest: str) -> ModelReport:
    return ModelReport(name="m", size=1, files=(ModelFile(name="f", sha256=digest * 64, size=1),))


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    made = ModelStore(tmp_path)
    made.layout.prepare()
    return made


def test_facts_are_told_without_what_memory_does_not_follow_from(store: ModelStore) -> None:
    """A heartbeat comes every five seconds, so that a template has no place in it; it arrives as it was sent."""
    store.commit(report("a"), FACTS)
    (told,) = Headers(store).tell([report("a")])
    assert told.facts == {"layers": 2, "heads": 4, "kv_heads": [4, 4]}
    assert decode(encode(told), ModelReport) == told


def test_headers_are_read_once_for_each_content(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on disk is looked at every few seconds; other content under the same name is read anew."""
    numbers = count(1)
    monkeypatch.setattr(store, "facts", lambda _: {"layers": next(numbers)})
    headers = Headers(store)
    told = [headers.tell([each])[0].facts for each in (report("a"), report("a"), report("b"))]
    assert told == [{"layers": 1}, {"layers": 1}, {"layers": 2}]
