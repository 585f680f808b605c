"""Whose turn it is in a line, and who has to leave it when it is full."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_runtime.queen.fairness import WEIGHTS, FairLine, Turn
from rbee_runtime.queen.records import Priority

HIGH, N, LOW = Priority


def line(*turns: Turn) -> FairLine[Turn]:
    made: FairLine[Turn] = FairLine()
    for turn in turns:
        made.add(turn)
    return made


def several(number: int, key: str, priority: Priority = N, cost: int = 1) -> list[Turn]:
    return [Turn(key, priority, cost) for _ in range(number)]


def served(waiting: FairLine[Turn], number: int = 10**6) -> list[Turn]:
    """Serve so many in their order."""
    order: list[Turn] = []
    while len(order) < number and (turn := waiting.first()) is not None:
        waiting.serve(turn)
        order.append(turn)
    return order


def keys(turns: list[Turn]) -> str:
    return "".join(turn.key for turn in turns)


def none(_: str) -> int:
    return 0


def test_keys_take_turns_whoever_asked_first() -> None:
    """A key with a hundred requests in line does not keep one with two waiting."""
    assert keys(served(line(*several(100, "a"), *several(2, "b"), *several(1, "c")), 6)) == "abcaba"


def test_turns_are_counted_in_tokens() -> None:
    """A key whose requests are ten times as long has one where another has ten."""
    order = served(line(*several(50, "a", cost=1000), *several(50, "b", cost=100)), 44)
    assert Counter(keys(order)) == {"a": 4, "b": 40}


def test_requests_of_one_key_keep_their_order() -> None:
    """Within a key it is first come first served."""
    mine = several(5, "a")
    assert served(line(*mine)) == mine


def test_who_was_away_saved_nothing_up() -> None:
    """A key that comes after others had many turns shares the next ones, and does not get all it missed."""
    waiting = line(*several(100, "a"))
    served(waiting, 50)
    for turn in several(10, "b"):
        waiting.add(turn)
    assert Counter(keys(served(waiting, 10))) == {"a": 5, "b": 5}


def test_coming_one_by_one_is_no_advantage() -> None:
    """A key that asks again only after each answer has its share and no more, though it is often out of the line."""
    waiting = line(*several(50, "a"), *several(50, "b"), *several(50, "c"))
    waiting.add(Turn("x", N, 1))
    order = []
    for _ in range(40):
        (turn,) = served(waiting, 1)
        order.append(turn)
        if turn.key == "x":
            waiting.add(Turn("x", N, 1))
    assert all(9 <= count <= 11 for count in Counter(keys(order)).values())


def test_classes_share_by_weight_and_none_starves() -> None:
    """Out of 21 turns 16 are interactive, 4 normal and 1 batch, whatever the number of keys in each."""
    turns = [*several(99, "b", LOW), *several(99, "c", LOW), *several(99, "n", N), *several(99, "i", HIGH)]
    order = served(line(*turns), 63)
    assert Counter(turn.priority for turn in order) == {HIGH: 48, N: 12, LOW: 3}
    assert order[0].priority is HIGH


def test_a_class_alone_has_everything() -> None:
    """No turn is kept for those who do not ask."""
    assert len(served(line(*several(9, "b", LOW)))) == 9


def test_who_is_in_front_costs_its_key_nothing() -> None:
    """Another try goes first, is counted once, and can leave as well."""
    waiting = line(*several(2, "a"))
    again, gone = Turn("b", N, 50), Turn("b", N, 50)
    waiting.add_in_front(again)
    waiting.add_in_front(gone)
    waiting.remove(gone)
    assert (list(waiting.front), len(waiting)) == ([again], 3)
    waiting.serve(again)
    waiting.add(Turn("b", N, 1))
    assert keys(served(waiting)) == "aba"


def test_leaving_twice_is_leaving_once() -> None:
    """Who is out of the line already changes nothing."""
    waiting = line(*(turns := several(2, "a")))
    for _ in range(2):
        waiting.remove(turns[0])
    assert (len(waiting), list(waiting)) == (1, [turns[1]])


@pytest.mark.parametrize(
    ("turns", "newcomer", "held", "gone"),
    [
        (several(8, "a"), Turn("b", N, 1), {}, "a"),
        (several(8, "a"), Turn("a", N, 1), {}, None),
        ([*several(4, "a"), *several(4, "b")], Turn("b", N, 1), {}, None),
        ([*several(5, "a"), *several(3, "b")], Turn("b", N, 1), {}, "a"),
        ([*several(4, "a"), *several(3, "b")], Turn("b", N, 1), {}, None),
        ([*several(4, "a"), *several(4, "b")], Turn("b", N, 1), {"a": 4}, "a"),
        ([*several(4, "a"), *several(4, "b")], Turn("c", N, 1), {"c": 8}, None),
        (several(8, "a", LOW), Turn("i", HIGH, 1), {}, "a"),
        ([*several(1, "a", LOW), *several(31, "i", HIGH)], Turn("i", HIGH, 1), {}, None),
        ([*several(1, "a", LOW), *several(31, "i", HIGH)], Turn("j", HIGH, 1), {}, "i"),
        ([*several(1, "a", LOW), *several(31, "i", HIGH)], Turn("a", LOW, 1), {}, None),
        (several(32, "i", HIGH), Turn("a", LOW, 1), {}, "i"),
        ([*several(2, "a", LOW), *several(30, "i", HIGH)], Turn("c", LOW, 1), {}, "a"),
    ],
)
def test_a_full_line_has_room_for_who_has_less(
    turns: list[Turn], newcomer: Turn, held: dict[str, int], gone: str | None
) -> None:
    """The last one of the key with most goes, unless the newcomer would be that; slots count, classes by weight."""
    found = line(*turns).surplus(newcomer, lambda key: held.get(key, 0))
    assert (found.key if found is not None else None) == gone
    assert found is None or found is [turn for turn in turns if turn.key == gone][-1]


TURNS = st.builds(Turn, st.sampled_from("abcde"), st.sampled_from(Priority), st.integers(1, 100))


@settings(deadline=None)
@given(st.lists(TURNS, min_size=1, max_size=60), st.data())
def test_everyone_is_served_or_leaves_once(turns: list[Turn], data: st.DataObject) -> None:
    """Whatever comes and goes, nobody is lost or served twice, and the length is right."""
    owner = {key: data.draw(st.sampled_from(Priority)) for key in "abcde"}
    turns = [Turn(turn.key, owner[turn.key], turn.cost) for turn in turns]
    waiting = line(*turns)
    leaving = data.draw(st.lists(st.sampled_from(turns), unique_by=id))
    for turn in leaving:
        waiting.remove(turn)
    assert len(waiting) == len(turns) - len(leaving) == len(list(waiting))
    order = served(waiting)
    assert sorted(map(id, [*order, *leaving])) == sorted(map(id, turns))
    assert (len(waiting), waiting.first()) == (0, None)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 50), min_size=200, max_size=200))
def test_no_key_is_behind_by_more_than_a_request(costs: list[int]) -> None:
    """While all of them wait, what keys of a class have had differs by no more than the largest request."""
    turns = [Turn("abcd"[index % 4], N, cost) for index, cost in enumerate(costs)]
    waiting, had = line(*turns), Counter[str]()
    for turn in served(waiting, 50):
        had[turn.key] += turn.cost
        assert max(had.values()) - min(had[key] for key in "abcd") <= 50


def test_every_class_has_a_weight() -> None:
    """A class without one would never have a turn."""
    assert WEIGHTS.keys() == set(Priority)
    assert min(WEIGHTS.values()) > 0
