"""Who makes room for another model, as pure cases."""

import pytest

from rbee_runtime.queen.eviction import LARGEST, POOL, Candidate, choose

Row = tuple[str, int, float, float]


def those(*rows: Row) -> list[Candidate]:
    """Return candidates of models of their own, from id, bytes on card g, seconds idle and of a reload."""
    return [Candidate(worker, worker, {"g": size}, idle, reload) for worker, size, idle, reload in rows]


def chosen(short: dict[str, int], candidates: list[Candidate], **spare: int) -> list[str] | None:
    found = choose(short, candidates, {each.model: 1 for each in candidates} | spare)
    return None if found is None else sorted(each.worker for each in found)


@pytest.mark.parametrize(
    ("rows", "short", "goes"),
    [
        ([("a", 4, 1, 1), ("b", 4, 9, 1)], 4, ["b"]),
        ([("a", 4, 1, 1), ("b", 4, 1, 9)], 4, ["a"]),
        ([("a", 4, 1, 1), ("b", 4, 1, 1)], 4, ["a"]),
        ([("a", 2, 900, 1), ("b", 2, 900, 1), ("c", 4, 1, 1)], 4, ["c"]),
        ([("a", 3, 1, 1), ("b", 1, 1, 1), ("c", 1, 9, 1)], 4, ["a", "c"]),
        ([("a", 2, 1, 1), ("b", 1, 1, 1)], 4, None),
        ([], 1, None),
    ],
    ids=["idle longest", "cheaper to reload", "first by name", "fewest", "the smaller need", "not enough", "nobody"],
)
def test_the_smallest_set_of_least_worth_goes(rows: list[Row], short: int, goes: list[str] | None) -> None:
    """Size of the set first, then bytes that help by idle seconds by seconds of a reload."""
    assert chosen({"g": short}, those(*rows)) == goes


def test_every_device_gets_what_it_lacks() -> None:
    """A worker on two cards goes before one on each."""
    both = Candidate("both", "both", {"g0": 4, "g1": 4})
    one = Candidate("one", "one", {"g0": 8}, idle=900.0)
    other = Candidate("other", "other", {"g1": 8}, idle=900.0)
    assert chosen({"g0": 4, "g1": 4}, [one, other, both]) == ["both"]


def test_no_model_goes_below_its_minimum() -> None:
    """Two workers of a model that can do without one never go together."""
    pair = [Candidate(worker, "m", {"g": 2}) for worker in ("m-1", "m-2")]
    assert chosen({"g": 4}, pair) is None
    assert chosen({"g": 4}, pair, m=2) == ["m-1", "m-2"]


def test_who_was_asked_already_goes_first() -> None:
    """A choice that flips while busy workers empty themselves would empty them all."""
    asked = Candidate("a", "a", {"g": 4}, preferred=True)
    assert chosen({"g": 4}, [asked, *those(("b", 4, 900, 1))]) == ["a"]


def test_many_small_ones_are_put_together() -> None:
    """Beyond the sizes that are tried out, those of most worth go, and nobody in vain."""
    rows: list[Row] = [(f"w{index:02}", 1, float(index), 1.0) for index in range(POOL + 8)]
    found = chosen({"g": LARGEST + 3}, those(*rows))
    assert found == [f"w{index:02}" for index in range(POOL + 8 - LARGEST - 3, POOL + 8)]
