"""Which tokens go into which step, without llama.cpp."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee_runtime.worker.engines.llamacpp.batching import Batcher, Entry, shares
from rbee_runtime.worker.engines.llamacpp.slots import TRANSITIONS, Job, Slot, SlotState, common_prefix

ROOM = 64
END = -7
"""A token that no prompt of these tests has, as the answer."""


class FakeCells:
    """What a context would hold; refuses to cut a sequence if `whole` is set."""

    def __init__(self, slots: int, *, whole: bool = False) -> None:
        self.held: list[list[int]] = [[] for _ in range(slots)]
        self._whole = whole
        self.full = False
        self.measured = 0
        self.copied: list[tuple[int, int, int]] = []

    def keep(self, slot: int, count: int) -> int:
        if self._whole and 0 < count < len(self.held[slot]):
            count = 0
        del self.held[slot][count:]
        return count

    def copy(self, source: int, target: int, count: int) -> bool:
        assert not self.held[target]
        self.copied.append((source, target, count))
        self.held[target] = [] if self.full else self.held[source][:count]
        return not self.full

    def size(self, slot: int) -> int:
        self.measured += 1
        return len(self.held[slot])

    def save(self, slot: int) -> list[int]:
        return list(self.held[slot])

    def load(self, slot: int, state: list[int]) -> bool:
        assert not self.held[slot]
        self.held[slot] = [] if self.full else list(state)
        return not self.full

    def compute(self, entries: list[Entry]) -> int:
        """Append a step's tokens and return how many there were; each has to go on where its sequence ends."""
        for entry in entries:
            assert entry.start == len(self.held[entry.slot.index])
            self.held[entry.slot.index] += entry.tokens
        return sum(len(entry.tokens) for entry in entries)


class Scene:
    """A batcher that is stepped by hand; `computed` counts tokens."""

    def __init__(
        self,
        *,
        slots: int = 2,
        batch: int = ROOM,
        shares_cells: bool = True,
        whole: bool = False,
        parking: int = 0,
        pooled: bool = True,
    ) -> None:
        ticks = itertools.count(1)
        self.cells = FakeCells(slots, whole=whole)
        self.batcher = Batcher(
            self.cells,
            slots=slots,
            batch=batch,
            shares=shares_cells,
            parking=parking,
            pooled=pooled,
            clock=lambda: float(next(ticks)),
        )
        self.computed = 0
        self._numbers = itertools.count(1)

    def ask(self, prompt: list[int], *, choice: int = 0) -> int:
        number = next(self._numbers)
        self.batcher.submit(Job(number, choice, prompt))
        return number

    def step(self, prompts: int = ROOM) -> list[tuple[int, int]]:
        """Run one step; return request and number of tokens of each entry."""
        entries = self.batcher.plan(prompts)
        self.computed += self.cells.compute(entries)
        self.batcher.decoded(entries)
        done = [(entry.slot.job.request if entry.slot.job else 0, len(entry.tokens)) for entry in entries]
        for entry in entries:
            assert self.cells.held[entry.slot.index] == entry.slot.held
            if entry.sample:
                self.batcher.answer(entry.slot, END)
        return done

    def answer_all(self) -> None:
        """Compute all prompts and end all answers."""
        while self.batcher.busy or self.batcher.waiting:
            self.step()
            for slot in self.batcher.slots:
                if slot.state is SlotState.DECODE:
                    self.batcher.free(slot)


def numbers(count: int, start: int = 0) -> list[int]:
    return list(range(start, start + count))


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
        ([60, 90], 100, 512, [60, 40]),
        ([5, 115], 100, 512, [5, 115]),
        ([5, 125], 100, 512, [5, 95]),
    ],
)
def test_a_small_rest_of_a_prompt_is_taken_with_the_step(
    missing: list[int], room: int, most: int, given: list[int]
) -> None:
    """Up to a quarter of a step's tokens, as far as the step holds them."""
    assert shares(missing, room, most) == given


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


@given(st.lists(st.integers(1, 500), max_size=8), st.integers(0, 600))
def test_shares_use_all_the_room_and_no_more(missing: list[int], room: int) -> None:
    """Nothing is given that is not missing, and nothing is left while something is."""
    given_out = shares(missing, room, room)
    assert all(0 <= given <= wanted for given, wanted in zip(given_out, missing, strict=True))
    assert sum(given_out) == min(room, sum(missing))


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_a_common_prefix_is_as_long_as_token_by_token(first: list[int], second: list[int]) -> None:
    """Halving finds what counting finds."""
    counted = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    assert common_prefix(first, second) == (min(len(first), len(second)) if counted is None else counted)


@pytest.mark.parametrize("state", SlotState)
@pytest.mark.parametrize("wanted", SlotState)
def test_slots_follow_their_table(state: SlotState, wanted: SlotState) -> None:
    """What the table does not allow is a mistake of ours and is not hidden."""
    slot = Slot(0, state)
    if wanted in TRANSITIONS[state]:
        slot.enter(wanted)
        assert slot.state is wanted
    else:
        with pytest.raises(AssertionError, match="slot 0 cannot go"):
            slot.enter(wanted)


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
