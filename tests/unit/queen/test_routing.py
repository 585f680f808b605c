"""Which worker takes a request: by what each has to do, what each has cached, and how each has answered."""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from rbee_runtime.gateway.seam import Ask
from rbee_runtime.queen.ejection import OPEN_SECONDS, Breaker
from rbee_runtime.queen.routing import Roster
from rbee_runtime.queen.seats import Seat
from tests.unit.queen.states import Clock

FIRST, SECOND = b"a" * 2000, b"b" * 2000


def seat(worker: str, **fields: object) -> Seat:
    values: dict[str, object] = {"model": "m", "url": f"http://{worker}", "slots": 8, "usable": True, **fields}
    return Seat(worker, **values)  # type: ignore[arg-type]


def roster(*seats: Seat) -> tuple[Roster, Clock]:
    clock = Clock()
    made = Roster(clock)
    made.show(seats)
    return made, clock


def ask(opening: bytes = b"", **fields: object) -> Ask:
    return Ask("k", "m", opening=opening, **fields)  # type: ignore[arg-type]


def chosen(to: Roster, asked: Ask | None = None) -> str:
    found = to.choose(asked or ask())
    return found.worker if isinstance(found, Seat) else found.name


def fail(to: Roster, worker: str, times: int = 3) -> None:
    for _ in range(times):
        to.settle(worker, answered=False)


@pytest.mark.parametrize(
    ("loads", "best"),
    [
        ({"a": [500], "b": [100, 100, 100]}, "b"),
        ({"a": [100_000], "b": [10] * 7}, "b"),
        ({"a": [10], "b": [10] * 8}, "a"),
        ({"a": [100_000], "b": [10] * 8}, "a"),
        ({"a": [10] * 8, "b": [10] * 8}, "BUSY"),
    ],
    ids=["tokens, not requests", "one long prompt", "fewer", "full is full", "all full"],
)
def test_the_one_with_the_fewest_tokens_to_do_is_next(loads: dict[str, list[int]], best: str) -> None:
    """Requests of different length weigh what they are; a worker without a slot takes none."""
    mine, _ = roster(seat("a"), seat("b"))
    for worker, requests in loads.items():
        for tokens in requests:
            mine.take(worker, tokens)
    assert chosen(mine) == best


def test_equals_take_turns_where_no_prompt_decides() -> None:
    """A short prompt goes to the worker that was used longest ago."""
    mine, _ = roster(seat("a"), seat("b"), seat("c"))
    order = []
    for _ in range(6):
        order.append(chosen(mine))
        mine.give(order[-1], 1, mine.take(order[-1], 1))
    assert order[:3] == order[3:]
    assert sorted(order[:3]) == ["a", "b", "c"]


def test_the_same_beginning_goes_to_the_same_worker_within_the_bound() -> None:
    """As long as it has no more than 5/4 of the mean to do."""
    mine, _ = roster(seat("a"), seat("b"))
    home = chosen(mine, ask(FIRST))
    other = "b" if home == "a" else "a"
    mine.take(home, 500, FIRST)
    mine.take(other, 300, SECOND)
    assert chosen(mine, ask(FIRST + b"more")) == home
    mine.take(home, 1)
    assert chosen(mine, ask(FIRST + b"more")) == other


def test_the_choice_is_the_same_after_a_restart_of_the_queen() -> None:
    """Among idle workers a prompt favours the same one, whatever was before and in which order they are known."""
    names = [f"w-{number}" for number in range(8)]
    one, _ = roster(*map(seat, names))
    two, _ = roster(*map(seat, reversed(names)))
    prompts = [bytes([65 + number]) * 300 for number in range(40)]
    first = [chosen(one, ask(prompt)) for prompt in prompts]
    assert first == [chosen(two, ask(prompt)) for prompt in prompts]
    assert len(set(first)) > 5


@pytest.mark.parametrize(
    "changes",
    [[{"usable": False}, {"usable": True}], [{"url": "http://elsewhere"}], [{"build": "2"}]],
    ids=["restarted", "moved", "upgraded"],
)
def test_another_process_has_nothing_cached_and_has_not_failed(changes: list[dict[str, object]]) -> None:
    """A worker that was not ready in between, is elsewhere or runs other code is no home, and no longer ejected."""
    mine, _ = roster(seat("a"), seat("b"))
    home = chosen(mine, ask(FIRST))
    other = "b" if home == "a" else "a"
    mine.give(other, 9, mine.take(other, 9, FIRST))
    assert chosen(mine, ask(FIRST)) == other
    fail(mine, other)
    for change in changes:
        mine.show([replace(seat(other), **change), seat(home)])  # type: ignore[arg-type]
    assert mine.health(other).state is Breaker.CLOSED
    assert chosen(mine, ask(FIRST)) == home


@pytest.mark.parametrize(
    ("contexts", "floor", "size", "found"),
    [
        ({"a": 100, "b": 1000}, 500, 0, "b"),
        ({"a": 100, "b": 0}, 500, 0, "b"),
        ({"a": 100, "b": 1000}, 5000, 0, "UNFIT"),
        ({"a": 100, "b": 1000}, 0, 400 * 4, "b"),
        ({"a": 100, "b": 1000}, 0, 4000 * 4, "a"),
        ({"a": 100, "b": 1000}, 0, 10 * 4, "a"),
    ],
    ids=["sure", "not known", "nowhere", "likely", "likely nowhere", "anywhere"],
)
def test_a_prompt_goes_where_it_fits(contexts: dict[str, int], floor: int, size: int, found: str) -> None:
    """What is sure not to fit is kept away; what is likely not to goes elsewhere if it can."""
    mine, _ = roster(*(seat(worker, context=context) for worker, context in contexts.items()))
    mine.take("b", 10)
    assert chosen(mine, ask(floor=floor, size=size)) == found


