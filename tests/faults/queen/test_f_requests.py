"""What clients see when workers, or other clients, do not do their part. Figures: queen_rows.yaml."""

import asyncio
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from tests.faults.beside.workers import bad_json, busy, half_closed, no_end
from tests.faults.connections import open_and_close, read_slowly, sent
from tests.faults.queen.rig import PLAIN, STREAM, Rig, bounds, errors_of, piece, rig, streaming, whole
from tests.faults.rows import row
from tests.own_time import own_time
from tests.unit.gateway.upstream import STREAM_HEAD, Call, drop, garbage, until_hung_up
from tests.unit.hive.waiting import until

pytestmark = pytest.mark.slow

Figures = Callable[[str, object], None]
BOTH = pytest.mark.parametrize("body", [STREAM, PLAIN], ids=["stream", "whole"])


def open_answers(r: Rig) -> int:
    return sum(seat.in_flight for seat in r.lines.roster.of("m"))


async def test_f2_a_death_before_the_first_token_is_not_seen(tmp_path: Path, record_property: Figures) -> None:
    """Each request that meets the dying worker is answered by the other one, for one more call."""
    row_ = row("F2", "queen")
    async with rig(tmp_path, [drop, streaming(3)]) as r:
        slowest = 0.0
        for _ in range(row_.figure("requests")):
            begun, before, dead = time.monotonic(), r.calls, len(r.workers[0].calls)
            answer = await r.ask(STREAM)
            slowest = max(slowest, time.monotonic() - begun)
            assert (answer.status_code, answer.text.endswith("data: [DONE]\n\n")) == (200, True)
            assert r.calls - before == 1 + (len(r.workers[0].calls) - dead)
        record_property("slowest_seconds", round(slowest, 3))
        assert slowest <= row_.figure("added_seconds")
        assert r.workers[0].calls


async def test_f3_without_another_worker_the_refusal_comes_at_once(tmp_path: Path, record_property: Figures) -> None:
    """Nobody waits for what cannot come."""
    async with rig(tmp_path, [drop]) as r:
        begun = time.monotonic()
        answer = await r.ask(STREAM)
        took = time.monotonic() - begun
        record_property("refused_seconds", round(took, 3))
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert took <= row("F3", "queen").figure("refused_seconds")


async def test_f3_the_official_client_succeeds_once_the_worker_is_back(tmp_path: Path) -> None:
    """It waits as long as it is told and asks again by itself."""

    async def once_dead(call: Call) -> None:
        await (drop if len(r.workers[0].calls) == 1 else whole)(call)

    async with rig(tmp_path, [once_dead]) as r:
        base = f"{str(r.client.base_url).rstrip('/')}/v1"
        async with openai.AsyncOpenAI(api_key=r.key, base_url=base, max_retries=2) as client:
            answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == "hi"
        assert len(r.workers[0].calls) == 2


@pytest.mark.parametrize(
    ("script", "body", "begun"),
    [(half_closed, STREAM, True), (garbage, STREAM, False), (bad_json, PLAIN, False), (no_end, STREAM, True)],
)
async def test_f4_what_is_no_answer_is_told(
    tmp_path: Path, script: object, body: dict[str, object], *, begun: bool
) -> None:
    """An error event after the first token, an error before it, and one more failure counted for the worker."""
    async with rig(tmp_path, [script]) as r:  # type: ignore[list-item]
        async with asyncio.timeout(row("F4", "queen").figure("seconds")):
            answer = await r.ask(body)
        assert answer.status_code == (200 if begun else 503)
        assert len(errors_of(answer.text)) == (1 if begun else 0)
        assert "[DONE]" not in answer.text
        assert r.lines.roster.of("m")[0].failures == 1
        assert open_answers(r) == 0


