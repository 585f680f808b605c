"""Leases within the limits of keys: who is admitted, in which order, and what is counted for it."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from rbee_runtime.config import FleetFile
from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.seam import Ask
from rbee_runtime.queen.limits import MOST_TOKENS
from rbee_runtime.queen.lines import QUEUE_MIN, Lines, SlotLease
from rbee_runtime.queen.records import NO_LIMITS, KeyLimits, Priority, Scope
from tests.unit.queen.states import Fixture, fleet, model
from tests.unit.queen.test_lines import code, line_up

Maker = Callable[[FleetFile], Fixture]


def serving(queen: Maker, slots: int = 1) -> tuple[Fixture, Lines]:
    """Return a queen with one ready worker, and her lines."""
    q = queen(fleet(model(slots=slots), hives=("a",)))
    q.beat("a")
    q.beat("a")
    return q, line_up(q)


def key(q: Fixture, priority: Priority = Priority.NORMAL, limits: KeyLimits = NO_LIMITS) -> str:
    return q.keys.create("test", [Scope.INFER], limits=limits, priority=priority)[0].id


def taken(lines: Lines, ask: Ask) -> SlotLease:
    lease = lines.at_once(ask)
    assert lease is not None
    return lease


@dataclass
class Crowd:
    """Requests that come as the relay brings them, and what becomes of each."""

    lines: Lines
    leases: list[tuple[str, SlotLease]] = field(default_factory=list)
    refusals: list[RequestError] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def come(self, ask: Ask) -> None:
        try:
            lease = self.lines.at_once(ask)
        except RequestError as refusal:
            self.refusals.append(refusal)
            return
        if lease is not None:
            self.leases.append((ask.key, lease))
        else:
            self.tasks.append(asyncio.create_task(self._wait(ask)))

    async def _wait(self, ask: Ask) -> None:
        try:
            self.leases.append((ask.key, await self.lines.lease(ask)))
        except RequestError as refusal:
            self.refusals.append(refusal)

    async def serve(self) -> list[str]:
        """Answer everyone, one after the other, and return whose turn it was in which order."""
        order = []
        while self.leases:
            whose, lease = self.leases.pop(0)
            order.append(whose)
            lease.release()
            await asyncio.sleep(0)
        return order


@pytest.mark.parametrize("shuffled", [True, False])
async def test_a_rush_is_bounded_and_fair(queen: Maker, *, shuffled: bool) -> None:
    """500 requests of 4 keys on 4 slots: 36 are admitted, 9 of each key and in turn, the others get 429 at once."""
    q, lines = serving(queen, slots=4)
    keys = [key(q) for _ in range(4)]
    asks = [Ask(each, "m") for each in keys for _ in range(125)]
    if shuffled:
        random.Random(9).shuffle(asks)
    crowd, began = Crowd(lines), time.perf_counter()
    for ask in asks:
        crowd.come(ask)
        await asyncio.sleep(0)
    assert (time.perf_counter() - began) / len(asks) < 0.1
    assert (len(crowd.refusals), lines.waiting("m")) == (464, 32)
    assert {(each.status, each.code) for each in crowd.refusals} == {(429, "queue_full")}
    assert all(each.retry_after is not None and 1 <= each.retry_after <= 60 for each in crowd.refusals)
    order = await crowd.serve()
    assert Counter(order) == dict.fromkeys(keys, 9)
    if shuffled:
        assert all(3 <= count <= 5 for count in Counter(order[4:20]).values())


async def test_what_is_free_is_had_without_a_task(queen: Maker) -> None:
    """The plain call gives a lease, or says that the request has to wait, which it does not do itself."""
    q, lines = serving(queen)
    ask = Ask(key(q), "m")
    lease = taken(lines, ask)
    assert lines.at_once(ask) is None
    assert lines.waiting("m") == 0
    lease.release()
    assert lines.at_once(ask) is not None


async def test_a_newcomer_does_not_overtake_by_the_plain_call(queen: Maker) -> None:
    """While others wait, it waits behind them even in the moment in which a slot is free."""
    q, lines = serving(queen)
    lease = taken(lines, Ask(key(q), "m"))
    waiting = asyncio.create_task(lines.lease(Ask(key(q), "m")))
    await asyncio.sleep(0)
    lease.release()
    assert lines.at_once(Ask(key(q), "m")) is None
    (await waiting).release()


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (KeyLimits(concurrency=1), "key_concurrency"),
        (KeyLimits(requests_per_minute=1), "rate_limit_requests"),
        (KeyLimits(tokens_per_minute=600), "rate_limit_tokens"),
    ],
)
async def test_a_limit_is_told_at_once_and_holds_one_key_only(queen: Maker, limits: KeyLimits, expected: str) -> None:
    """A key at its limit gets 429 whether or not a slot is free, and others are served."""
    q, lines = serving(queen, slots=2)
    mine = Ask(key(q, limits=limits), "m", size=40, limit=500)
    taken(lines, mine)
    assert await code(lines, mine) == (429, expected)
    others = taken(lines, Ask(key(q), "m"))
    assert await code(lines, mine) == (429, expected)
    others.release()


async def test_who_waits_counts_as_one_at_a_time(queen: Maker) -> None:
    """A key with a limit of two has one answer and one place in line, not two of each; who leaves frees a place."""
    q, lines = serving(queen)
    ask = Ask(key(q, limits=KeyLimits(concurrency=2)), "m")
    taken(lines, ask)
    waiting = asyncio.create_task(lines.lease(ask))
    await asyncio.sleep(0)
    assert await code(lines, ask) == (429, "key_concurrency")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert lines.at_once(ask) is None


async def test_who_waited_in_vain_is_charged_nothing(queen: Maker) -> None:
    """A request that gets no worker in time has used nothing of its key's minute."""
    q, lines = serving(queen)
    taken(lines, Ask(key(q), "m"))
    mine = Ask(key(q, limits=KeyLimits(requests_per_minute=1, tokens_per_minute=100)), "m", limit=100)
    for _ in range(2):
        waiting = asyncio.create_task(code(lines, mine))
        await asyncio.sleep(0)
        q.clock.now += 60.0
        lines.sweep()
        assert await waiting == (429, "queue_timeout")


