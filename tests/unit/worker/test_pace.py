"""How many tokens of prompts a step may take."""

from rbee_runtime.worker.engines.llamacpp.pace import ALONE_SECONDS, ALONGSIDE_SECONDS, FIRST, LEAST, TILE, Pace


def _learned(*, token: float, answers: float = 0.01) -> Pace:
    pace = Pace(512)
    for _ in range(40):
        pace.took(answers, prompts=0, answering=2)
        pace.took(answers + 64 * token, prompts=64, answering=2)
    return pace


def test_the_first_step_is_a_careful_guess() -> None:
    """Nothing is known of the machine yet, so a chunk is small enough for a slow one."""
    assert (Pace(512).room(0), Pace(64).room(0)) == (FIRST, 64)


def test_prompts_take_so_much_that_answers_are_late_by_the_bound() -> None:
    """What a step's prompts add to it is the time that is allowed, alone more than beside answers."""
    # Whole tiles: the bounds are five and seven of them for such a token.
    token = 0.00156
    pace = _learned(token=token)
    assert (pace.room(1) % TILE, pace.room(0) % TILE) == (0, 0)
    assert abs(pace.room(1) * token - ALONGSIDE_SECONDS) < 0.01
    assert abs(pace.room(0) * token - ALONE_SECONDS) < 0.01


def test_a_fast_machine_fills_the_batch_and_a_slow_one_gets_the_least() -> None:
    """The room is never more than a step holds, nor so little that it takes for ever."""
    assert (_learned(token=1e-6).room(1), _learned(token=1.0).room(1)) == (512, LEAST)


def test_a_short_prompt_is_whole_in_a_step_that_takes_less_than_a_second() -> None:
    """What answers beside it take counts; up to three times what a long one gets, and no more than a step holds."""
    pace = _learned(token=0.002, answers=0.1)
    assert pace.room(4, 1) < pace.whole(4, 1) == 3 * 64 < pace.whole(1, 1) < pace.whole(0) == 349
    assert 0.1 + pace.whole(1, 1) * 0.002 <= ALONE_SECONDS
    assert (_learned(token=1e-6).whole(1), Pace(64).whole(0), _learned(token=0.002, answers=9.0).whole(1)) == (
        512,
        64,
        0,
    )


def test_steps_of_few_prompt_tokens_teach_nothing() -> None:
    """The cost of a step is not that of its one token."""
    pace = _learned(token=0.002)
    before = pace.room(1)
    pace.took(5.0, prompts=1, answering=2)
    assert pace.room(1) == before


def test_many_prompts_that_wait_get_longer_steps_than_few() -> None:
    """By how many wait for one that runs, up to what a step may take alone."""
    pace = _learned(token=0.002)
    rooms = [pace.room(answering, waiting) for answering, waiting in ((4, 1), (4, 2), (4, 4), (5, 6), (4, 8), (1, 7))]
    assert rooms[0] == rooms[1] < rooms[2] < rooms[3] < rooms[4] == rooms[5] == pace.room(0)