@BOTH
async def test_f5_silence_ends_at_the_limit(tmp_path: Path, record_property: Figures, body: dict[str, object]) -> None:
    """The answer comes from another worker, as much later as the limit says."""
    row_ = row("F5", "queen")
    limit = row_.figure("limit_seconds")
    other = streaming(2) if body is STREAM else whole
    async with rig(tmp_path, [until_hung_up, other], bounds=bounds(first_byte=limit)) as r:
        answers = []
        while not r.workers[0].calls:
            begun = time.monotonic()
            answers.append(await r.ask(body))
        took = time.monotonic() - begun
        record_property("seconds", round(took, 2))
        assert {answer.status_code for answer in answers} == {200}
        assert abs(took - limit) <= row_.figure("tolerance_seconds")


@BOTH
async def test_f6_a_trickle_ends_at_the_limit(
    tmp_path: Path, record_property: Figures, body: dict[str, object]
) -> None:
    """Bytes that make no event, or hardly an answer, do not put the limit off."""
    row_ = row("F6", "queen")

    async def trickle(call: Call) -> None:
        head = STREAM_HEAD if body is STREAM else STREAM_HEAD.replace(b"text/event-stream", b"application/json")
        await call.write(head)
        while True:
            await call.chunk(b"x")
            await asyncio.sleep(row_.figure("byte_every"))

    async with rig(tmp_path, [trickle], bounds=bounds(idle=row_.figure("idle_seconds"), first_byte=1.0)) as r:
        begun = time.monotonic()
        answer = await r.ask(body)
        took = time.monotonic() - begun
        record_property("seconds", round(took, 2))
        assert answer.status_code == 503
        assert took <= row_.figure("idle_seconds") + row_.figure("tolerance_seconds")
        await asyncio.wait_for(r.workers[0].closed.wait(), 5)
        assert open_answers(r) == 0


@BOTH
async def test_f7_a_client_that_leaves_frees_its_slot(
    tmp_path: Path, record_property: Figures, body: dict[str, object]
) -> None:
    """The worker sees the connection close, and who shares it with the leaver gets every byte."""
    row_ = row("F7", "queen")
    script = streaming(40, every=0.05)
    async with rig(tmp_path, [until_hung_up if body is PLAIN else script]) as r:
        alone = (await r.ask(STREAM)).text if body is STREAM else ""
        neighbours = [asyncio.create_task(r.ask(STREAM)) for _ in range(row_.figure("neighbours") if alone else 0)]
        leaving = asyncio.create_task(_leave_at_fifth(r, body))
        await leaving
        begun = time.monotonic()
        await asyncio.wait_for(r.workers[0].closed.wait(), 10)
        took = time.monotonic() - begun
        record_property("closed_seconds", round(took, 3))
        assert took <= row_.figure("closed_seconds")
        assert {(await each).text for each in neighbours} <= {alone}
        await until(lambda: open_answers(r) == 0)


async def _leave_at_fifth(r: Rig, body: dict[str, object]) -> None:
    if body is PLAIN:
        asking = asyncio.create_task(r.ask(PLAIN))
        await until(lambda: r.calls)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        return
    async with r.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        seen = 0
        async for line in answer.aiter_lines():
            seen += line.startswith("data: ")
            if seen == 5:
                return


async def test_f8_slow_readers_cost_little(tmp_path: Path, record_property: Figures) -> None:
    """Their workers are read as slowly as they read, and the loop is everybody else's."""
    row_ = row("F8", "queen")

    async def by_length(call: Call) -> None:
        if b'"long"' not in call.body:
            await streaming(3)(call)
            return
        await call.write(STREAM_HEAD)
        for _ in range(2000):
            await call.events(piece("x" * 10_000))

    async with rig(tmp_path, [by_length], slots=200) as r:
        before = await _first_tokens(r)
        rss = psutil.Process().memory_info().rss
        slow = [
            asyncio.create_task(read_slowly(r.port, r.key, {**STREAM, "user": "long"}))
            for _ in range(row_.figure("clients"))
        ]
        await until(lambda: open_answers(r) == row_.figure("clients"))
        await asyncio.sleep(1.0)
        after = await _first_tokens(r)
        grown = (psutil.Process().memory_info().rss - rss) / 2**20
        for each in slow:
            each.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
    record_property("rss_mib", round(grown, 1))
    record_property("first_token_ratio", round(after / before, 2))
    assert grown < row_.figure("rss_mib")
    assert after <= before * row_.figure("slower") + row_.figure("slack_seconds")