async def test_who_finds_the_line_full_is_charged_nothing(queen: Maker) -> None:
    """A refusal for want of room costs no part of a minute."""
    q, lines = serving(queen)
    crowd, whose = Crowd(lines), [key(q) for _ in range(QUEUE_MIN + 1)]
    for each in whose:
        crowd.come(Ask(each, "m"))
        await asyncio.sleep(0)
    mine = key(q, limits=KeyLimits(requests_per_minute=1))
    for _ in range(3):
        assert await code(lines, Ask(mine, "m")) == (429, "queue_full")
    crowd.leases[0][1].release()
    assert lines.at_once(Ask(mine, "m")) is None
    await asyncio.sleep(0)
    await crowd.serve()


async def test_who_waits_with_a_key_that_ends_is_told(queen: Maker) -> None:
    """A key's last second is the last of its waiting requests, too; an answer that began goes on."""
    q, lines = serving(queen)
    q.keys.now = q.clock
    mine = q.keys.create("test", [Scope.INFER], expires=int(q.clock.now) + 10)[0].id
    lease = taken(lines, Ask(mine, "m"))
    waiting = asyncio.create_task(code(lines, Ask(mine, "m")))
    await asyncio.sleep(0)
    q.clock.now += 10
    lines.sweep()
    assert await waiting == (401, "invalid_api_key")
    lease.release()


async def test_priority_classes_share_the_turns(queen: Maker) -> None:
    """Interactive requests go before batch ones that came first, which still have a turn among them."""
    q, lines = serving(queen)
    first, crowd = taken(lines, Ask(key(q), "m")), Crowd(lines)
    batch, person = key(q, Priority.BATCH), key(q, Priority.INTERACTIVE)
    for each in [batch] * 10 + [person] * 20:
        crowd.come(Ask(each, "m"))
        await asyncio.sleep(0)
    first.release()
    await asyncio.sleep(0)
    order = await crowd.serve()
    assert Counter(order[:17]) == {person: 16, batch: 1}
    assert Counter(order) == {person: 20, batch: 10}


