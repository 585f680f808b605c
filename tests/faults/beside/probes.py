"""One coroutine for each row: put its fault to a gateway and say whether its promise held, and what was seen.

They look at a gateway from outside only, so that the same is asked of each.
"""

import asyncio
import collections
import contextlib
import re
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import httpx
import psutil

from tests.faults.beside import workers
from tests.faults.beside.asking import BODIES, PLAIN, STREAM, Seen, ask, leave_at
from tests.faults.beside.gateways import LINE, Gateway, Wants
from tests.faults.beside.workers import Told
from tests.faults.connections import open_and_close, read_slowly, sent
from tests.faults.rows import Row
from tests.unit.gateway.upstream import STREAM_HEAD, Call, drop, garbage, until_hung_up
from tests.unit.hive.waiting import until

TOKENS, EVERY = 60, 0.05
"""A stream of three seconds."""

GAP = 0.5
"""Seconds between two tokens that a client may see where a worker has one each EVERY."""


LONG = {**STREAM, "messages": [{"role": "user", "content": "long"}]}
"""What is asked, not who asks: that is not passed on by all."""


@dataclass(frozen=True)
class Held:
    """Whether a promise held, and what was seen."""

    ok: bool
    said: str

    def __str__(self) -> str:
        return f"{'held' if self.ok else 'NOT held'} ({self.said})"


Probe = Callable[[Gateway, Row], Awaitable[Held]]


@dataclass(frozen=True)
class Fault:
    """How a row is put to a gateway: how many workers, what limits, and by whom."""

    probe: Probe
    workers: int = 1
    wants: Callable[[Row], Wants] = lambda _: Wants()


async def f1(g: Gateway, row: Row) -> Held:
    """Kill one worker of two in the middle of streams."""
    for each in g.workers:
        each.does(workers.streaming(TOKENS, every=EVERY))
    async with g.client as client:
        seen = [Seen() for _ in range(row.figure("streams"))]
        asking = [asyncio.create_task(ask(client, STREAM, each)) for each in seen]
        await until(lambda: all(each.tokens > 5 for each in seen))
        on_it = len(g.workers[0].calls)
        killed = time.monotonic()
        g.workers[0].die()
        await asyncio.gather(*asking)
    whole = [each for each in seen if each.done]
    cut = [each for each in seen if not each.done]
    told = [each for each in cut if each.told and each.ended - killed <= row.figure("told_seconds")]
    gaps = [max(b - a for a, b in zip(each.times, each.times[1:], strict=False)) for each in whole]
    ok = len(told) == len(cut) == on_it and max(gaps, default=0.0) <= GAP
    return Held(ok, f"of {on_it} cut streams {len(told)} told, {len(whole)} of {len(seen) - on_it} others whole")


async def f2(g: Gateway, row: Row) -> Held:
    """Break every request at one worker before its first token."""
    dying, other = g.workers
    dying.does(drop)
    other.does(workers.streaming(3))
    answered, slowest, most = 0, 0.0, 0
    async with g.client as client:
        for _ in range(row.figure("requests")):
            before = g.calls
            seen = await ask(client, STREAM)
            answered += seen.done
            slowest, most = max(slowest, seen.seconds), max(most, g.calls - before)
    requests = row.figure("requests")
    ok = answered == requests and slowest <= row.figure("added_seconds") and most <= 2 and bool(dying.calls)
    return Held(ok, f"{answered} of {requests} answered, slowest {slowest:.2f} s, at most {most} calls each")


async def f3(g: Gateway, row: Row) -> Held:
    """Break every request at the only worker."""
    g.workers[0].does(drop)
    async with g.client as client:
        seen = await ask(client, STREAM)
    ok = seen.status == 503 and seen.refused and seen.seconds <= row.figure("refused_seconds")
    return Held(ok, f"{_status(seen)} after {seen.seconds:.2f} s")


async def f4(g: Gateway, row: Row) -> Held:
    """Answer what is no answer, before and after a first token."""
    said = []
    forms = (("half", workers.half_closed, STREAM), ("no end", workers.no_end, STREAM))
    early = (("garbage", garbage, STREAM), ("bad JSON", workers.bad_json, PLAIN))
    async with g.client as client:
        for name, script, body in (*forms, *early):
            g.workers[0].does(script)
            try:
                async with asyncio.timeout(row.figure("seconds")):
                    seen = await ask(client, body)
            except TimeoutError:
                said.append(f"{name}: silence")
                continue
            if not (seen.told or seen.status >= 500) or not g.workers[0].calls:
                said.append(f"{name}: {_status(seen)}")
    return Held(not said, "; ".join(said) or "4 of 4 told")


async def f5(g: Gateway, row: Row) -> Held:
    """Take requests and never answer, beside a worker that does."""
    limit, said, ok = row.figure("limit_seconds"), [], True
    silent, other = g.workers
    other.does(workers.good)
    async with g.client as client:
        for name, body in BODIES.items():
            silent.does(until_hung_up)
            seen = await _until_it_meets(silent, client, body)
            met = bool(silent.calls) and seen.done
            ok = ok and met and abs(seen.seconds - limit) <= row.figure("tolerance_seconds")
            said.append(f"{name} {_status(seen)} after {seen.seconds:.1f} s")
    return Held(ok, f"{', '.join(said)}; limit {limit:g} s")


