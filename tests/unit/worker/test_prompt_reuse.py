"""What a prompt need not compute, because cells hold it or soon will: without llama.cpp."""

import pytest

from rbee_runtime.worker.engines.llamacpp.batching import SAVED_AHEAD
from tests.unit.worker.batching_scene import END, Scene, numbers


def test_the_same_prompt_again_computes_its_last_token() -> None:
    """All but the last token come from the cells."""
    scene = Scene()
    for _ in range(2):
        scene.ask(numbers(40))
        scene.answer_all()
    assert scene.computed == 40 + 1


def test_a_busy_neighbour_s_beginning_is_copied() -> None:
    """What another slot holds of a prompt is not computed again, while that slot still answers."""
    scene = Scene()
    scene.ask(numbers(40))
    scene.step()
    scene.ask([*numbers(30), 900, 901])
    assert [count for _, count in scene.step()] == [1, 2]
    assert scene.batcher.slots[1].cached == 30


def test_a_neighbour_s_prompt_is_waited_for() -> None:
    """Of prompts that come together and begin alike, one computes the beginning for all."""
    scene = Scene(slots=4, batch=200)
    for tail in range(4):
        scene.ask([*numbers(100), 900 + tail, 950 + tail])
    scene.answer_all()
    assert scene.computed == 102 + 3 * 2


@pytest.mark.parametrize("common", [0, 1, 31])
def test_a_short_beginning_is_not_waited_for(common: int) -> None:
    """For a few tokens nobody's first token is put off."""
    scene = Scene(batch=400)
    for start in (100, 300):
        scene.ask(numbers(common) + numbers(50, start))
    assert [count for _, count in scene.step(400)] == [common + 50, common + 50]


def test_who_waits_for_a_neighbour_that_leaves_goes_on_alone() -> None:
    """What the neighbour has computed is used, the rest is computed."""
    scene = Scene()
    first = scene.ask(numbers(60))
    second = scene.ask(numbers(60))
    assert scene.step(20) == [(first, 20)]
    scene.batcher.cancel(first)
    assert scene.step() == [(second, 40)]
    assert scene.batcher.slots[1].cached == 20


def test_without_sharing_every_prompt_is_computed() -> None:
    """Where cells cannot be copied each slot is for itself."""
    scene = Scene(shares_cells=False, batch=200)
    for _ in range(2):
        scene.ask(numbers(50))
    scene.answer_all()
    assert scene.computed == 100


def test_cells_that_cannot_be_cut_are_dropped() -> None:
    """A recurrent model's state goes as a whole, and the prompt is computed anew."""
    scene = Scene(slots=1, shares_cells=False, whole=True)
    for tail in (7, 8):
        scene.ask([*numbers(10), tail])
        scene.answer_all()
    assert scene.computed == 22


def test_a_conversation_goes_on_in_its_own_slot() -> None:
    """Another conversation's cells are not overwritten for it."""
    scene = Scene(slots=3)
    for start in (0, 100):
        scene.ask(numbers(40, start))
        scene.answer_all()
    held = [list(slot.held) for slot in scene.batcher.slots]
    scene.ask([*numbers(40), END, 5])
    scene.answer_all()
    assert scene.batcher.slots[1].held == held[1]
    assert scene.batcher.slots[2].held == []


def test_a_conversation_that_lost_its_slot_comes_back() -> None:
    """What a slot held before somebody else took it is not computed again."""
    scene = Scene(slots=1, parking=1000)
    for start in (0, 100, 200):
        scene.ask(numbers(50, start))
        scene.answer_all()
    before = scene.computed
    scene.ask([*numbers(50), END, 7])
    scene.answer_all()
    assert scene.computed - before == 2
    assert scene.batcher.slots[0].cached == 50


def test_what_free_slots_hold_leaves_the_context_while_others_work() -> None:
    """Answers do not have to look through old tokens; those come back when a prompt begins with them."""
    scene = Scene(slots=4, batch=2000, parking=10_000)
    for start in (0, 1000, 2000):
        scene.ask(numbers(300, start))
    scene.answer_all()
    scene.ask(numbers(5, 5000))
    scene.step()
    assert sum(len(held) for held in scene.cells.held) == 5
    before = scene.computed
    scene.ask(numbers(299, 1000))
    scene.answer_all()
    assert scene.computed - before <= 3


def test_what_slots_hold_is_saved_before_somebody_needs_them() -> None:
    """While nobody asks for anything, slot by slot and once; a newcomer waits for none of it."""
    scene = Scene(slots=3, batch=2000, parking=10_000, pooled=False)
    for start in (0, 1000):
        scene.ask(numbers(50, start))
    scene.ask(numbers(5, 2000))
    scene.answer_all()
    assert [scene.batcher.save_ahead() for _ in range(4)] == [True, True, False, False]
    for start in (3000, 4000, 5000):
        scene.ask(numbers(50, start))
    scene.step(200)
    assert (scene.cells.saved, scene.batcher.shelf.size) == (2, 100)


