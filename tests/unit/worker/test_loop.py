"""Steps without llama.cpp: answers whose next token a grammar keeps waiting."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rbee_runtime.errors import EngineError, RequestError
from rbee_runtime.worker.engines import Finish, Sampling
from rbee_runtime.worker.engines.llamacpp import loop as loop_module
from rbee_runtime.worker.engines.llamacpp import program, wire
from rbee_runtime.worker.engines.llamacpp.batching import Entry
from rbee_runtime.worker.engines.llamacpp.loop import Loop
from rbee_runtime.worker.engines.llamacpp.native import Abort, Outcome
from rbee_runtime.worker.engines.llamacpp.pace import ALONGSIDE_SECONDS
from rbee_runtime.worker.engines.llamacpp.wire import Piece, Pieces, Refused, Submit
from tests.unit.worker.batching_scene import ROOM, FakeCells

SLOTS, TOKEN_SECONDS = 2, 0.004
LATE = None
"""A token that is not there yet."""

Token = int | RequestError | None


class Model(FakeCells):
    """Cells and a vocabulary of letters."""

    pooled = shares = True
    library = vocab = context = None
    vocabulary = 1000

    def __init__(self) -> None:
        super().__init__(SLOTS)
        self.abort = Abort()
        self.steps: list[list[int]] = []
        self.now = 0.0

    def decode(self, entries: Sequence[Entry]) -> Outcome:
        tokens = self.compute([*entries])
        self.now += TOKEN_SECONDS * tokens
        self.steps.append([entry.slot.job.request if entry.slot.job else 0 for entry in entries])
        return Outcome.DONE

    def piece_of(self, token: int) -> bytes:
        return chr(token).encode()

    def ends(self, token: int) -> bool:
        return token == 0


class Tokens:
    """A sampler whose grammar is the script: tokens, errors, and times when there is none yet."""

    def __init__(self, *_: Any, prompt: list[int], choice: int, **__: Any) -> None:
        script = SCRIPTS[prompt[0]]
        self._tokens = iter(script.get(choice, [*map(ord, "plain"), 0]))
        self._error = script.get("error")
        self.closed = self.plain = False
        MADE.append(self)

    def ask(self, context: Any, output: int, largest: int) -> None:
        """Nothing to do."""

    def chosen(self, seconds: float) -> int | None:
        token: Token = next(self._tokens)
        if isinstance(token, RequestError):
            raise token
        return token

    def demand_an_end(self) -> None:
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed = True


MADE: list[Tokens] = []
SCRIPTS: dict[int, dict[Any, Any]] = {}
SLOW = RequestError(400, "slow", code="grammar_too_slow")


def loop(model: Model, sent: list[Any], clock: Callable[[], float], *, context: int = ROOM, batch: int = ROOM) -> Loop:
    """Return steps over a model that is made up."""
    made: Any = model
    return Loop(made, slots=SLOTS, context=context, batch=batch, parking=0, send=sent.append, clock=clock)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Submit scripts, step until nothing is to do, and return what was sent; the model is its last item."""
    monkeypatch.setattr(loop_module, "Sampler", Tokens)
    MADE.clear()
    SCRIPTS.clear()

    def run(*scripts: dict[Any, Any], choices: int = 1) -> list[Any]:
        model, sent, clock = Model(), list[Any](), itertools.count()
        steps = loop(model, sent, lambda: float(next(clock)))
        for number, script in enumerate(scripts, 1):
            SCRIPTS[number] = script
            steps.submit(Submit(number, "", None, (), Sampling(grammar="held"), choices), [number, 5, 5])
        for _ in range(100):
            if not steps.step():
                break
        assert steps.idle
        assert all(sampler.closed for sampler in MADE)
        return [*sent, model]

    return run


def texts(sent: list[Any]) -> dict[tuple[int, int], str]:
    """Return the text of each choice of each request that was answered to its end."""
    pieces: list[Piece] = [piece for message in sent if isinstance(message, Pieces) for piece in message.pieces]
    said = [((piece.request, piece.delta.choice), piece.delta) for piece in pieces]
    ended = {end for end, delta in said if delta.finish is Finish.STOP}
    return {end: "".join(delta.text for whose, delta in said if whose == end) for end in ended}


def refusals(sent: list[Any]) -> list[tuple[int, str | None]]:
    """Return which requests were refused, and by which code."""
    return [(each.request, each.code) for each in sent if isinstance(each, Refused)]


def test_an_answer_without_a_token_is_left_out_of_steps(ask: Callable[..., list[Any]]) -> None:
    """Its neighbour goes on, and it goes on itself once the token is there; at the first as at a later one."""
    *sent, model = ask({0: [LATE, LATE, ord("a"), LATE, LATE, LATE, LATE, ord("b"), 0]}, {})
    assert texts(sent) == {(1, 0): "ab", (2, 0): "plain"}
    assert model.steps == [[1, 2], [2], [1, 2], [2], [2], [2], [1]]


def test_with_nothing_else_to_compute_a_token_is_waited_for(ask: Callable[..., list[Any]]) -> None:
    """There is something to do as long as one is missing."""
    *sent, _ = ask({0: [ord("a"), *[LATE] * 20, ord("b"), 0]})
    assert texts(sent) == {(1, 0): "ab"}


