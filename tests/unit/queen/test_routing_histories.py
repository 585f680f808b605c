"""Random histories of requests, failures and changes: what routing promises holds at every choice."""

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_runtime.gateway.seam import Ask
from rbee_runtime.queen.ejection import FAILURES, Breaker
from rbee_runtime.queen.limits import prompt_tokens
from rbee_runtime.queen.routing import Roster
from rbee_runtime.queen.seats import Lack, Seat
from tests.unit.queen.states import Clock

NAMES = ("a", "b", "c", "d", "e")
CONTEXTS = (0, 1000, 4000)
PROMPTS = tuple(letter * 600 for letter in (b"x", b"y", b"z"))
NOBODY: frozenset[str] = frozenset()


@dataclass
class History:
    """A roster and, kept apart from it, what must be true of it."""

    clock: Clock = field(default_factory=Clock)
    open: list[tuple[str, int, int]] = field(default_factory=list)
    trials: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.roster = Roster(self.clock)
        self.seats = {name: Seat(name, "m", f"http://{name}", 3, usable=True) for name in NAMES}
        self.roster.show(list(self.seats.values()))

    def load(self, worker: str) -> int:
        return sum(tokens for name, tokens, _ in self.open if name == worker)

    def could(self, worker: str, ask: Ask) -> bool:
        seat = self.seats[worker]
        fits = not seat.context or ask.floor <= seat.context
        full = sum(name == worker for name, _, _ in self.open) >= seat.slots
        return seat.usable and fits and not full and worker not in ask.tried

    def is_well(self, worker: str) -> bool:
        health = self.roster.health(worker)
        return not health.is_ejected and health.until <= self.clock.now

    def ask(self, ask: Ask, tokens: int) -> None:
        """Have a request routed, and look at where it goes."""
        well = [name for name in self.seats if self.could(name, ask) and self.is_well(name)]
        found = self.roster.choose(ask)
        if isinstance(found, Lack):
            assert not well, f"{found} with {well}"
            return
        self.check(found.worker, ask, well)
        lease = self.roster.take(found.worker, tokens, ask.opening)
        self.open.append((found.worker, tokens, lease))
        if self.roster.health(found.worker).state is Breaker.HALF_OPEN:
            self.trials[found.worker] = lease

    def check(self, worker: str, ask: Ask, well: list[str]) -> None:
        """Look that a worker may have a request: it can take it, it is well, and it has not too much to do."""
        health = self.roster.health(worker)
        assert self.could(worker, ask)
        assert health.state is not Breaker.OPEN
        if health.state is Breaker.HALF_OPEN:
            assert worker not in self.trials, "a second trial"
        elif well:
            assert worker in well
            likely = [name for name in well if not 0 < self.seats[name].context < prompt_tokens(ask)] or well
            assert worker in likely
            assert self.load(worker) <= 1.25 * sum(map(self.load, likely)) / len(likely)

    def end(self, index: int, *, answered: bool | None) -> None:
        """Have a request end, None: without a word of its worker."""
        if self.open:
            worker, tokens, lease = self.open.pop(index % len(self.open))
            if answered is not None:
                self.roster.settle(worker, answered=answered, lease=lease)
            self.roster.give(worker, tokens, lease)

    def fail(self, name: str) -> None:
        """Have requests of a worker fail that are none of these."""
        for _ in range(FAILURES):
            self.roster.settle(name, answered=False)

    def change(self, name: str, **fields: object) -> None:
        """Have a worker be another one, or go (`gone`) with its requests; routing is shown what changed."""
        if fields.pop("gone", False):
            self.seats.pop(name, None)
            self.open = [each for each in self.open if each[0] != name]
            self.roster.show((), [name])
            return
        if name in self.seats:
            self.seats[name] = replace(self.seats[name], **fields)  # type: ignore[arg-type]
        else:
            self.seats[name] = Seat(name, "m", f"http://{name}", 3, usable=True)
        self.roster.show([self.seats[name]])

    def check_ejections(self) -> None:
        """Look that most of those that serve get requests, and forget the trials that are over."""
        on_trial = [name for name in self.trials if self.roster.health(name).state is Breaker.HALF_OPEN]
        held = [lease for _, _, lease in self.open]
        self.trials = {name: self.trials[name] for name in on_trial if self.trials[name] in held}
        usable = [name for name, seat in self.seats.items() if seat.usable]
        assert sum(self.roster.health(name).is_ejected for name in usable) <= len(usable) // 2


ASKS = st.builds(
    Ask,
    st.just("k"),
    st.just("m"),
    tried=st.sampled_from([NOBODY, NOBODY, NOBODY, frozenset("a"), frozenset("bc")]),
    size=st.sampled_from([100, 8000, 40_000]),
    opening=st.sampled_from([b"", *PROMPTS]),
    floor=st.sampled_from([0, 0, 0, 2000, 9000]),
)
CHANGES = st.one_of(
    st.fixed_dictionaries({"usable": st.booleans()}),
    st.fixed_dictionaries({"context": st.sampled_from(CONTEXTS)}),
    st.fixed_dictionaries({"slots": st.integers(1, 4)}),
    st.just({"gone": True}),
)
STEPS = st.one_of(
    st.tuples(st.just("ask"), ASKS, st.integers(1, 4000)),
    st.tuples(st.just("ask"), ASKS, st.integers(1, 4000)),
    st.tuples(st.just("end"), st.integers(0, 20), st.sampled_from([True, False, False, None])),
    st.tuples(st.just("fail"), st.sampled_from(NAMES)),
    st.tuples(st.just("change"), st.sampled_from(NAMES), CHANGES),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 3.0, 15.0, 100.0])),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_every_choice_keeps_the_promises(steps: list[tuple[object, ...]]) -> None:
    """Nobody ejected, drained, full or too small gets any, nobody above 5/4 of the mean, and no slot stays free."""
    history = History()
    for what, *rest in steps:
        if what == "ask":
            history.ask(*rest)  # type: ignore[arg-type]
        elif what == "end":
            history.end(rest[0], answered=rest[1])  # type: ignore[arg-type]
        elif what == "fail":
            history.fail(rest[0])  # type: ignore[arg-type]
        elif what == "change":
            history.change(rest[0], **rest[1])  # type: ignore[arg-type]
        else:
            history.clock.now += rest[0]  # type: ignore[operator]
        history.check_ejections()
    for name in history.seats:
        assert history.roster.outstanding(name) == history.load(name)