async def f6(g: Gateway, row: Row) -> Held:
    """Send a byte now and then, for ever."""
    limit, said, ok = row.figure("idle_seconds"), [], True
    async with g.client as client:
        for name, body in BODIES.items():
            g.workers[0].does(workers.trickling(row.figure("byte_every")))
            g.workers[0].hung_up.clear()
            seen = Seen()
            try:
                async with asyncio.timeout(3 * limit + row.figure("tolerance_seconds")):
                    await ask(client, body, seen)
                told = seen.told or seen.status >= 500
                await asyncio.wait_for(g.workers[0].hung_up.wait(), 5)
            except TimeoutError:
                ok, told = False, False
            ok = ok and told and seen.seconds <= limit + row.figure("tolerance_seconds")
            said.append(f"{name} {_status(seen) if told else 'no word'} after {seen.seconds:.1f} s")
    return Held(ok, f"{', '.join(said)}; limit {limit:g} s")


async def f7(g: Gateway, row: Row) -> Held:
    """Leave a stream at its fifth event, and a whole answer before it comes, beside others who stay."""
    only, said, ok = g.workers[0], [], True
    async with g.client as client, g.client as leaver:
        for name, body in BODIES.items():
            only.does(workers.streaming(40, every=EVERY) if body is STREAM else until_hung_up)
            only.hung_up.clear()
            staying = [asyncio.create_task(ask(client, STREAM)) for _ in range(_neighbours(row, name))]
            leaving = asyncio.create_task(leave_at(leaver, body, 5))
            if body is PLAIN:
                await until(lambda: only.calls)
                leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            left = time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(only.hung_up.wait(), 10)
            took = time.monotonic() - left
            whole = sum([(await each).done for each in staying])
            ok = ok and took <= row.figure("closed_seconds") and whole == len(staying)
            said.append(f"{name} {f'{took:.2f} s' if only.hung_up.is_set() else 'never'}")
    return Held(ok, f"worker hears of it: {', '.join(said)}")


async def f8(g: Gateway, row: Row) -> Held:
    """Read long answers slowly while others ask for short ones."""

    async def by_length(call: Call) -> None:
        if b'"long"' not in call.body:
            await workers.streaming(3)(call)
            return
        await call.write(STREAM_HEAD)
        for _ in range(2000):
            await call.chunk(b'data: {"choices": [{"index": 0, "delta": {"content": "%s"}}]}\n\n' % (b"x" * 10_000))

    g.workers[0].does(by_length)
    before, rss = await _first_token(g), _rss(g)
    slow = [asyncio.create_task(read_slowly(g.port, g.key, LONG)) for _ in range(row.figure("clients"))]
    with contextlib.suppress(TimeoutError, AssertionError):
        await until(lambda: g.workers[0].open >= row.figure("clients"))
    await asyncio.sleep(1.0)
    after, grown = await _first_token(g), _rss(g) - rss
    for each in slow:
        each.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    ok = grown < row.figure("rss_mib") and after <= before * row.figure("slower") + row.figure("slack_seconds")
    return Held(ok, f"{grown:.0f} MiB more, first token {before * 1e3:.0f} to {after * 1e3:.0f} ms")


async def f9(g: Gateway, row: Row) -> Held:
    """Ask far more than there are slots and places in line."""
    fit, many = row.figure("slots") + LINE, row.figure("requests")
    go = asyncio.Event()

    async def waits(call: Call) -> None:
        await go.wait()
        await workers.good(call)

    g.workers[0].does(waits)
    answers: list[tuple[float, bytes]] = []

    async def one() -> None:
        begun = time.monotonic()
        reader, writer = await sent(g.port, g.key, PLAIN)
        head = await reader.readuntil(b"\r\n\r\n")
        answers.append((time.monotonic() - begun, head.lower()))
        writer.close()

    asking = [asyncio.create_task(one()) for _ in range(many)]
    with contextlib.suppress(TimeoutError, AssertionError):
        await until(lambda: len(answers) >= many - fit, within=20.0)
    early = [*answers]
    go.set()
    await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), 60)
    told = [head for _, head in early if head.startswith(b"http/1.1 429 ") and _comes_back(head)]
    served = sum(head.startswith(b"http/1.1 200 ") for _, head in answers)
    others = collections.Counter(head[9:12].decode() for _, head in answers if head[9:12] not in {b"200", b"429"})
    ok = len(told) == many - fit and served == fit and not others and g.workers[0].peak <= row.figure("slots")
    peak = f"{g.workers[0].peak} at a time at a worker of {row.figure('slots')} slots"
    rest = ", ".join(f"{count} {status}" for status, count in others.items()) or "no other answers"
    return Held(ok, f"{served} served, {len(told)} told at once when to come back, {rest}, {peak}")