@pytest.mark.parametrize("late", [[], [LATE, LATE]])
def test_a_choice_that_comes_to_no_end_ends_its_request_alone(ask: Callable[..., list[Any]], late: list[Token]) -> None:
    """Once, however many choices it has, and whether its token was late or not."""
    *sent, _ = ask({0: [ord("a"), *late, SLOW], 1: [ord("a"), *late, SLOW]}, {}, choices=2)
    assert refusals(sent) == [(1, "grammar_too_slow")]
    assert texts(sent) == {(2, 0): "plain", (2, 1): "plain"}


def test_a_grammar_is_held_to_its_limit_before_its_turn(ask: Callable[..., list[Any]]) -> None:
    """A request that waits for a slot has its grammar read already, and nobody may wait for that without end."""
    *sent, model = ask({0: [LATE] * 5 + [0]}, {0: [LATE] * 5 + [0]}, {"error": SLOW})
    assert refusals(sent) == [(3, "grammar_too_slow")]
    assert not any(3 in step for step in model.steps)
    assert texts(sent).keys() == {(1, 0), (2, 0)}


def test_a_long_prompt_takes_steps_that_answers_can_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large a step may be, by what one takes on this machine; the answer beside it has a token of each."""
    monkeypatch.setattr(loop_module, "Sampler", Tokens)
    SCRIPTS[1], SCRIPTS[2] = {0: [ord("a")] * 100}, {0: [0]}
    model, sent = Model(), list[Any]()
    steps = loop(model, sent, lambda: model.now, context=4096, batch=4096)
    steps.submit(Submit(1, "", None, (), Sampling()), [1, 5])
    # The first steps know nothing of the machine yet.
    steps.submit(Submit(3, "", 1, (), Sampling()), [2, *[5] * 40])
    for _ in range(3):
        steps.step()
    sent.clear()
    steps.submit(Submit(2, "", 1, (), Sampling()), [2, *[7] * 1500])
    took, before = list[float](), model.now
    while not any(piece.request == 2 for message in sent for piece in message.pieces):
        steps.step()
        took.append(model.now - before)
        before = model.now
    assert max(took) <= ALONGSIDE_SECONDS * 1.25 + TOKEN_SECONDS
    assert len(took) >= 1500 * TOKEN_SECONDS / ALONGSIDE_SECONDS / 1.25
    assert sum(piece.request == 1 for message in sent for piece in message.pieces) == len(took)


class Given(Tokens):
    """A sampler that keeps what it is given: where its logits are, and the likeliest token there."""

    def __init__(self, *_: Any, prompt: list[int], choice: int, **__: Any) -> None:
        super().__init__(prompt=prompt, choice=choice)
        self.plain = choice == 0

    def ask(self, context: Any, output: int, largest: int) -> None:
        GIVEN.append((output, largest))


GIVEN: list[tuple[int, int]] = []


@pytest.mark.parametrize(
    ("requests", "given"),
    [
        pytest.param([(2, 3)], [[(2, 500), (5, 501)], [(0, 500), (1, 501)]], id="one is drawn"),
        pytest.param([(1, 3), (1, 20)], [[(2, 500)], [(0, 500)], [(0, 500)]], id="beside a prompt in pieces"),
    ],
)
def test_each_answer_gets_the_likeliest_token_of_its_own_output(
    monkeypatch: pytest.MonkeyPatch, requests: list[tuple[int, int]], given: list[list[tuple[int, int]]]
) -> None:
    """Outputs are in the order of the step, and only those that are wanted have one."""
    monkeypatch.setattr(loop_module, "Sampler", Given)
    model = Model()
    model.largest = lambda rows: [500 + row for row in range(rows)]  # type: ignore[attr-defined]
    steps = loop(model, [], lambda: model.now, batch=8)
    for number, (choices, length) in enumerate(requests, 1):
        SCRIPTS[number] = {choice: [ord("a")] * 9 for choice in range(2)}
        steps.submit(Submit(number, "", None, (), Sampling(), choices), [number, *range(2, length + 1)])
    for expected in given:
        GIVEN.clear()
        steps.step()
        assert expected == GIVEN


class Stuck:
    """Steps of which something is stuck."""

    def __init__(self) -> None:
        self.stuck, self.idle = 0.0, True


def test_a_process_with_something_stuck_ends_when_nobody_has_asked_for_a_while() -> None:
    """Not before it is stuck for long, not while somebody waits, and not in a gap between two requests."""
    now = 100.0
    process, steps = program.Program(None, lambda: now), Stuck()  # type: ignore[arg-type]

    def look(seconds: float, *, stuck: float, idle: bool = True) -> None:
        nonlocal now
        now += seconds
        steps.stuck, steps.idle = stuck, idle
        process._look_for_stuck(steps)  # type: ignore[arg-type]

    look(60, stuck=0.0)
    look(60, stuck=wire.STUCK_SECONDS - 1)
    look(60, stuck=wire.STUCK_SECONDS + 1)
    look(program.IDLE_SECONDS - 1, stuck=wire.STUCK_SECONDS + 3)
    look(0.5, stuck=wire.STUCK_SECONDS + 4, idle=False)
    look(60, stuck=wire.STUCK_SECONDS + 60)
    process._inbox.put(lambda: None)
    look(60, stuck=wire.STUCK_SECONDS + 120)
    process._inbox.get()
    look(60, stuck=wire.STUCK_SECONDS + 180)
    look(0.5, stuck=0.0)
    look(60, stuck=wire.STUCK_SECONDS + 60)
    with pytest.raises(EngineError, match="a grammar of a client has no end"):
        look(program.IDLE_SECONDS, stuck=wire.STUCK_SECONDS + 63)
