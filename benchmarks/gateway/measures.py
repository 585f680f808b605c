"""What is measured of one gateway in one round, and that the workers saw what the clients asked."""

import asyncio
import time

from benchmarks.gateway.answers import CHUNKS, STREAM, WHOLE, Form
from benchmarks.gateway.load import Answer, BenchError, ClosedLoop, OpenLoop, Rate
from benchmarks.gateway.results import LIVE, PACE, TOGETHER, Sample, quantile
from benchmarks.gateway.running import Running, Told, Workers, busy_of

CONNECTIONS = 64
WARM_SECONDS = 0.3
"""Long enough that connections to workers are made, TLS and all."""

LIVE_GAP = 50
"""Milliseconds between two chunks of a live stream: twenty a second."""

RAMP_SECONDS, SETTLE_SECONDS = 1.0, 0.5
SPARE = 16
TOGETHER_RAMP, TOGETHER_GAP, TOGETHER_CHUNKS = 5.0, 1000, 12
"""The first of all streams still has seconds to go when the last one begins."""

LATE_SECONDS = 30.0
"""How much later than it has to, an answer of an open loop may end."""

FEW = 25
"""Requests per worker, of which chance may give one none."""

OFF = 0.05
"""A mock that sends so much less than it should had no core."""


async def sample(side: Running, mock: Workers, seconds: float) -> Sample:
    """Return a gateway's figures, each taken in so many seconds, or raise BenchError."""
    await _closed(side, mock, WHOLE, WARM_SECONDS)
    before, busy, begun = side.cpu(), busy_of(side.core), time.perf_counter()
    whole = await _closed(side, mock, WHOLE, seconds)
    took = time.perf_counter() - begun
    spent, busy = side.cpu() - before, busy_of(side.core) - busy
    await _closed(side, mock, STREAM, WARM_SECONDS)
    sse = (await _closed(side, mock, STREAM, seconds)).per_second
    core, foreign = spent / took, max(busy - spent, 0.0) / took
    chunk = None
    if side.process is not None and sse * CHUNKS > LIVE * 1000 / LIVE_GAP:
        chunk = await live(side, mock, seconds)
    firsts = await paced(side, mock, seconds) if sse > PACE else None
    side.shorten_log()
    late = {f"p{share}": 1000 * quantile(firsts, share / 100) for share in (50, 99)} if firsts is not None else {}
    if side.process is None:
        return Sample(whole.per_second, sse, **late)
    return Sample(whole.per_second, sse, core, foreign, chunk, **late)


async def _closed(side: Running, mock: Workers, form: Form, seconds: float) -> Rate:
    before = await mock.told()
    rate = await ClosedLoop(side.target, form).run(CONNECTIONS, seconds)
    _agree(side, before, await mock.told(), rate.answers)
    return rate


def _agree(side: Running, before: Told, after: Told, answers: int) -> None:
    """Raise BenchError unless its workers saw as many requests as there were answers, and each of them some."""
    seen = {port: after.on(port) - before.on(port) for port in side.workers}
    if sum(seen.values()) != answers:
        raise BenchError(
            f"{side.target.name} gave {answers} answers, and its workers saw {sum(seen.values())} requests"
        )
    if answers > FEW * len(seen) and not all(seen.values()):
        idle = ", ".join(str(port) for port, count in seen.items() if not count)
        raise BenchError(f"{side.target.name} sent none of {answers} requests to the workers on ports {idle}")


async def live(side: Running, mock: Workers, seconds: float) -> float | None:
    """Return microseconds of processor for a chunk of many slow streams; None if they did not all run at a time."""
    chunks = round((RAMP_SECONDS + 2 * SETTLE_SECONDS + seconds) * 1000 / LIVE_GAP)
    loop = OpenLoop(side.target, Form(stream=True, chunks=chunks, gap=LIVE_GAP), LIVE, RAMP_SECONDS / LIVE)
    running = asyncio.create_task(loop.run(chunks * LIVE_GAP / 1000 + RAMP_SECONDS + LATE_SECONDS))
    try:
        await asyncio.sleep(RAMP_SECONDS + SETTLE_SECONDS)
        before, cpu, begun = await mock.told(), side.cpu(), time.perf_counter()
        await asyncio.sleep(seconds)
        after, spent, took = await mock.told(), side.cpu() - cpu, time.perf_counter() - begun
        _demand(side, await running)
    finally:
        running.cancel()
    if min(before.open, after.open) < LIVE or spent > 0.97 * took:
        return None
    sent, due = after.tokens - before.tokens, LIVE * took * 1000 / LIVE_GAP
    # A stream may be before or after its chunk at either end.
    if abs(sent - due) > OFF * due + LIVE:
        raise BenchError(
            f"the workers sent {sent} chunks in {took:.2f} s instead of {due:.0f}: no core is free for them"
        )
    return 1e6 * spent / sent


async def paced(side: Running, mock: Workers, seconds: float) -> list[float]:
    """Return seconds to the first event of streams that are asked for at a steady pace, whoever has been answered."""
    count = round(PACE * seconds)
    before = await mock.told()
    answers = await OpenLoop(side.target, STREAM, count, 1 / PACE).run(seconds + LATE_SECONDS, SPARE)
    _demand(side, answers)
    _agree(side, before, await mock.told(), count)
    return [answer.first for answer in answers]


def _demand(side: Running, answers: list[Answer]) -> None:
    wrong = [answer.fault for answer in answers if answer.fault]
    if wrong:
        raise BenchError(f"{side.target.name} answered {len(wrong)} of {len(answers)} wrong, first: {wrong[0]}")


async def together(side: Running, mock: Workers) -> tuple[int, str]:
    """Return how many of many streams at the same time were right, and what was wrong with the first other one."""
    form = Form(stream=True, chunks=TOGETHER_CHUNKS, gap=TOGETHER_GAP)
    await mock.told()
    loop = OpenLoop(side.target, form, TOGETHER, TOGETHER_RAMP / TOGETHER)
    answers = await loop.run(TOGETHER_RAMP + TOGETHER_CHUNKS * TOGETHER_GAP / 1000 + LATE_SECONDS)
    side.shorten_log()
    wrong = [answer.fault for answer in answers if answer.fault]
    peak = (await mock.told()).peak
    if not wrong and peak < TOGETHER:
        raise BenchError(f"only {peak} of {TOGETHER} streams through {side.target.name} were under way together")
    return len(answers) - len(wrong), wrong[0] if wrong else ""