def test_a_slot_that_worked_again_is_saved_again_and_a_busy_one_is_not() -> None:
    """With all that it holds by then, in place of what was saved before."""
    scene = Scene(slots=2, parking=1000)
    for prompt in (numbers(40), [*numbers(40), END, *numbers(20, 100)]):
        scene.ask(prompt)
        scene.answer_all()
        assert [scene.batcher.save_ahead(), scene.batcher.save_ahead()] == [True, False]
    assert scene.batcher.shelf.size == 61
    scene.ask(numbers(40, 500))
    scene.step()
    assert not scene.batcher.save_ahead()


def test_a_shelf_for_few_does_not_keep_an_idle_engine_busy() -> None:
    """What was put away for another one is not saved anew, and what is large is left until somebody needs its slot."""
    scene = Scene(slots=3, parking=60, pooled=False)
    for start in (0, 1000, 2000):
        scene.ask(numbers(50, start))
    scene.answer_all()
    assert [scene.batcher.save_ahead() for _ in range(5)] == [True, True, True, False, False]
    large = Scene(slots=1, parking=SAVED_AHEAD * 2)
    large.ask(numbers(50))
    large.answer_all()
    large.cells.size = lambda slot: SAVED_AHEAD + 1  # type: ignore[method-assign]  # noqa: ARG005
    assert not large.batcher.save_ahead()
    assert large.cells.saved == 0


def test_what_is_too_large_for_the_shelf_stays_in_the_context() -> None:
    """A conversation is not lost because somebody else asks something."""
    scene = Scene(slots=3, parking=49)
    scene.ask(numbers(50))
    scene.answer_all()
    scene.ask(numbers(5, 5000))
    for _ in range(5):
        scene.step()
    assert (len(scene.cells.held[0]), scene.batcher.shelf.size, scene.cells.measured) == (50, 0, 1)


def test_a_state_that_finds_no_room_is_computed() -> None:
    """The prompt is answered all the same, and its cells are right."""
    scene = Scene(slots=1, parking=1000)
    for start in (0, 100):
        scene.ask(numbers(50, start))
        scene.answer_all()
    scene.cells.full = True
    before = scene.computed
    scene.ask(numbers(50))
    scene.answer_all()
    assert scene.computed - before == 50


def test_caches_of_free_slots_can_be_dropped() -> None:
    """Room is made at nobody's cost, and it is said when there is none to make."""
    scene = Scene(slots=2)
    scene.ask(numbers(40))
    scene.answer_all()
    scene.ask(numbers(5, 50))
    scene.step()
    assert [scene.batcher.drop_caches(), scene.batcher.drop_caches()] == [True, False]
    assert [len(held) for held in scene.cells.held] in ([0, 5], [5, 0])


@pytest.mark.parametrize(
    ("held", "shared", "pooled", "copied"),
    [
        (60, 40, False, True),
        (60, 20, False, False),
        (60, 20, True, True),
        (400, 40, False, False),
        (400, 40, True, True),
    ],
)
def test_in_streams_a_copy_has_to_be_worth_it(held: int, shared: int, *, pooled: bool, copied: bool) -> None:
    """A whole sequence is copied there: not for a few tokens, nor for a small part of a long one."""
    scene = Scene(pooled=pooled)
    running = scene.ask(numbers(held))
    for _ in range(10):
        scene.step()
    scene.ask([*numbers(shared), *numbers(50, 5000)])
    scene.answer_all()
    assert bool(scene.cells.copied) is copied
    assert running


def test_a_copy_that_finds_no_room_is_computed() -> None:
    """The answer comes all the same."""
    scene = Scene(pooled=False)
    scene.ask(numbers(60))
    scene.step()
    scene.cells.full = True
    scene.ask([*numbers(50), 7])
    scene.answer_all()
    assert scene.cells.copied
    # Beside it the first one went on by a token.
    assert scene.computed == 60 + 51 + 1


def test_free_slots_keep_their_cells_where_nobody_else_looks_at_them() -> None:
    """Nothing is put aside while others work; what a new prompt takes the place of is, and comes back."""
    scene = Scene(parking=10_000, pooled=False)
    first, second = numbers(100), numbers(100, 1000)
    scene.ask(first)
    scene.answer_all()
    scene.ask(second)
    scene.step()
    scene.step()
    assert (scene.cells.measured, sorted(map(len, scene.cells.held))) == (0, [100, 100])
    scene.answer_all()
    scene.ask(numbers(100, 2000))
    scene.answer_all()
    computed = scene.computed
    scene.ask([*first, 7])
    scene.answer_all()
    assert scene.computed - computed <= 3