async def _first_tokens(r: Rig) -> float:
    """Return the median of the seconds to a first token."""
    found = []
    for _ in range(20):
        begun = time.monotonic()
        async with r.client.stream("POST", "/v1/chat/completions", json=STREAM) as answer:
            async for _line in answer.aiter_lines():
                found.append(time.monotonic() - begun)
                break
    return statistics.median(found)


async def test_f9_a_crowd_is_refused_at_once(tmp_path: Path, record_property: Figures) -> None:
    """As many as there are slots and places in line are served; every other one hears 429 and when to come back."""
    row_ = row("F9", "queen")
    places = max(32, 8 * row_.figure("slots"))
    go = asyncio.Event()

    async def waits(call: Call) -> None:
        await go.wait()
        await whole(call)

    async with rig(tmp_path, [waits], slots=row_.figure("slots")) as r:
        served = row_.figure("slots") + places
        many = row_.figure("requests") - served

        async def ask() -> bytes:
            reader, writer = await sent(r.port, r.key, PLAIN)
            answer = await reader.readuntil(b"\r\n\r\n")
            if len([each for each in r.outcomes if each.status == 429]) == many:
                go.set()
            writer.close()
            return answer.lower()

        with own_time(asyncio.get_running_loop()):
            answers = await asyncio.gather(*(ask() for _ in range(row_.figure("requests"))))
        refused = [each.seconds for each in r.outcomes if each.status == 429]
    heads = [answer for answer in answers if answer.startswith(b"http/1.1 429 ")]
    assert (sum(answer.startswith(b"http/1.1 200 ") for answer in answers), len(heads)) == (served, many)
    assert all(re.search(rb"\r\nretry-after: ([1-9]|[1-5][0-9]|60)\r\n", head) for head in heads)
    # From a request, which came in one piece, to its answer; what its client needs for so many is not the queen's.
    record_property("slowest_refusal_seconds", round(max(refused), 4))
    assert max(refused) < row_.figure("refused_seconds")


async def test_f12_retries_do_not_add_up(tmp_path: Path, record_property: Figures) -> None:
    """However long everybody refuses, workers hear little more than clients ask."""
    row_ = row("F12", "queen")
    async with rig(tmp_path, [busy, busy, busy]) as r:
        asked = row_.figure("seconds") * row_.figure("per_second")
        end = time.monotonic() + row_.figure("seconds")
        asking: list[asyncio.Task[httpx.Response]] = []
        while time.monotonic() < end and len(asking) < asked:
            asking.append(asyncio.create_task(r.ask(PLAIN)))
            await asyncio.sleep(1 / row_.figure("per_second"))
        answers = [await each for each in asking]
        assert {answer.status_code for answer in answers} <= {503, 429}
        record_property("calls_per_request", round(r.calls / len(answers), 3))
        # The stock lets what is in flight on one dead worker move over at once.
        assert r.calls <= row_.figure("factor") * len(answers) + row_.figure("more") + 10


async def test_f13_connections_leave_nothing_behind(tmp_path: Path, record_property: Figures) -> None:
    """After thousands of connections, some with a request and most without, everything is as before."""
    row_ = row("F13", "queen")
    async with rig(tmp_path, [whole]) as r:
        process = psutil.Process()
        for _ in range(20):
            await r.ask(PLAIN)
        await open_and_close(r.port, 200)
        files, rss = process.num_fds(), process.memory_info().rss
        end, made = time.monotonic() + row_.figure("seconds"), 0
        while time.monotonic() < end:
            begun = time.monotonic()
            await open_and_close(r.port, row_.figure("per_second") // 10)
            made += row_.figure("per_second") // 10
            await asyncio.sleep(max(0.0, 0.1 - (time.monotonic() - begun)))
        await until(lambda: process.num_fds() <= files * (1 + row_.figure("share")))
        grown = (process.memory_info().rss - rss) / 2**20
    record_property("connections", made)
    record_property("grown_mib", round(grown, 1))
    assert grown <= row_.figure("share") * rss / 2**20 + row_.figure("slack_mib")
