"""What keys may use: at a time, per minute, and together with the keys that they made."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.seam import Ask
from rbee_runtime.queen.limits import DEFAULT_ANSWER, Bucket, Charge, Limiter
from rbee_runtime.queen.records import KeyLimits, KeyRecord
from tests.unit.queen.states import Clock

RECORD = KeyRecord("k", "n", "", frozenset(), ("*",), 0)


def limiter(clock: Clock, *records: KeyRecord, **limits: int) -> Limiter:
    known = {each.id: each for each in (replace(RECORD, limits=KeyLimits(**limits)), *records)}
    return Limiter(known.get, clock)


def entered(made: Limiter, ask: Ask) -> Charge:
    charge = made.enter(ask)
    assert charge is not None
    return charge


def refused(made: Limiter, ask: Ask) -> tuple[int, str | None, int | None]:
    with pytest.raises(RequestError) as found:
        made.enter(ask)
    return found.value.status, found.value.code, found.value.retry_after


def test_requests_per_minute_fill_evenly() -> None:
    """After a minute's worth the next one is refused with the time until it may come, and then may come."""
    clock = Clock()
    made, ask = limiter(clock, requests_per_minute=4), Ask("k", "m")
    for _ in range(4):
        entered(made, ask)
    assert refused(made, ask) == (429, "rate_limit_requests", 15)
    clock.now += 14.9
    assert refused(made, ask) == (429, "rate_limit_requests", 1)
    clock.now += 0.1
    entered(made, ask)
    assert refused(made, ask)[1] == "rate_limit_requests"


@pytest.mark.parametrize(("per_minute", "told"), [(1, 60), (2, 30), (60, 1), (10**9, None)])
def test_the_time_to_wait_is_whole_seconds_up_to_60(per_minute: int, told: int | None) -> None:
    """Clients heed no longer one, and none of 0."""
    made, ask = limiter(Clock(), requests_per_minute=per_minute), Ask("k", "m")
    for _ in range(min(per_minute, 100)):
        entered(made, ask)
    if told is None:
        entered(made, ask)
    else:
        assert refused(made, ask) == (429, "rate_limit_requests", told)


def test_requests_at_a_time_are_counted_until_they_leave() -> None:
    """A limit of two holds whatever became of the others, and leaving twice frees one place."""
    made, ask = limiter(Clock(), concurrency=2), Ask("k", "m")
    first, _ = entered(made, ask), entered(made, ask)
    assert refused(made, ask) == (429, "key_concurrency", 1)
    for _ in range(2):
        first.leave()
    entered(made, ask)
    assert refused(made, ask)[1] == "key_concurrency"


def test_tokens_are_taken_by_estimate_and_corrected() -> None:
    """A long prompt and a long limit take their part at once; what was not used comes back."""
    made = limiter(Clock(), tokens_per_minute=1000)
    charge = entered(made, Ask("k", "m", size=2000, limit=400))
    assert refused(made, Ask("k", "m", size=4, limit=100)) == (429, "rate_limit_tokens", 1)
    charge.correct(500, 100)
    entered(made, Ask("k", "m", size=4, limit=399))


def test_a_request_beyond_the_limit_waits_for_a_full_bucket() -> None:
    """It is not refused for ever, and leaves at most a debt of its own size."""
    clock = Clock()
    made = limiter(clock, tokens_per_minute=600)
    huge = Ask("k", "m", limit=100_000)
    charge = entered(made, huge)
    assert refused(made, huge) == (429, "rate_limit_tokens", 60)
    charge.correct(0, 900)
    assert made.headers("k")[1] == (b"x-ratelimit-remaining-tokens", b"0")
    clock.now += 59.9
    assert refused(made, huge)[2] == 31
    clock.now += 30.1
    entered(made, huge)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 5000), st.floats(0, 30)), max_size=40))
def test_a_debt_is_no_larger_than_the_request_that_made_it(history: list[tuple[int, int, float]]) -> None:
    """Whatever was thought and cost, many requests that were thought too small do not add up."""
    bucket, clock, worst = Bucket(1000, 0.0), 0.0, 0
    for thought, cost, later in history:
        if not bucket.wait(thought, clock):
            bucket.correct(bucket.take(thought, clock), cost, clock)
            worst = max(worst, cost)
        assert -worst - 1e-6 <= bucket.level(clock) <= 1000
        clock += later


