"""Which tokens of which sequences go into the next step: continuous batching, as a plan without llama.cpp.

Every step takes one token of each answer that runs, and of the prompts that wait as many as the caller allows: so a
long prompt cannot hold up the answers of others. Prompts share what they begin with: a slot takes over the cells of
another one instead of computing them, and waits for a neighbour that is about to compute them.
"""

from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rbee_runtime.worker.engines.llamacpp.pace import REST_SHARE, TILE
from rbee_runtime.worker.engines.llamacpp.shelf import Parked, Shelf
from rbee_runtime.worker.engines.llamacpp.slots import Job, Slot, SlotState, common_prefix

WORTH_WAITING = 32
"""Tokens. To wait for a neighbour's prompt costs nothing but order; for fewer it would only put an answer off."""

MOST_COPIED = 8
"""In streams a sequence is copied as a whole: not more than so many times what is wanted of it."""

SAVED_AHEAD = 32 << 20
"""Bytes of a sequence that are copied within some 20 ms, for so long a request waits that comes just then."""

OLDEST_SHARE = 4
"""The prompt that waits longest gets this part (one over it) of a step's tokens, however many shorter ones come."""


class Cells(Protocol):
    """The memory of a context, by slot."""

    def keep(self, slot: int, count: int) -> int:
        """Drop all but the first `count` tokens and return how many are left (0 where only a whole one can go)."""

    def copy(self, source: int, target: int, count: int) -> bool:
        """Let the empty `target` begin with the first `count` tokens of `source`; False, and still empty, if not."""

    def size(self, slot: int) -> int:
        """Return the bytes that saving a slot would take."""

    def save(self, slot: int) -> Any:
        """Return what a slot's cells hold."""

    def load(self, slot: int, state: Any) -> bool:
        """Fill the empty `slot` with what was saved; False, and still empty, if there is no room."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Tokens of one slot in a step: positions `start` and up; `sample` if the last one's logits are wanted."""

    slot: Slot
    tokens: list[int]
    start: int
    sample: bool