async def test_another_try_goes_first_and_past_the_limits(queen: Maker) -> None:
    """A request whose worker failed is in already: neither its key's limits nor a full line send it away."""
    q = queen(fleet(model(replicas_min=2), hives=("a", "b")))
    q.beat("a", "b")
    q.beat("a", "b")
    lines, mine = line_up(q), key(q, limits=KeyLimits(requests_per_minute=1, concurrency=1))
    lease, other, crowd = taken(lines, Ask(mine, "m")), taken(lines, Ask(key(q), "m")), Crowd(lines)
    for _ in range(QUEUE_MIN):
        crowd.come(Ask(key(q), "m"))
        await asyncio.sleep(0)
    lease.settle(answered=False)
    lease.release()
    again = asyncio.create_task(lines.lease(Ask(mine, "m", frozenset({lease.worker}))))
    await asyncio.sleep(0)
    assert (again.done(), lines.waiting("m")) == (False, QUEUE_MIN + 1)
    other.release()
    assert (await again).worker == other.worker
    assert not crowd.leases
    for task in crowd.tasks:
        task.cancel()


async def test_what_an_answer_cost_replaces_the_estimate(queen: Maker) -> None:
    """A short answer to a request that might have had a long one leaves room for the next."""
    q, lines = serving(queen)
    ask = Ask(key(q, limits=KeyLimits(tokens_per_minute=1000)), "m", limit=900)
    lease = taken(lines, ask)
    lease.settle(answered=True)
    lease.spent(50, 10)
    lease.release()
    lease.release()
    assert lines.ratelimit_headers(ask.key)[1] == (b"x-ratelimit-remaining-tokens", b"940")


@pytest.mark.parametrize("limit", [-1, 10**400])
async def test_a_limit_without_sense_breaks_nothing(queen: Maker, limit: int) -> None:
    """Whatever a client asks for, its request is admitted, waits in line, and is counted in numbers that fit."""
    q, lines = serving(queen)
    lines.count = q.usage.count
    mine = Ask(key(q, limits=KeyLimits(tokens_per_minute=50)), "m", limit=limit)
    lease = taken(lines, mine)
    waiting = asyncio.create_task(lines.lease(Ask(key(q), "m", limit=limit)))
    await asyncio.sleep(0)
    lease.release()
    (await waiting).release()
    q.usage.flush()
    rows = q.store.usage(key="", model="", since="", until="9", most=9)
    assert [row.requests for row in rows] == [1, 1]


Counted = tuple[tuple[int, int], bool, bool, bool]


def counting(lines: Lines) -> list[Counted]:
    """Have a list of what is counted: tokens, and whether it is a request, an error, an estimate."""
    seen: list[Counted] = []

    def count(key: str, model: str, tokens: tuple[int, int], *, request: bool, error: bool, estimated: bool) -> None:
        seen.append((tokens, request, error, estimated))

    lines.count = count
    return seen


@pytest.mark.parametrize(
    ("settled", "spent", "tried", "counted"),
    [
        ({"answered": True}, (7, 3), (), ((7, 3), True, False, False)),
        ({"answered": True}, None, (), ((10, 20), True, False, True)),
        (None, None, (), ((10, 20), True, False, True)),
        ({"answered": False}, None, (), ((0, 0), True, True, False)),
        ({"answered": False}, (7, 1), (), ((7, 1), True, True, False)),
        ({"answered": False, "reached": False}, None, (), ((0, 0), False, True, False)),
        ({"answered": True}, (7, 3), ("other",), ((7, 3), False, False, False)),
        ({"answered": True}, (-7, 10**400), (), ((0, MOST_TOKENS), True, False, False)),
    ],
)
async def test_each_try_is_counted_once(
    queen: Maker,
    settled: dict[str, bool] | None,
    spent: tuple[int, int] | None,
    tried: tuple[str, ...],
    counted: Counted,
) -> None:
    """A request is one however many tries it takes, a failed try is an error, tokens are the worker's if told."""
    q, lines = serving(queen)
    seen = counting(lines)
    lease = taken(lines, Ask(key(q), "m", frozenset(tried), size=40, limit=20))
    if settled is not None:
        lease.settle(**settled)
    if spent is not None:
        lease.spent(*spent)
    for _ in range(2):
        lease.release()
    assert seen == [counted]


async def test_a_lease_that_nobody_takes_is_not_counted(queen: Maker) -> None:
    """A client that leaves in its turn used nothing, and the slot goes to the next."""
    q, lines = serving(queen)
    seen = counting(lines)
    mine = Ask(key(q, limits=KeyLimits(requests_per_minute=1)), "m")
    first = taken(lines, Ask(key(q), "m"))
    waiting = asyncio.create_task(lines.lease(mine))
    await asyncio.sleep(0)
    first.release()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert len(seen) == 1
    assert lines.at_once(mine) is not None