def test_many_small_estimates_leave_one_debt() -> None:
    """Ten answers at a time that were each longer than thought are not all paid for afterwards."""
    clock = Clock()
    made = limiter(clock, tokens_per_minute=10_000)
    charges = [entered(made, Ask("k", "m", limit=1000)) for _ in range(10)]
    for charge in charges:
        charge.correct(0, 5000)
    clock.now += 30.0
    assert made.headers("k")[1] == (b"x-ratelimit-remaining-tokens", b"0")
    clock.now += 0.1
    entered(made, Ask("k", "m", limit=1))


def test_answers_without_a_limit_are_judged_by_those_before() -> None:
    """A key whose answers are long is charged for long ones, after some of them."""
    made, ask = limiter(Clock(), tokens_per_minute=10**9), Ask("k", "m")
    assert made.estimate(ask) == (0, DEFAULT_ANSWER)
    for _ in range(60):
        entered(made, ask).correct(10, 4000)
    assert 3900 < made.estimate(ask)[1] <= 4000


def test_another_try_is_free_of_limits_but_counted() -> None:
    """A request that is in already is not sent away because a worker failed; its tokens are taken once more."""
    made = limiter(Clock(), requests_per_minute=1, concurrency=1, tokens_per_minute=1000)
    first = entered(made, Ask("k", "m", limit=600))
    first.refund(requests=False)
    first.leave()
    entered(made, Ask("k", "m", frozenset("w"), limit=600))
    assert refused(made, Ask("k", "m", limit=1))[1] == "key_concurrency"
    assert made.headers("k")[1] == (b"x-ratelimit-remaining-requests", b"0")
    assert made.headers("k")[4] == (b"x-ratelimit-remaining-tokens", b"400")


def test_what_never_reached_a_worker_is_given_back() -> None:
    """Requests and tokens, so that a fleet that is away uses up nobody's minute."""
    made = limiter(Clock(), requests_per_minute=1, tokens_per_minute=100)
    charge = entered(made, Ask("k", "m", limit=100))
    charge.refund(requests=True)
    charge.leave()
    entered(made, Ask("k", "m", limit=100))


def test_keys_draw_on_the_limits_of_those_that_made_them() -> None:
    """Two keys of a limited one have together what that has, over one without limits and after it was revoked, too."""
    clock = Clock()
    parent = replace(RECORD, id="p", limits=KeyLimits(requests_per_minute=3), revoked=1)
    between = replace(RECORD, id="q", parent="p")
    children = [replace(RECORD, id=name, parent="q", limits=KeyLimits(requests_per_minute=2)) for name in "ab"]
    made = limiter(clock, parent, between, *children)
    entered(made, Ask("a", "m"))
    entered(made, Ask("a", "m"))
    assert refused(made, Ask("a", "m"))[2] == 30
    entered(made, Ask("b", "m"))
    assert refused(made, Ask("b", "m")) == (429, "rate_limit_requests", 20)


def test_keys_without_limits_cost_nothing() -> None:
    """Neither they nor unknown ids are counted or told anything."""
    made = limiter(Clock())
    assert (made.enter(Ask("k", "m")), made.enter(Ask("unknown", "m"))) == (None, None)
    assert (made.headers("k"), made.headers("unknown")) == ([], [])


def test_what_is_left_is_told_under_the_usual_names() -> None:
    """Limit, what remains, and the time until it is all there again."""
    clock = Clock()
    made = limiter(clock, requests_per_minute=10, tokens_per_minute=1000)
    entered(made, Ask("k", "m", limit=100))
    told = {name.decode().removeprefix("x-ratelimit-"): value.decode() for name, value in made.headers("k")}
    assert told == {
        "limit-requests": "10",
        "remaining-requests": "9",
        "reset-requests": "6s",
        "limit-tokens": "1000",
        "remaining-tokens": "900",
        "reset-tokens": "6s",
    }
