"""Which tokens go into which step, without llama.cpp."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee_runtime.worker.engines.llamacpp.batching import shares
from rbee_runtime.worker.engines.llamacpp.pace import TILE
from rbee_runtime.worker.engines.llamacpp.slots import Job, SlotState
from tests.unit.worker.batching_scene import ROOM, Scene, numbers


def test_an_idle_engine_has_nothing_to_do() -> None:
    """Without requests there is no step."""
    assert Scene().batcher.plan(ROOM) == []


def test_a_prompt_is_computed_and_then_a_token_per_step() -> None:
    """The last token of a prompt, and each of an answer, is asked for its logits."""
    scene = Scene()
    one = scene.ask(numbers(10))
    assert [scene.step(), scene.step(), scene.step()] == [[(one, 10)], [(one, 1)], [(one, 1)]]


def test_a_long_prompt_comes_in_chunks_beside_answers() -> None:
    """No step takes more of prompts than it may, and every answer goes on in each."""
    scene = Scene()
    short = scene.ask(numbers(3))
    scene.step()
    long = scene.ask(numbers(20, 100))
    assert [scene.step(8) for _ in range(3)] == [
        [(short, 1), (long, 8)],
        [(short, 1), (long, 8)],
        [(short, 1), (long, 4)],
    ]


def test_more_requests_than_slots_wait_in_order() -> None:
    """A slot that becomes free goes to who waits longest."""
    scene = Scene(slots=1)
    first, second = scene.ask(numbers(2)), scene.ask(numbers(2, 50))
    scene.ask(numbers(2, 70))
    assert scene.step() == [(first, 2)]
    scene.batcher.cancel(first)
    assert scene.step() == [(second, 2)]


def test_a_step_never_takes_more_than_the_batch_holds() -> None:
    """Answers come first, prompts get what is left of the batch."""
    scene = Scene(slots=3, batch=4)
    for start in (0, 100):
        scene.ask(numbers(1, start))
    scene.step()
    scene.ask(numbers(9, 200))
    assert [count for _, count in scene.step(ROOM)] == [1, 1, 2]


def test_the_slot_unused_for_longest_is_taken() -> None:
    """A new conversation costs the oldest one its cells."""
    scene = Scene(slots=2)
    for start in (0, 100, 200):
        scene.ask(numbers(40, start))
        scene.answer_all()
    assert [slot.held[0] for slot in scene.batcher.slots] == [200, 100]


def test_cancelling_frees_waiting_and_running_choices() -> None:
    """Nothing of a request is left, and its neighbour goes on."""
    scene = Scene(slots=2)
    for choice in range(4):
        scene.batcher.submit(Job(77, choice, numbers(5)))
    scene.step()
    scene.batcher.cancel(77)
    assert (scene.batcher.busy, len(scene.batcher.waiting)) == (0, 0)
    assert scene.step() == []


def test_a_step_that_failed_is_planned_again() -> None:
    """After `forget` the same tokens come once more."""
    scene = Scene(slots=1)
    scene.ask(numbers(30))
    scene.step(10)
    again = scene.batcher.plan(10)
    scene.cells.held[0] += again[0].tokens[:4]
    scene.batcher.forget(again[0].slot, again[0].start)
    assert scene.step(10)[0][1] == 10
    assert scene.batcher.slots[0].held == numbers(20)


@pytest.mark.parametrize(
    ("missing", "room", "given"),
    [
        ([], 10, []),
        ([5], 10, [5]),
        ([5], 0, [0]),
        ([100], 10, [10]),
        ([100, 3], 10, [7, 3]),
        ([100, 3, 50], 12, [3, 3, 6]),
        ([4, 100], 10, [4, 6]),
        ([100, 1, 1, 1], 2, [1, 1, 0, 0]),
    ],
)
def test_short_prompts_go_first_and_the_oldest_is_not_starved(missing: list[int], room: int, given: list[int]) -> None:
    """A quarter for the oldest, the rest from the shortest to the longest."""
    assert shares(missing, room, room) == given


@pytest.mark.parametrize(
    ("missing", "room", "most", "given"),
    [
        ([125], 100, 512, [125]),
        ([126], 100, 512, [100]),
        ([125], 100, 110, [100]),
        ([60, 60], 100, 512, [60, 60]),
        ([60, 90], 100, 512, [60, 0]),
        ([50, 90], 100, 512, [50, 50]),
        ([150, 150, 150], 192, 512, [150, 0, 0]),
        ([120, 150, 40], 192, 512, [120, 0, 40]),
        ([120, 150], 200, 512, [120, 80]),
        ([5, 115], 100, 512, [5, 115]),
        ([5, 125], 100, 512, [5, 95]),
    ],
)
def test_a_small_rest_of_a_prompt_is_taken_with_the_step(
    missing: list[int], room: int, most: int, given: list[int]
) -> None:
    """Up to a quarter of a step's tokens, as far as the step holds them; none is begun for less than a tile."""
    assert shares(missing, room, most) == given