async def f10(g: Gateway, _: Row) -> Held:
    """Ask the gateway to end in the middle of streams."""
    g.workers[0].does(workers.streaming(TOKENS, every=EVERY))
    async with g.client as client:
        seen = [Seen() for _ in range(10)]
        asking = [asyncio.create_task(ask(client, STREAM, each)) for each in seen]
        await until(lambda: all(each.tokens > 5 for each in seen))
        g.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*asking)
        longest = max(each.ended for each in seen)
    gone = await _gone(g.process, 20.0)
    done = sum(each.done for each in seen)
    ends = f"ends {gone - longest:.1f} s after the last" if gone else "does not end in 20 s"
    return Held(done == len(seen) and 0 < gone <= longest + 1.0, f"{done} of {len(seen)} streams whole, {ends}")


async def f12(g: Gateway, row: Row) -> Held:
    """Refuse everything for a while, at a steady rate of requests."""
    for each in g.workers:
        each.does(workers.busy)
    seconds, rate = row.figure("seconds"), row.figure("per_second")
    asking: list[asyncio.Task[Seen]] = []
    async with g.client as client:
        end = time.monotonic() + seconds
        while time.monotonic() < end and len(asking) < seconds * rate:
            asking.append(asyncio.create_task(ask(client, PLAIN)))
            await asyncio.sleep(1 / rate)
        await asyncio.gather(*asking)
    # The stock lets what is in flight on one dead worker move over at once.
    ok = g.calls <= row.figure("factor") * len(asking) + row.figure("more") + 10
    return Held(ok, f"{g.calls / len(asking):.2f} calls for a request")


async def f13(g: Gateway, row: Row) -> Held:
    """Open and close connections, most without a request."""
    async with g.client as client:
        for _ in range(20):
            await ask(client, PLAIN)
    await open_and_close(g.port, 200)
    await asyncio.sleep(1.0)
    files, rss, made = _files(g), _rss(g), 0
    end = time.monotonic() + row.figure("seconds")
    while time.monotonic() < end:
        begun = time.monotonic()
        await open_and_close(g.port, row.figure("per_second") // 10)
        made += row.figure("per_second") // 10
        await asyncio.sleep(max(0.0, 0.1 - (time.monotonic() - begun)))
    with contextlib.suppress(TimeoutError, AssertionError):
        await until(lambda: _files(g) <= files * (1 + row.figure("share")))
    left, grown = _files(g) - files, _rss(g) - rss
    slack = row.figure("share") * rss + row.figure("slack_mib")
    ok = left <= files * row.figure("share") and grown <= slack
    return Held(ok, f"{made} connections, {max(0, left)} descriptors and {grown:.0f} MiB left")


FAULTS: Mapping[str, Fault] = {
    "F1": Fault(f1, 2),
    "F2": Fault(f2, 2),
    "F3": Fault(f3),
    "F4": Fault(f4),
    "F5": Fault(f5, 2, lambda row: Wants(silence=row.figure("limit_seconds"))),
    "F6": Fault(f6, 1, lambda row: Wants(silence=row.figure("idle_seconds"))),
    "F7": Fault(f7),
    "F8": Fault(f8),
    "F9": Fault(f9, 1, lambda row: Wants(slots=row.figure("slots"))),
    "F10": Fault(f10),
    "F12": Fault(f12, 3),
    "F13": Fault(f13),
}
"""F11 is about hives, which others do not have."""


async def _until_it_meets(worker: Told, client: httpx.AsyncClient, body: Mapping[str, object]) -> Seen:
    """Return the answer to the request that met a worker: one that has just failed is left alone for a while."""
    end = time.monotonic() + 20.0
    while True:
        seen = await ask(client, dict(body))
        if worker.calls or time.monotonic() > end:
            return seen
        await asyncio.sleep(0.1)


def _neighbours(row: Row, name: str) -> int:
    return int(row.figure("neighbours")) if name == "stream" else 0


def _status(seen: Seen) -> str:
    """Return how an answer ended, in a few words."""
    if seen.broke:
        return f"{seen.status or 'no status'}, broken off"
    if seen.status == 200:
        return "200, whole" if seen.done else f"200, {'error told' if seen.told else 'ends without a word'}"
    return f"{seen.status}{f', Retry-After {seen.retry_after}' if seen.retry_after else ', no Retry-After'}"


def _comes_back(head: bytes) -> bool:
    return re.search(rb"\r\nretry-after: ([1-9]|[1-5][0-9]|60)\r\n", head) is not None


def _rss(g: Gateway) -> float:
    return float(sum(each.memory_info().rss for each in g.all_processes)) / 2**20


def _files(g: Gateway) -> int:
    return sum(each.num_fds() for each in g.all_processes)


async def _first_token(g: Gateway) -> float:
    """Return the median of the seconds to a first token."""
    found = []
    async with g.client as client:
        for _ in range(20):
            seen = await ask(client, STREAM)
            found.append(seen.times[0] - seen.began if seen.times else 60.0)
    return statistics.median(found)


async def _gone(process: psutil.Process, seconds: float) -> float:
    """Return when a process was gone, 0 if it is there after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return time.monotonic()
        await asyncio.sleep(0.02)
    return 0.0
