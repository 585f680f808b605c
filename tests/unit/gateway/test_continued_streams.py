"""A stream whose worker dies, gone on with by another one, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import openai
import pytest

from rbee_runtime.gateway.seam import Limits
from tests.unit.gateway.gateway import PATIENT, Gate, Gateway, gateway, limits
from tests.unit.gateway.upstream import STREAM_HEAD, Call, Script, Upstream, until_hung_up, worker
from tests.unit.hive.waiting import until

WORDS = ("one ", "two ", "three ", "four ", "five ", "six ")
ASKED = {"model": "m", "stream": True, "max_tokens": 6, "messages": [{"role": "user", "content": "count"}]}


def chunk(delta: dict[str, Any], finish: str | None = None, name: str = "x") -> str:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return json.dumps({"id": name, "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


def begun(call: Call) -> int:
    """Return how many words a request has already."""
    return len(json.loads(call.body)["messages"][1:] and json.loads(call.body)["messages"][1]["content"].split())


def counting(
    upto: int, *, torn: bytes = b"", then: Script | None = None, head: bytes = b"x-rbee-goes-on: 1\r\n"
) -> Script:
    """Return a worker that counts on from where it is asked to, up to a number, and dies if that is not the last."""

    async def script(call: Call) -> None:
        first = begun(call)
        await call.write(STREAM_HEAD.removesuffix(b"\r\n") + (head if first else b"") + b"\r\n")
        await call.events(chunk({"role": "assistant", "content": ""}, name=f"w{upto}"))
        for word in WORDS[first:upto]:
            await call.events(chunk({"content": word}, name=f"w{upto}"))
        if upto == len(WORDS):
            await call.events(chunk({}, "length", name=f"w{upto}"))
            await call.chunk(b": usage %d %d\n\n" % (5 + first, upto - first))
            await call.events("[DONE]")
            await call.end()
            return
        if torn:
            await call.chunk(torn)
        await (then or dying)(call)

    return script


async def dying(call: Call) -> None:
    await asyncio.sleep(0.05)
    call.drop()


async def dying_late(call: Call) -> None:
    await asyncio.sleep(0.5)
    call.drop()


async def refusing(call: Call) -> None:
    await call.json(400, b'{"error":{"message":"no"}}')


async def stopped(call: Call) -> None:
    """Be stopped, and say so."""
    await call.events('{"error":{"message":"stopped","type":"server_error"}}')
    await call.end()


@asynccontextmanager
async def serving(
    scripts: Sequence[Script], bounds: Limits = PATIENT, **gate: Any
) -> AsyncIterator[tuple[Gateway, list[Upstream]]]:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(worker(script)) for script in scripts]
        revisions = {each.url: name for each, name in zip(workers, gate.pop("revisions", ()), strict=False)}
        made = Gate([each.url for each in workers], continued=True, revisions=revisions, **gate)
        yield await stack.enter_async_context(gateway(made, bounds)), workers


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def text_of(answer: str) -> str:
    choices = [each["choices"][0] for each in events(answer) if "choices" in each]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def is_whole(answer: str) -> bool:
    ids = {each["id"] for each in events(answer)}
    return text_of(answer) == "".join(WORDS) and answer.count("[DONE]") == 1 and len(ids) == 1


@pytest.mark.parametrize(
    "first",
    [
        counting(0),
        counting(1),
        counting(3),
        counting(3, torn=b'data: {"id":"x","choi'),
        counting(3, then=stopped),
        counting(3, then=lambda call: call.end()),
        counting(6 - 1),
    ],
    ids=["no token", "first token", "third token", "within an event", "by its own word", "early end", "last token"],
)
async def test_another_worker_goes_on(first: Script) -> None:
    """The client gets one stream, in which a comment marks the joint, and its key pays for both parts."""
    async with serving([first, counting(6)]) as (g, workers):
        answer = await g.post(ASKED)
        assert is_whole(answer.text)
        assert answer.headers["x-rbee-continuable"] == "1"
        assert answer.text.count(": continued\n\n") == 1
        assert answer.text.count('"role"') == 1
        assert [len(each.calls) for each in workers] == [1, 1]
        assert (g.gate.spent, g.outcomes[0].tokens) == ([(5, 6)], (5, 6))
        assert (g.outcomes[0].continued, g.outcomes[0].problem) == (1, "")
        assert g.gate.released == [each.url for each in workers]
        assert [answered for _, answered in g.gate.settled] == [False, True]


async def test_a_worker_that_goes_silent_is_given_up() -> None:
    """Its limit of silence is a break like any other, and it is hung up on."""
    async with serving([counting(3, then=until_hung_up), counting(6)], limits(idle=0.5)) as (g, workers):
        answer = await g.post(ASKED)
        assert is_whole(answer.text)
        assert (workers[0].closed.is_set(), g.outcomes[0].continued) == (True, 1)


async def test_a_stream_is_continued_twice_at_most() -> None:
    """The third worker finishes it, and where that one dies too it ends with one error."""
    async with serving([counting(1), counting(3), counting(6)]) as (g, _):
        answer = await g.post(ASKED)
        assert is_whole(answer.text)
        assert (g.outcomes[0].continued, g.gate.spent) == (2, [(5, 6)])
    async with serving([counting(1), counting(3), counting(4), counting(6)]) as (g, workers):
        answer = await g.post(ASKED)
        assert text_of(answer.text) == "".join(WORDS[:4])
        assert [each["error"]["code"] for each in events(answer.text) if "error" in each] == ["worker_failed"]
        assert (len(workers[3].calls), g.gate.spent) == (0, [])


@pytest.mark.parametrize(
    ("scripts", "gate"),
    [
        ([counting(3)], {}),
        ([counting(3), counting(6)], {"budget": 0}),
        ([counting(3), counting(6)], {"revisions": ["r1", "r2"]}),
        ([counting(3), counting(6)], {"revisions": ["", ""]}),
        ([counting(3), refusing], {}),
        ([counting(3), counting(6, head=b"")], {}),
    ],
    ids=["nobody", "no budget", "other revision", "unknown revision", "it cannot", "it does not know the fields"],
)
async def test_where_nobody_goes_on_it_ends_as_ever(scripts: list[Script], gate: dict[str, Any]) -> None:
    """One error event behind the text so far, and no end of the stream that would hide it."""
    async with serving(scripts, **gate) as (g, _):
        answer = await g.post(ASKED)
        assert text_of(answer.text) == "".join(WORDS[:3])
        assert answer.text.endswith("\n\n")
        assert [each["error"]["code"] for each in events(answer.text) if "error" in each] == ["worker_failed"]
        assert "[DONE]" not in answer.text
        assert (g.outcomes[0].continued, g.gate.spent) == (0, [(0, 0)] if len(g.gate.settled) > 1 else [])


@pytest.mark.parametrize("fields", [{"stop": "x"}, {"n": 2}, {"tools": [{"type": "function", "function": {}}]}])
async def test_what_is_not_plain_text_is_not_continued(fields: dict[str, Any]) -> None:
    """It has no header that says otherwise."""
    async with serving([counting(3), counting(6)]) as (g, workers):
        answer = await g.post(ASKED | fields)
        assert "x-rbee-continuable" not in answer.headers
        assert b"x-rbee-usage: 1\r\n" in workers[0].calls[0].head
        assert (events(answer.text)[-1]["error"]["code"], len(workers[1].calls)) == ("worker_failed", 0)


@pytest.mark.parametrize("gate", [{"pin": "x"}, {"into_name": ("its-own", "Bearer x")}], ids=["pinned", "external"])
async def test_what_only_one_worker_may_do_or_nobody_knows_is_not_continued(gate: dict[str, Any]) -> None:
    """A request for one worker, and one that a server of others answers."""
    async with serving([counting(3), counting(6)], **gate) as (g, workers):
        answer = await g.post(ASKED)
        assert events(answer.text)[-1]["error"]["code"] == "worker_failed"
        assert ("x-rbee-continuable" in answer.headers, len(workers[1].calls)) == (False, 0)


async def test_a_model_without_the_option_is_not_continued() -> None:
    """It is off unless somebody asks for it."""
    async with worker(counting(3)) as w, worker(counting(6)) as other, gateway(Gate([w.url, other.url])) as g:
        answer = await g.post(ASKED)
        assert events(answer.text)[-1]["error"]["code"] == "worker_failed"
        assert ("x-rbee-continuable" in answer.headers, len(other.calls)) == (False, 0)


async def test_the_next_worker_must_be_of_the_same_revision() -> None:
    """Policy is told which, which have failed, and how much there is left to do."""
    async with serving([counting(3), counting(6)]) as (g, workers):
        await g.post(ASKED)
        first, second = g.gate.asks
        assert (first.revision, second.revision) == ("", "r1")
        assert (second.tried, second.limit) == (frozenset({workers[0].url}), 3)


async def test_a_client_that_leaves_while_another_worker_is_looked_for_is_forgotten() -> None:
    """Nobody is asked to go on, and nothing stays open."""
    async with serving([counting(3), counting(6)], delay=0.2) as (g, workers):
        async with g.client.stream("POST", g.url, json=ASKED) as answer:
            async for piece in answer.aiter_text():
                if "three" in piece:
                    g.gate.delay = 60
                    break
            await until(lambda: len(g.gate.released) == 1)
        await until(lambda: not g.relay.open)
        assert (g.outcomes[0].problem, len(workers[1].calls)) == ("client gone", 0)


async def test_a_stream_that_waits_for_another_worker_is_pinged_and_may_be_cut() -> None:
    """Its client hears that it lives, and of a restart as ever."""
    async with serving([counting(3, then=dying_late), counting(6)], limits(pings=0.2), delay=0.05) as (g, _):
        heard = ""
        async with g.client.stream("POST", g.url, json=ASKED) as answer:
            async for piece in answer.aiter_text():
                heard += piece
                g.gate.delay = 60 if "three" in heard else g.gate.delay
                if ": waiting" in heard:
                    g.relay.cut()
        assert events(heard)[-1]["error"]["code"] == "queen_restarting"


async def test_a_client_that_leaves_the_second_part_ends_it_there() -> None:
    """The worker that went on is told to stop."""
    async with serving([counting(1), counting(3, then=until_hung_up)]) as (g, workers):
        async with g.client.stream("POST", g.url, json=ASKED) as answer:
            async for piece in answer.aiter_text():
                if "three" in piece:
                    break
        await asyncio.wait_for(workers[1].closed.wait(), 30)
        await until(lambda: bool(g.outcomes))
        assert (g.outcomes[0].problem, g.outcomes[0].continued) == ("client gone", 1)


async def test_the_official_client_reads_it_through() -> None:
    """It sees one stream with one count."""
    async with (
        serving([counting(2), counting(6)]) as (g, _),
        openai.AsyncOpenAI(base_url=g.at("/v1"), api_key="x", max_retries=0) as ai,
    ):
        stream = await ai.chat.completions.create(**ASKED)  # type: ignore[call-overload]
        chunks = [each async for each in stream]
    assert "".join(each.choices[0].delta.content or "" for each in chunks) == "".join(WORDS)
    assert (chunks[-1].choices[0].finish_reason, {each.id for each in chunks}) == ("length", {"w2"})
