"""Sequences put out of the context: which are kept, which are found."""

import pytest

from rbee_runtime.worker.engines.llamacpp.shelf import Parked, Shelf


def parked(*tokens: int, size: int = 10, used: float = 1.0) -> Parked:
    return Parked(list(tokens), None, size, used)


def test_the_longest_common_beginning_is_found() -> None:
    """Of several the one that has most of the prompt."""
    shelf = Shelf(100)
    for each in (parked(1, 2), parked(1, 2, 3, 9), parked(5)):
        shelf.put(each)
    found, common = shelf.best([1, 2, 3, 4])
    assert (found is not None and found.tokens, common) == ([1, 2, 3, 9], 3)
    assert Shelf(100).best([1]) == (None, 0)


def test_the_one_unused_for_longest_goes_first() -> None:
    """A new sequence makes room at the expense of the oldest."""
    shelf = Shelf(30)
    for number, used in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 4.0)):
        shelf.put(parked(number, used=used))
    assert [shelf.best([number])[1] for number in (1, 2, 3, 4)] == [1, 0, 1, 1]
    assert shelf.size == 30


@pytest.mark.parametrize(("limit", "taken"), [(0, False), (9, False), (10, True)])
def test_what_is_larger_than_the_shelf_is_not_taken(limit: int, taken: bool) -> None:
    """It is asked before anything is copied."""
    assert Shelf(limit).takes(10) is taken


def test_a_longer_sequence_takes_the_place_of_its_beginning() -> None:
    """A conversation that goes on is there once."""
    shelf = Shelf(100)
    for each in (parked(1, 2), parked(1, 2, 3), parked(1, 4)):
        shelf.put(each)
    assert shelf.size == 20
    assert [shelf.has(tokens) for tokens in ([1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 4])] == [True, True, False, True]
