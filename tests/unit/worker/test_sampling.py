"""What C holds for an answer is freed once, whoever is last to need it."""

import threading
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from rbee_runtime.errors import RequestError
from rbee_runtime.worker.engines import Sampling
from rbee_runtime.worker.engines.llamacpp import sampling
from rbee_runtime.worker.engines.llamacpp.aside import Aside
from rbee_runtime.worker.engines.llamacpp.sampling import MOST_STUCK, Sampler

SECONDS = 10.0


class Library:
    """Of llama.cpp as much as makes a sampler; a grammar takes until `read` is set to be read."""

    def __init__(self) -> None:
        self.read = threading.Event()
        self.freed: Counter[str] = Counter()
        self.grammar: str | None = "grammar"

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: SimpleNamespace()

    def llama_vocab_n_tokens(self, _: Any) -> int:
        return 4

    def llama_sampler_chain_init(self, _: Any) -> str:
        return "chain"

    def llama_sampler_init_grammar(self, *_: Any) -> str | None:
        assert self.read.wait(SECONDS)
        return self.grammar

    def llama_sampler_free(self, what: str) -> None:
        self.freed[what] += 1


def made(library: Library, aside: Aside) -> Sampler:
    """Return a sampler with a grammar."""
    return Sampler(library, None, Sampling(temperature=0, grammar="root"), aside=aside, prompt=[1], choice=0)  # type: ignore[arg-type]


def freed(library: Library, count: int) -> Counter[str]:
    """Return what was freed, once it is so much."""
    deadline = time.monotonic() + SECONDS
    while library.freed.total() < count and time.monotonic() < deadline:
        time.sleep(0.001)
    return library.freed


def test_what_is_held_for_an_answer_is_freed_with_it() -> None:
    """At once, if nothing reads it."""
    library = Library()
    library.read.set()
    made(library, Aside(3)).close()
    assert library.freed == {"chain": 1, "grammar": 1}


def test_what_is_still_read_is_freed_after_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before, and once."""
    monkeypatch.setattr(sampling, "READ_SECONDS", 0.01)
    library = Library()
    made(library, Aside(3)).close()
    assert not library.freed
    library.read.set()
    assert freed(library, 2) == {"chain": 1, "grammar": 1}


def test_no_grammar_is_taken_while_too_many_have_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that those which are asked have a thread; once they have ended, others are."""
    monkeypatch.setattr(sampling, "READ_SECONDS", 0.01)
    library, aside = Library(), Aside(MOST_STUCK + 1)
    for _ in range(MOST_STUCK):
        made(library, aside).close()
    with pytest.raises(RequestError, match="begins anew soon") as refusal:
        made(library, aside)
    assert (refusal.value.status, refusal.value.code) == (429, "grammars_stuck")
    library.read.set()
    freed(library, 2 * MOST_STUCK)
    made(library, aside).close()
    assert library.freed == {"chain": MOST_STUCK + 1, "grammar": MOST_STUCK + 1}


def test_a_grammar_whose_turn_never_came_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else is held for its answer is freed all the same."""
    monkeypatch.setattr(sampling, "READ_SECONDS", 0.01)
    library, aside = Library(), Aside(1)
    running, waiting = made(library, aside), made(library, aside)
    waiting.close()
    library.read.set()
    assert freed(library, 1) == {"chain": 1}
    running.close()
    assert freed(library, 3) == {"chain": 2, "grammar": 1}


@pytest.mark.parametrize("late", [False, True])
def test_a_grammar_that_is_none_leaves_nothing(monkeypatch: pytest.MonkeyPatch, *, late: bool) -> None:
    """Its client is told at once, or when it has been read."""
    monkeypatch.setattr(sampling, "READ_SECONDS", 0.01 if late else SECONDS)
    library = Library()
    library.grammar = None
    if not late:
        library.read.set()
        with pytest.raises(RequestError, match="the grammar cannot be read"):
            made(library, Aside(3))
        assert not library.freed
        return
    sampler = made(library, Aside(3))
    sampler.demand_an_end()
    library.read.set()
    with pytest.raises(RequestError, match="the grammar cannot be read"):
        _until_it_raises(sampler)
    sampler.close()
    assert library.freed == {"chain": 1}


def _until_it_raises(sampler: Sampler) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        sampler.demand_an_end()
        time.sleep(0.001)