class Batcher:
    """Owns the slots, who waits for one, and what they held before.

    `shares` is whether cells can be copied between sequences; `parking` how many bytes of old ones are kept; `pooled`
    that every token looks through the cells of all slots, so that free ones are in the way.
    """

    def __init__(
        self,
        cells: Cells,
        *,
        slots: int,
        batch: int,
        shares: bool,
        parking: int,
        clock: Callable[[], float],
        pooled: bool = True,
    ) -> None:
        self.slots = [Slot(index) for index in range(slots)]
        self.waiting: deque[Job] = deque()
        self.shelf = Shelf(parking)
        self._cells = cells
        self._batch = batch
        self._shares = shares
        self._pooled = pooled
        self._clock = clock

    def submit(self, job: Job) -> None:
        """Queue one answer."""
        self.waiting.append(job)

    def cancel(self, request: int) -> None:
        """Forget all answers to a request."""
        self.waiting = deque(job for job in self.waiting if job.request != request)
        for slot in self.slots:
            if slot.job is not None and slot.job.request == request:
                self.free(slot)

    def free(self, slot: Slot) -> None:
        """Take a slot from its job; what its cells hold stays."""
        slot.enter(SlotState.FREE)
        slot.job, slot.source = None, -1
        slot.used = self._clock()

    def forget(self, slot: Slot, count: int) -> None:
        """Note that the cells of a slot hold no more than `count` tokens: a step failed halfway."""
        del slot.held[self._cells.keep(slot.index, min(count, len(slot.held))) :]

    def drop_caches(self) -> bool:
        """Empty the cells of free slots; False if there was nothing to empty."""
        kept = [slot for slot in self.slots if slot.state is SlotState.FREE and slot.held]
        for slot in kept:
            self.forget(slot, 0)
        return bool(kept)

    def save_ahead(self) -> bool:
        """Save what one free slot holds, while nobody asks for anything; False if there is nothing to save.

        Else all those wait for it who need a slot then, eight newcomers for all eight.
        """
        for slot in self.slots:
            if slot.state is SlotState.FREE and not slot.ahead and len(slot.held) >= WORTH_WAITING:
                slot.ahead = True
                if self._cells.size(slot.index) <= SAVED_AHEAD and self._save(slot):
                    return True
        return False

    @property
    def load(self) -> tuple[int, int]:
        """Return how many answers run, and how many prompts are computed or will be in the next step."""
        states = [slot.state for slot in self.slots]
        free = states.count(SlotState.FREE)
        answering = states.count(SlotState.DECODE) + states.count(SlotState.CHOOSING)
        return answering, len(states) - free - answering + min(free, len(self.waiting))

    @property
    def busy(self) -> int:
        """Return how many slots are taken."""
        return sum(slot.state is not SlotState.FREE for slot in self.slots)

    def plan(self, prompts: int, whole: int = 0) -> list[Entry]:
        """Return the next step with at most `prompts` tokens of prompts; [] when there is nothing to do.

        The oldest is not divided for that if those of the step have up to `whole` tokens with it.
        """
        self._admit()
        self._take_over()
        if self._pooled and self.busy:
            self._park()
        entries = [_answer(slot) for slot in self.slots if slot.state is SlotState.DECODE]
        begun = [slot for slot in self.slots if slot.state is SlotState.PREFILL]
        if not begun:
            return entries
        begun.sort(key=lambda slot: slot.used)
        # Behind a long beginning that is cached a token takes several times as long.
        fresh = {at for at, slot in enumerate(begun) if len(slot.held) == slot.cached <= whole}
        missing, most = [slot.missing for slot in begun], self._batch - len(entries)
        counts = shares(missing, prompts, most, whole=whole, fresh=fresh)
        entries += [_prompt(slot, count) for slot, count in zip(begun, counts, strict=True) if count]
        # In streams those that follow each other are one call.
        return entries if self._pooled else sorted(entries, key=lambda entry: entry.slot.index)

    def decoded(self, entries: Sequence[Entry]) -> None:
        """Note that a planned step is done."""
        for entry in entries:
            entry.slot.held += entry.tokens

    def answer(self, slot: Slot, token: int) -> None:
        """Go on with `token`, which was sampled for a slot."""
        if slot.state is not SlotState.DECODE:
            slot.enter(SlotState.DECODE)
        slot.next = token

    def choose(self, slot: Slot) -> None:
        """Leave a slot out of steps until there is a token to go on with."""
        if slot.state is not SlotState.CHOOSING:
            slot.enter(SlotState.CHOOSING)

    def _admit(self) -> None:
        while self.waiting:
            free = [slot for slot in self.slots if slot.state is SlotState.FREE]
            if not free:
                return
            self._begin(self.waiting.popleft(), free)

    def _begin(self, job: Job, free: Sequence[Slot]) -> None:
        """Give a slot to a job: the one that it continues, else the one unused for longest.

        In streams rather one beside those that are busy: slots with gaps between them are computed call by call.
        """
        own = {slot.index: common_prefix(slot.held, job.prompt) for slot in free}
        slot = max(
            free,
            key=lambda each: (
                own[each.index] if _continues(each, own[each.index]) else 0,
                self._busy_beside(each),
                -each.used,
            ),
        )
        if own[slot.index] < len(slot.held):
            self._save(slot)
        slot.job, slot.used, slot.cached = job, self._clock(), 0
        slot.stays = slot.ahead = False
        self._fetch(slot, job.prompt, self._best(slot, job.prompt))
        usable = len(job.prompt) - 1
        source, wanted = self._neighbour(slot, job.prompt)
        if min(wanted, usable) - self._best(slot, job.prompt) >= WORTH_WAITING:
            slot.source, slot.wanted = source, min(wanted, usable)
            slot.enter(SlotState.SHARING)
        else:
            self._start(slot)

    def _busy_beside(self, slot: Slot) -> int:
        """Return how many neighbours of a slot are busy where that matters."""
        beside = self.slots[max(0, slot.index - 1) : slot.index + 2] if not self._pooled else []
        return sum(each.state is not SlotState.FREE for each in beside)

    def _park(self) -> None:
        """Put what free slots hold out of the way of answers; what is too large for the shelf stays where it is."""
        for slot in self.slots:
            if slot.state is not SlotState.FREE or not slot.held or slot.stays:
                continue
            # To measure means to go through all cells: once, not at every step.
            slot.stays = not self._save(slot)
            if not slot.stays:
                self.forget(slot, 0)

    def _save(self, slot: Slot) -> bool:
        """Say whether what a slot holds is on the shelf now, or not worth it."""
        if len(slot.held) < WORTH_WAITING or self.shelf.has(slot.held):
            return True
        size = self._cells.size(slot.index)
        if not self.shelf.takes(size):
            return False
        self.shelf.put(Parked(list(slot.held), self._cells.save(slot.index), size, slot.used))
        return True

    def _fetch(self, slot: Slot, prompt: list[int], atleast: int) -> None:
        """Fill `slot` from the shelf if that has clearly more of `prompt` than can be had without."""
        parked, common = self.shelf.best(prompt)
        if parked is None or common - atleast < WORTH_WAITING:
            return
        self.forget(slot, 0)
        if self._cells.load(slot.index, parked.state):
            slot.held = list(parked.tokens)
            parked.used = self._clock()

    def _neighbour(self, slot: Slot, prompt: list[int]) -> tuple[int, int]:
        """Return the slot that will hold most of the beginning of `prompt`, and how much of it."""
        if not self._shares:
            return -1, 0
        others = [each for each in self.slots if each.state is SlotState.PREFILL and each is not slot]
        found = [(common_prefix(each.prompt, prompt), each.index) for each in others]
        wanted, source = max(found, default=(0, -1))
        return source, wanted

    def _best(self, slot: Slot, prompt: list[int]) -> int:
        """Return how many tokens of `prompt` are in cells that `slot` can have now."""
        return self._holder(slot, prompt)[1]

    def _holder(self, slot: Slot, prompt: list[int]) -> tuple[Slot, int]:
        """Return whose cells hold most of `prompt` for `slot`, and how many tokens; in streams a copy has its price."""
        # The last token is always computed anew: its logits are what the first sample needs.
        usable = len(prompt) - 1
        own = min(usable, common_prefix(slot.held, prompt))
        found, most = slot, own
        for each in self.slots if self._shares else ():
            count = min(usable, common_prefix(each.held, prompt))
            worth = self._pooled or (count - own >= WORTH_WAITING and len(each.held) <= MOST_COPIED * count)
            if worth and (count, -len(each.held)) > (most, -len(found.held)) and count > own:
                found, most = each, count
        return found, most

    def _take_over(self) -> None:
        """Let those go on whose neighbour has computed what they wait for, or never will."""
        for slot in self.slots:
            if slot.state is not SlotState.SHARING:
                continue
            source = self.slots[slot.source]
            coming = common_prefix(source.prompt, slot.prompt) if source.state is SlotState.PREFILL else 0
            if coming >= slot.wanted > len(source.held):
                continue
            self._start(slot)

    def _start(self, slot: Slot) -> None:
        """Begin a prompt with the most that any slot's cells hold of it."""
        prompt = slot.prompt
        source, count = self._holder(slot, prompt)
        if source is slot:
            del slot.held[self._cells.keep(slot.index, count) :]
        else:
            self._cells.keep(slot.index, 0)
            slot.held = prompt[:count] if self._cells.copy(source.index, slot.index, count) else []
        slot.cached = len(slot.held)
        slot.source = -1
        slot.enter(SlotState.PREFILL)