def test_what_fits_only_a_full_worker_waits_for_it() -> None:
    """A prompt that may fit is never refused."""
    mine, _ = roster(seat("a", context=100), seat("b", context=1000, slots=1))
    mine.take("b", 10)
    assert chosen(mine, ask(floor=500)) == "BUSY"
    mine.show([seat("a", context=100), seat("b", context=1000, slots=1, usable=False)])
    assert chosen(mine, ask(floor=500)) == "ABSENT"


def test_a_failing_worker_is_tried_by_exactly_one_request() -> None:
    """Once its time is over; the next ones go elsewhere until that is answered."""
    mine, clock = roster(seat("a"), seat("b"))
    fail(mine, "a")
    assert {chosen(mine) for _ in range(4)} == {"b"}
    clock.now += OPEN_SECONDS
    assert chosen(mine) == "a"
    lease = mine.take("a", 5)
    assert chosen(mine) == "b"
    mine.settle("a", answered=True, lease=lease)
    mine.give("a", 5, lease)
    mine.take("b", 5)
    assert (mine.health("a").state, chosen(mine)) == (Breaker.CLOSED, "a")


@pytest.mark.parametrize("verdict", [False, None], ids=["fails", "its client leaves"])
def test_a_trial_that_is_not_answered_changes_nothing_for_others(verdict: bool | None) -> None:
    """A failure is a longer rest; a client that left leaves the trial to the next request."""
    mine, clock = roster(seat("a"), seat("b"))
    fail(mine, "a")
    clock.now += OPEN_SECONDS
    assert chosen(mine) == "a"
    lease = mine.take("a")
    if verdict is not None:
        mine.settle("a", answered=verdict, lease=lease)
    mine.give("a", 1, lease)
    assert chosen(mine) == ("a" if verdict is None else "b")
    assert mine.health("a").state is (Breaker.HALF_OPEN if verdict is None else Breaker.OPEN)


@pytest.mark.parametrize(("workers", "out"), [("a", 0), ("ab", 1), ("abc", 1), ("abcd", 2), ("abcdefgh", 4)])
def test_when_all_fail_half_of_them_go_on(workers: str, out: int) -> None:
    """The last worker of a model and half of several always get requests, failing or not."""
    mine, _ = roster(*map(seat, workers))
    for worker in workers:
        fail(mine, worker, 9)
    assert sum(mine.health(worker).is_ejected for worker in workers) == out
    assert not mine.health(chosen(mine)).is_ejected


def test_one_comes_back_when_too_few_others_are_left() -> None:
    """Ejected beside a healthy one, it is the only one after that was drained."""
    mine, _ = roster(seat("a"), seat("b"))
    fail(mine, "a")
    mine.show([seat("a"), seat("b", usable=False)])
    assert (chosen(mine), mine.health("a").state) == ("a", Breaker.CLOSED)


@pytest.mark.parametrize(
    ("tried", "failing", "found"),
    [("a", "", "b"), ("b", "", "a"), ("ab", "", "OTHERS"), ("b", "a", "OTHERS"), ("a", "a", "b")],
)
def test_another_try_goes_to_another_worker_that_is_well(tried: str, failing: str, found: str) -> None:
    """Never where it failed, and never as somebody's trial."""
    mine, clock = roster(seat("a"), seat("b"))
    for worker in failing:
        fail(mine, worker)
    clock.now += OPEN_SECONDS
    assert chosen(mine, ask(FIRST, tried=frozenset(tried))) == found


def test_models_of_one_server_weigh_on_each_other() -> None:
    """What a server does for one of its models keeps it from requests for another."""
    mine, _ = roster(seat("x:m", pool="x", slots=2), seat("x:n", model="n", pool="x", slots=2), seat("own"))
    mine.take("own", 50)
    mine.take("x:n", 100)
    assert chosen(mine) == "own"
    mine.show([], ["x:n"])
    assert chosen(mine) == "x:m"


def counted(act: Callable[[], object]) -> int:
    """Return how many instructions something takes."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def requests(workers: int) -> int:
    """Return what fifty requests take, each with one that is in flight already."""
    mine, _ = roster(*(seat(f"w{number}") for number in range(workers)))

    def act() -> None:
        for number in range(50):
            opening = bytes([number]) * 600
            worker = chosen(mine, ask(opening))
            mine.give(worker, 5, mine.take(worker, 5, opening))
            mine.take(worker, 5, opening)

    return counted(act)


def changes(workers: int) -> int:
    """Return what it takes to show fifty workers that go, change and come."""
    mine, _ = roster(*(seat(f"w{number}") for number in range(workers)))

    def act() -> None:
        for number in range(50):
            mine.show([seat("w1", usable=False), seat(f"new{number}")], ["w2"])
            mine.show([seat("w1"), seat("w2", context=number)], [f"new{number}"])

    return counted(act)


@pytest.mark.parametrize("of", [requests, changes])
def test_a_choice_or_a_change_among_thousands_is_not_dearer(of: Callable[[int], int]) -> None:
    """What a request costs, or news of a worker, does not grow with the number of workers."""
    assert of(5000) < 3 * of(8)


def test_a_lease_outlives_what_is_known_of_its_worker() -> None:
    """A worker that went and came again has nothing in flight, whoever gives back what."""
    mine, _ = roster(seat("a"))
    lease = mine.take("a", 10)
    mine.show([], ["a"])
    assert chosen(mine) == "ABSENT"
    mine.give("a", 10, lease)
    mine.settle("a", answered=False, lease=lease)
    mine.show([seat("a")])
    mine.give("a", 10, lease)
    assert (mine.in_flight("a"), mine.outstanding("a")) == (0, 0)
