"""How requests are spread over workers, seen from outside: real HTTP, workers that do as they are told."""

import asyncio
import re
from collections import Counter
from pathlib import Path

import httpx
import pytest

from rbee_runtime.queen import ejection
from tests.faults.queen.rig import Rig, rig, whole
from tests.unit.gateway.upstream import Call
from tests.unit.hive.waiting import until


def conversation(name: str, turns: int = 1) -> list[dict[str, str]]:
    """Return the messages of a conversation after so many turns; nobody else's begin so."""
    questions = [{"role": "user", "content": f"question {turn} of {name}"} for turn in range(turns)]
    return [{"role": "system", "content": f"You are {name}, and patient. " * 20}, *questions]


async def ask(r: Rig, name: str, turns: int = 1) -> httpx.Response:
    return await r.ask({"model": "m", "messages": conversation(name, turns)})


def answered(r: Rig, name: str) -> list[int]:
    """Return how many requests of a conversation came to each worker."""
    return [sum(f"You are {name}, ".encode() in call.body for call in each.calls) for each in r.workers]


async def test_a_conversation_stays_with_its_worker(tmp_path: Path) -> None:
    """While others come and go in between, and however long it grows."""
    async with rig(tmp_path, [whole] * 3) as r:
        for turn in range(1, 9):
            for name in ("ann", "ben", "cem", "dan", "eva"):
                assert (await ask(r, name, turn)).status_code == 200
        assert all(sorted(answered(r, name)) == [0, 0, 8] for name in ("ann", "ben", "cem", "dan", "eva"))


async def test_conversations_are_spread(tmp_path: Path) -> None:
    """One at a time, each of four workers gets its share of sixty."""
    async with rig(tmp_path, [whole] * 4) as r:
        for number in range(60):
            await ask(r, f"person {number}")
        assert min(len(each.calls) for each in r.workers) >= 6


async def test_a_crowd_with_the_same_beginning_does_not_crowd_one_worker(tmp_path: Path) -> None:
    """At the same time, no worker gets more than a quarter more than its share."""
    go = asyncio.Event()

    async def waits(call: Call) -> None:
        await go.wait()
        await whole(call)

    async with rig(tmp_path, [waits] * 4) as r:
        asking = [asyncio.create_task(ask(r, "ann")) for _ in range(40)]
        await until(lambda: r.calls == 40)
        go.set()
        assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
        # 5/4 of the mean, and the one that was let in at that.
        assert max(len(each.calls) for each in r.workers) <= 13


async def test_a_worker_that_answers_500_is_left_out_and_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a few failures nobody meets it any more; later one request tries it, and when that goes well, all may."""
    broken, now = True, 1000.0

    async def sick(call: Call) -> None:
        await (call.json(500, b'{"error": {}}') if broken else whole(call))

    async def statuses(name: str, count: int) -> Counter[int]:
        nonlocal now
        seen = Counter[int]()
        for number in range(count):
            now += 0.1
            seen[(await ask(r, f"{name} {number}")).status_code] += 1
        return seen

    async with rig(tmp_path, [sick, whole, whole], clock=lambda: now) as r:
        seen = await statuses("guest", 60)
        assert seen == {500: ejection.FAILURES, 200: 60 - ejection.FAILURES}
        (out,) = [seat.worker for seat in r.lines.roster.of("m") if r.lines.roster.health(seat.worker).is_ejected]
        now += ejection.OPEN_SECONDS
        assert (await statuses("guest", 10))[500] == 1
        broken = False
        now += 2 * ejection.OPEN_SECONDS
        assert await statuses("newcomer", 60) == {200: 60}
        assert len(r.workers[0].calls) > ejection.FAILURES + 10
    said = re.findall(r'event="(worker (?:ejected|on trial|back))" id=(\S+)', capsys.readouterr().err)
    assert said == [(f"worker {what}", out) for what in ("ejected", "on trial", "ejected", "on trial", "back")]


async def test_the_only_worker_is_never_left_out(tmp_path: Path) -> None:
    """However often it fails, each request hears what the worker says."""

    async def sick(call: Call) -> None:
        await call.json(500, b'{"error": {"message": "odd"}}')

    async with rig(tmp_path, [sick]) as r:
        assert {(await ask(r, "ann")).status_code for _ in range(12)} == {500}
        assert len(r.workers[0].calls) == 12


async def test_a_prompt_that_fits_nowhere_is_refused_with_numbers(tmp_path: Path) -> None:
    """No worker is asked, and its client is told how long it may be."""
    async with rig(tmp_path, [whole]) as r:
        answer = await r.ask({"model": "m", "messages": [{"role": "user", "content": "x" * 2_000_000}]})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], r.calls) == (400, "context_length_exceeded", 0)
        assert "7812 tokens at least, and no worker of m takes more than 4096" in error["message"]