@pytest.mark.parametrize(
    ("missing", "room", "most", "fresh", "given"),
    [
        ([166], 64, 512, {0}, [166]),
        ([166], 64, 512, set(), [64]),
        ([166], 64, 165, {0}, [64]),
        ([241], 64, 512, {0}, [64]),
        ([167, 166], 64, 512, {0, 1}, [167, 0]),
        ([166, 40], 64, 512, {0, 1}, [166, 40]),
        ([201, 40], 64, 512, {0, 1}, [24, 40]),
        ([500, 166], 64, 512, {1}, [16, 48]),
        ([500, 166], 64, 512, {0, 1}, [16, 48]),
        ([166], 0, 512, {0}, [0]),
    ],
)
def test_the_oldest_short_prompt_is_not_divided_once_its_turn_has_come(
    missing: list[int], room: int, most: int, fresh: set[int], given: list[int]
) -> None:
    """Unless some of it is computed already, or the step would have more than 240 tokens; others wait for no other."""
    assert shares(missing, room, most, whole=240, fresh=fresh) == given


@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=8), st.integers(1, 600), st.integers(0, 600), st.integers(1, 512)
)
def test_no_step_is_longer_than_it_may_be_and_the_oldest_has_its_part(
    missing: list[int], room: int, whole: int, most: int
) -> None:
    """A quarter more than was planned, or what a whole prompt may take; a quarter of the plan is the oldest's."""
    given_out = shares(missing, room, most, whole=whole, fresh=range(len(missing)))
    planned = min(room, most)
    assert sum(given_out) <= min(most, max(planned + planned // 4, whole))
    assert given_out[0] >= min(missing[0], max(1, planned // 4))


def test_a_short_prompt_beside_answers_is_one_step_and_a_long_one_is_not() -> None:
    """What a step may take whole is; of a prompt that has begun in pieces the rest comes in pieces too."""
    scene = Scene(batch=512)
    answer = scene.ask(numbers(3))
    scene.step()
    short = scene.ask(numbers(40, 100))
    assert scene.step(16, whole=40) == [(answer, 1), (short, 40)]
    scene.batcher.cancel(short)
    long = scene.ask(numbers(41, 200))
    assert [scene.step(16, whole=40) for _ in range(2)] == [[(answer, 1), (long, 16)], [(answer, 1), (long, 16)]]


@pytest.mark.parametrize(("pooled", "expected"), [(False, [4, 5, 6]), (True, [2, 4, 6])])
def test_busy_slots_of_streams_are_neighbours(*, pooled: bool, expected: list[int]) -> None:
    """Those unused for longest would have gaps between them, which is nothing to a pool."""
    scene = Scene(slots=7, pooled=pooled)
    for number in range(7):
        scene.ask(numbers(5, number * 100))
    scene.step(500)
    for index in (6, 4, 2, 5, 3, 1, 0):
        scene.batcher.free(scene.batcher.slots[index])
    for number in range(3):
        scene.ask(numbers(5, 1000 + number * 100))
        scene.step(500)
    assert [slot.index for slot in scene.batcher.slots if slot.state is not SlotState.FREE] == expected


@given(st.lists(st.integers(1, 500), max_size=8), st.integers(0, 600))
def test_shares_use_all_the_room_and_no_more(missing: list[int], room: int) -> None:
    """Nothing is given that is not missing, and nothing is left that is enough to begin with what gets nothing."""
    given_out = shares(missing, room, room)
    assert all(0 <= given <= wanted for given, wanted in zip(given_out, missing, strict=True))
    left = min(room, sum(missing)) - sum(given_out)
    assert 0 <= left <= max(0, min(TILE, room // 2) - 1)
    assert not left or all(given in {0, wanted} for given, wanted in zip(given_out, missing, strict=True))


_Prompt = st.builds(
    lambda head, tail: numbers(head) + tail, st.integers(0, 300), st.lists(st.integers(0, 1), min_size=1)
)
_Script = st.lists(st.tuples(_Prompt, st.integers(1, 70), st.booleans()), max_size=12)


@given(_Script, st.booleans(), st.booleans(), st.sampled_from([0, 400, 10_000]), st.booleans())
def test_whatever_comes_every_prompt_is_whole_in_its_cells(
    script: list[tuple[list[int], int, bool]], shares_cells: bool, whole: bool, parking: int, pooled: bool
) -> None:
    """Sharing, waiting and leaving never put a wrong token into a sequence (the scene checks each step)."""
    scene = Scene(slots=3, shares_cells=shares_cells and not whole, whole=whole, parking=parking, pooled=pooled)
    for prompt, room, leaves in script:
        number = scene.ask(prompt)
        scene.step(room)
        if leaves:
            scene.batcher.cancel(number)
        _check_prompts(scene)
    scene.answer_all()


def _check_prompts(scene: Scene) -> None:
    for slot in scene.batcher.slots:
        if slot.state not in (SlotState.FREE, SlotState.SHARING):
            assert slot.held[: len(slot.prompt)] == slot.prompt[: len(slot.held)]
