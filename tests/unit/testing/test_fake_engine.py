"""The fake engine plays its script and nothing else."""

import asyncio
import os
from contextlib import aclosing

import pytest

from rbee_runtime.errors import ConfigError, EngineLoadError, RequestError
from rbee_runtime.testing.fake_engine import GARBAGE, FakeEngine, parse_options, read_script
from rbee_runtime.worker.engines import ChatRequest, Delta, Finish, Generation, Message, Usage

HELLO = ChatRequest(messages=(Message("user", "hello you"),))


def engine(script: str = "tokens_per_s=0", *, slots: int = 1) -> FakeEngine:
    return FakeEngine(read_script(parse_options(script)), slots=slots, context=32)


async def answer(fake: FakeEngine, request: ChatRequest = HELLO) -> list[Delta]:
    return [delta async for delta in fake.chat(request)]


@pytest.mark.parametrize(
    ("script", "limit", "text", "finish"),
    [
        ("tokens=3", None, "tok0 tok1 tok2 ", Finish.STOP),
        ("tokens=3", 2, "tok0 tok1 ", Finish.LENGTH),
        ("tokens=1", 4, "tok0 tok1 tok2 tok3 ", Finish.LENGTH),
        ("text=honey from bees", None, "honey from bees", Finish.STOP),
        ("text=honey bees", 1, "honey ", Finish.LENGTH),
        ("text=a b ,tokens=3", None, "a ba ", Finish.STOP),
    ],
)
async def test_an_answer_is_exactly_what_the_script_says(
    script: str, limit: int | None, text: str, finish: Finish
) -> None:
    """Text, number of tokens and reason of the end follow the script and the client's limit."""
    deltas = await answer(engine(f"tokens_per_s=0,{script}"), ChatRequest(HELLO.messages, Generation(max_tokens=limit)))
    assert "".join(delta.text for delta in deltas) == text
    assert deltas[-1] == Delta(finish=finish, usage=Usage(prompt=5, completion=len(deltas) - 1))


async def test_tokens_come_at_the_scripted_rate() -> None:
    """Ten tokens at 100 a second take a tenth of a second, not less."""
    clock = asyncio.get_running_loop().time
    start = clock()
    await answer(engine("tokens_per_s=100,tokens=10"))
    assert clock() - start >= 0.095


async def test_answers_beyond_the_slots_wait_in_order() -> None:
    """With one slot the second request gets no token before the first has its last."""
    fake, order = engine("tokens=2,tokens_per_s=200"), list[str]()

    async def ask(name: str) -> None:
        async for _ in fake.chat(HELLO):
            order.append(name)

    await asyncio.gather(ask("a"), ask("b"), ask("c"))
    assert order == ["a"] * 3 + ["b"] * 3 + ["c"] * 3


async def test_closing_an_answer_frees_its_slot() -> None:
    """A request that is given up makes room for the next one."""
    fake = engine("fail=hang_after_1,tokens_per_s=0")
    async with aclosing(fake.chat(HELLO)) as first:
        assert (await anext(first)).text == "tok0 "
    async with asyncio.timeout(20), aclosing(fake.chat(HELLO)) as second:
        assert (await anext(second)).text == "tok0 "


async def test_a_hung_engine_gives_nothing() -> None:
    """`fail=hang` takes a request and stays silent."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(answer(engine("fail=hang")), 0.1)


async def test_garbage_is_bytes_that_are_no_answer() -> None:
    """`fail=garbage` hands the front bytes to send as they are."""
    assert await answer(engine("fail=garbage")) == [Delta(raw=GARBAGE)]


@pytest.mark.parametrize(("script", "reason"), [("fail=oom", "out_of_memory"), ("fail=bad_model", "bad_model")])
async def test_a_load_fails_as_scripted(script: str, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Failing loads carry the reason that the exit status is made of."""
    with pytest.raises(EngineLoadError) as failure:
        await engine(script).load(list[float]().append)
    assert failure.value.reason == reason
    assert ("out of memory" in capfd.readouterr().err) == (reason == "out_of_memory")


async def test_a_crash_comes_after_so_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fail=crash_after_2` lets two tokens out and then ends the process at once."""
    crashes = list[int]()

    def leave(status: int) -> None:
        crashes.append(status)
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", leave)
    seen = list[str]()

    async def listen() -> None:
        async for delta in engine("fail=crash_after_2,tokens_per_s=0").chat(HELLO):
            seen.append(delta.text)

    with pytest.raises(SystemExit):
        await listen()
    assert (seen, crashes) == (["tok0 ", "tok1 "], [1])


async def test_loading_takes_the_scripted_time_and_reports() -> None:
    """`load_s` is waited for, with progress up to 1."""
    shares, start = list[float](), asyncio.get_running_loop().time()
    await engine("load_s=0.1").load(shares.append)
    assert asyncio.get_running_loop().time() - start >= 0.1
    assert shares[-1] == 1.0


async def test_a_prompt_beyond_the_context_is_refused_with_numbers() -> None:
    """The refusal names both sizes and OpenAI's code."""
    long = ChatRequest(messages=(Message("user", "word " * 40),))
    with pytest.raises(RequestError, match="43 tokens, this model takes 32") as refusal:
        await answer(engine(), long)
    assert (refusal.value.status, refusal.value.code) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("slot=2", "unknown option 'slot' of a fake engine; did you mean 'slots'"),
        ("colour=red", "unknown option 'colour' of a fake engine; known: slots, tokens_per_s"),
        ("slots=many", "a fake engine's option is wrong: .*slots"),
        ("tokens=-1", "wrong: .*tokens"),
        ("fail=explode", "wrong: .*fail"),
        ("fail=crash_after_x", "wrong: .*fail"),
    ],
)
def test_a_wrong_script_gets_one_sentence(script: str, message: str) -> None:
    """A mistyped key or value is named, with the nearest known key."""
    with pytest.raises(ConfigError, match=message):
        parse_options(script)


def test_an_empty_script_is_fine() -> None:
    """`fake:` alone means the defaults."""
    assert parse_options("") == {}
    assert read_script({}).words(None) == [f"tok{index} " for index in range(16)]
