"""Admission and waiting: who gets a worker, in which order, and who is sent away when."""

import asyncio
from collections.abc import Callable

import httpx
import pytest

from rbee_runtime.config import FleetFile
from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.seam import Ask
from rbee_runtime.queen.lines import QUEUE_MIN, Lines
from rbee_runtime.queen.probes import Probes
from rbee_runtime.queen.records import Scope
from rbee_runtime.states import Observed
from tests.unit.queen.states import Fixture, fleet, model

Maker = Callable[[FleetFile], Fixture]


def line_up(q: Fixture) -> Lines:
    lines = Lines(q.controller, q.controller.roster, queue_wait=60.0, clock=q.clock)
    q.controller.on_change = lines.changed
    return lines


def key(q: Fixture, models: tuple[str, ...] = ("*",), scope: Scope = Scope.INFER) -> str:
    return q.keys.create("test", [scope], models)[0].id


async def code(lines: Lines, ask: Ask) -> tuple[int, str | None]:
    with pytest.raises(RequestError) as refused:
        await lines.lease(ask)
    return refused.value.status, refused.value.code


async def test_refusals_come_in_the_order_key_scope_model(queen: Maker) -> None:
    """What a caller may not know it is not told."""
    q = queen(fleet(model()))
    lines = line_up(q)
    assert await code(lines, Ask("nobody", "m")) == (401, "invalid_api_key")
    assert await code(lines, Ask(key(q, scope=Scope.ADMIN_READ), "m")) == (403, "insufficient_scope")
    assert await code(lines, Ask(key(q, models=("x*",)), "m")) == (403, "model_not_allowed")
    assert await code(lines, Ask(key(q), "unknown")) == (404, "model_not_found")


async def test_the_worker_with_the_fewest_requests_gets_the_next(queen: Maker) -> None:
    """Four requests over two workers are two each."""
    q = queen(fleet(model(replicas_min=2, slots=4), hives=("a", "b")))
    q.beat("a", "b")
    q.beat("a", "b")
    lines = line_up(q)
    mine = key(q)
    leases = [await lines.lease(Ask(mine, "m")) for _ in range(4)]
    assert sorted(lease.worker for lease in leases) == ["m-000001", "m-000001", "m-000002", "m-000002"]


async def test_waiting_is_first_come_first_served(queen: Maker) -> None:
    """A freed slot goes to the one in front, never to a newcomer."""
    q = queen(fleet(model(), hives=("a",)))
    q.beat("a")
    q.beat("a")
    lines, ask = line_up(q), Ask(key(q), "m")
    lease = await lines.lease(ask)
    served: list[int] = []

    async def want(number: int) -> None:
        mine = await lines.lease(ask)
        served.append(number)
        mine.release()

    waiting = [asyncio.create_task(want(number)) for number in range(5)]
    await asyncio.sleep(0)
    lease.release()
    await asyncio.gather(*waiting)
    assert served == [0, 1, 2, 3, 4]
    assert q.controller.roster.in_flight("m-000001") == 0


async def test_a_busy_model_gives_429_after_the_queue_wait(queen: Maker) -> None:
    """Waiting for a slot ends with 429 and a Retry-After, not earlier than the limit."""
    q = queen(fleet(model(), hives=("a",)))
    q.beat("a")
    q.beat("a")
    lines, ask = line_up(q), Ask(key(q), "m")
    await lines.lease(ask)
    waiting = asyncio.create_task(code(lines, ask))
    await asyncio.sleep(0)
    q.clock.now += 59
    lines.sweep()
    assert not waiting.done()
    q.clock.now += 1
    lines.sweep()
    assert await waiting == (429, "queue_timeout")


async def test_a_cold_model_is_waited_for_and_served_when_ready(queen: Maker) -> None:
    """A request for a model that loads is answered once its worker is ready."""
    q = queen(fleet(model(load_wait=300), hives=("a",)))
    lines = line_up(q)
    waiting = asyncio.create_task(lines.lease(Ask(key(q), "m")))
    q.beat("a")
    q.beat("a", state=Observed.STARTING)
    await asyncio.sleep(0)
    assert not waiting.done()
    q.beat("a")
    assert (await waiting).worker == "m-000001"


async def test_a_cold_model_gives_503_after_its_load_wait(queen: Maker) -> None:
    """Waiting for a load ends with 503."""
    q = queen(fleet(model(load_wait=300), hives=("a",)))
    lines = line_up(q)
    waiting = asyncio.create_task(code(lines, Ask(key(q), "m")))
    await asyncio.sleep(0)
    q.clock.now += 300
    lines.sweep()
    assert await waiting == (503, "model_not_ready")


async def test_a_model_whose_workers_only_crash_is_refused_at_once(queen: Maker) -> None:
    """Nobody waits for what will not come."""
    q = queen(fleet(model(), hives=("a",)))
    q.beat("a")
    q.beat("a", state=Observed.CRASH_LOOP)
    assert await code(line_up(q), Ask(key(q), "m")) == (503, "model_not_ready")


async def test_too_many_waiting_are_refused_at_once(queen: Maker) -> None:
    """The line has an end."""
    q = queen(fleet(model(), hives=("a",)))
    lines, ask = line_up(q), Ask(key(q), "m")
    waiting = [asyncio.create_task(lines.lease(ask)) for _ in range(QUEUE_MIN)]
    await asyncio.sleep(0)
    assert await code(lines, ask) == (429, "queue_full")
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert lines.waiting("m") == 0