def shares(missing: Sequence[int], room: int, most: int, *, whole: int = 0, fresh: Container[int] = ()) -> list[int]:
    """Return how many tokens each prompt gets, given what each still misses, the oldest first.

    The shortest first, because that is what makes the mean wait least, and of those about as long the oldest; but a
    part for the oldest of all, so that none waits for ever behind short ones. A prompt of which little would be left is
    finished, up to `most` tokens of them all: a step for the rest would cost more. For the same reason the oldest is
    not divided if it is `fresh`, its turn has come, and they all have up to `whole` tokens with it. Nor is one begun
    for a few tokens that are left: in two pieces it takes longer, and the answers that run wait for that.
    """
    given = [0] * len(missing)
    room = planned = min(room, most)
    least = min(TILE, planned // 2)
    if not missing or room <= 0:
        return given
    given[0] = min(missing[0], max(1, room // OLDEST_SHARE))
    room -= given[0]
    for index in sorted(range(len(missing)), key=lambda each: missing[each] // TILE):
        more = max(0, min(room, missing[index] - given[index]))
        rest, size = missing[index] - given[index] - more, sum(given) + more
        small = rest <= planned // REST_SHARE and size + rest <= planned + planned // REST_SHARE
        undivided = index == 0 and index in fresh and more > 0 and size + rest <= whole
        if given[index] + more and (small or undivided) and size + rest <= most:
            more += rest
        elif size > more and not given[index] and more < least:
            continue
        given[index] += more
        room -= more
    return given


def _continues(slot: Slot, common: int) -> bool:
    """Say whether a prompt goes on with most of what a slot holds; else its cells are worth more to somebody else."""
    return common * 2 >= len(slot.held) and common > 0


def _answer(slot: Slot) -> Entry:
    return Entry(slot, [slot.next], len(slot.held), sample=True)


def _prompt(slot: Slot, count: int) -> Entry:
    start = len(slot.held)
    return Entry(slot, slot.prompt[start : start + count], start, sample=count == slot.missing)