async def test_a_client_that_leaves_in_its_turn_gives_the_slot_back(queen: Maker) -> None:
    """A lease handed to a cancelled waiter is not lost."""
    q = queen(fleet(model(), hives=("a",)))
    q.beat("a")
    q.beat("a")
    lines, ask = line_up(q), Ask(key(q), "m")
    lease = await lines.lease(ask)
    waiting = asyncio.create_task(lines.lease(ask))
    await asyncio.sleep(0)
    lease.release()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert q.controller.roster.in_flight("m-000001") == 0


async def test_a_revoked_key_leaves_the_line(queen: Maker) -> None:
    """Revoking is effective for those that wait, too."""
    q = queen(fleet(model(), hives=("a",)))
    lines, mine = line_up(q), key(q)
    waiting = asyncio.create_task(code(lines, Ask(mine, "m")))
    await asyncio.sleep(0)
    q.keys.revoke(mine)
    lines.sweep()
    assert await waiting == (401, "invalid_api_key")


async def test_a_failed_worker_is_left_alone_for_a_while(queen: Maker) -> None:
    """After a failure the other worker gets everything, and longer after each further failure."""
    q = queen(fleet(model(replicas_min=2, slots=9), hives=("a", "b")))
    q.beat("a", "b")
    q.beat("a", "b")
    lines, ask = line_up(q), Ask(key(q), "m")
    first = await lines.lease(ask)
    first.settle(answered=False)
    assert {(await lines.lease(ask)).worker for _ in range(4)} == {"m-000001", "m-000002"} - {first.worker}
    q.clock.now += 1.1
    assert (await lines.lease(ask)).worker == first.worker


async def test_a_drained_hive_gets_no_requests(queen: Maker) -> None:
    """Draining takes effect with the next request, and its worker goes when nothing is in flight."""
    q = queen(fleet(model(replicas_min=2, slots=9), hives=("a", "b")))
    q.beat("a", "b")
    q.beat("a", "b")
    lines, ask = line_up(q), Ask(key(q), "m")
    leases = [await lines.lease(ask) for _ in range(2)]
    q.controller.set_drained("a", drained=True)
    assert {(await lines.lease(ask)).worker for _ in range(3)} == set(q.workers("b")[:1])
    assert q.workers("a")
    for lease in leases:
        lease.release()
    q.controller.reconcile()
    assert not q.workers("a")


async def test_the_retry_budget_runs_out_and_fills_with_requests(queen: Maker) -> None:
    """One retry for five requests once the stock is used up."""
    q = queen(fleet(model(slots=99), hives=("a",)))
    q.beat("a")
    q.beat("a")
    lines, ask = line_up(q), Ask(key(q), "m")
    while lines.may_retry():
        pass
    for _ in range(5):
        assert not lines.may_retry()
        lease = lines.at_once(ask)
        assert lease is not None
        lease.release()
    lines.at_once(ask)
    assert lines.may_retry()


async def test_a_worker_that_refuses_connections_is_waited_for(queen: Maker) -> None:
    """After a host lost power its last word is `ready`: a request that found nobody there waits until it is back."""
    q = queen(fleet(model(), hives=("a",)))
    q.beat("a")
    q.beat("a")
    lines, ask = line_up(q), Ask(key(q), "m")
    lines.doubt = q.controller.doubt
    lease = await lines.lease(ask)
    lease.settle(answered=False, reached=False)
    lease.release()
    again = asyncio.create_task(lines.lease(ask))
    q.beat("a")
    await asyncio.sleep(0)
    assert not again.done()
    q.beat("a", state=Observed.STARTING)
    q.beat("a")
    assert (await asyncio.wait_for(again, 1)).worker == lease.worker


async def test_a_probe_ends_a_doubt(queen: Maker) -> None:
    """A worker that refused once but answers its probe takes requests again, though its hive said nothing new."""
    q = queen(fleet(model(), hives=("a",)))
    q.beat("a")
    q.beat("a")
    (worker,) = q.workers("a")
    q.controller.doubt(worker)
    assert not q.controller.seats("m")[0].usable
    answers = httpx.MockTransport(lambda _: httpx.Response(200))
    async with httpx.AsyncClient(transport=answers) as client:
        await Probes(q.controller, client).once()
    assert q.controller.seats("m")[0].usable


async def test_a_leaving_queen_lets_nobody_wait_for_a_cold_model(queen: Maker) -> None:
    """No worker reports to it: who waits for a load is told to ask the next queen, who waits for a slot stays."""
    q = queen(fleet(model(), model("cold"), hives=("a",)))
    q.beat("a")
    q.beat("a")
    cold = next(entry.id for entry in q.controller.assignments.values() if entry.spec.model == "cold")
    q.controller.doubt(cold)
    lines, mine = line_up(q), key(q)
    lease = await lines.lease(Ask(mine, "m"))
    for_slot = asyncio.create_task(lines.lease(Ask(mine, "m")))
    for_load = asyncio.create_task(lines.lease(Ask(mine, "cold")))
    await asyncio.sleep(0)
    lines.leave()
    with pytest.raises(RequestError, match="is being replaced"):
        await for_load
    lease.release()
    assert (await for_slot).worker == lease.worker
