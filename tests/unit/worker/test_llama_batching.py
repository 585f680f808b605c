"""Many answers at once by the llama-cpp engine, with a real model."""

import asyncio
import os
import signal
from functools import partial

import pytest

from rbee_runtime.errors import EngineCrashedError, RequestError
from rbee_runtime.worker.engines import GREEDY, ChatRequest, Delta, Finish, Generation, Message, Sampling, TextRequest
from rbee_runtime.worker.engines.llamacpp import engine as engine_module
from rbee_runtime.worker.engines.llamacpp.engine import LlamaEngine
from tests.unit.worker.test_llama import answer, loaded, make, story

__all__ = ["make"]

pytestmark = pytest.mark.engine

SYSTEM = Message("system", "You keep bees and answer in one sentence. " * 12)
HEADS_OR_TAILS = 'root ::= ("heads" | "tails") "!"'


def question(number: int, **generation: object) -> ChatRequest:
    asked = Message("user", f"Question {number}: what do bees do in month {number}?")
    return ChatRequest((SYSTEM, asked), Generation(sampling=GREEDY, **generation))  # type: ignore[arg-type]


def usage_of(delta: Delta) -> tuple[int, int, int]:
    assert delta.usage is not None
    return delta.usage.prompt, delta.usage.completion, delta.usage.cached


async def test_answers_come_at_once_and_are_complete(make: partial[LlamaEngine]) -> None:
    """Four answers in four slots are in the making together, and each has all its tokens."""
    seen: list[int] = []

    async def ask(engine: LlamaEngine, number: int) -> Delta:
        deltas = []
        async for delta in engine.chat(question(number, max_tokens=16)):
            seen.append(number)
            deltas.append(delta)
        return deltas[-1]

    async with loaded(make(slots=4)) as engine:
        last = await asyncio.gather(*(ask(engine, number) for number in range(4)))
    assert [usage_of(each)[1] for each in last] == [16] * 4
    assert len({*seen[: len(seen) // 2]}) == 4


async def test_a_shared_beginning_is_computed_once(make: partial[LlamaEngine]) -> None:
    """Of prompts that come together, the first computes the system prompt and the others take its cells."""
    async with loaded(make(slots=4)) as engine:
        ends = await asyncio.gather(*(answer(engine, question(number, max_tokens=2)) for number in range(4)))
    cached = sorted(usage_of(end)[2] for _, end in ends)
    assert cached[0] == 0
    assert min(cached[1:]) > 100


async def test_taken_over_cells_give_the_same_answer(make: partial[LlamaEngine]) -> None:
    """What follows from another slot's cells is what follows from one's own."""
    async with loaded(make(slots=1)) as engine:
        alone = [(await answer(engine, question(number, max_tokens=12)))[0] for number in range(3)]
    async with loaded(make(slots=3)) as engine:
        after = [(await answer(engine, question(number, max_tokens=12)))[0] for number in range(3)]
    assert after == alone


async def test_a_parked_conversation_gives_the_same_answer(make: partial[LlamaEngine]) -> None:
    """What leaves the context for others comes back as it was."""
    async with loaded(make(context=1024, slots=2)) as engine:
        await answer(engine, question(0, max_tokens=12))
        # The last token alone, as later: computed with others it may differ in the last bits.
        first, _ = await answer(engine, question(0, max_tokens=12))
        for number in range(1, 4):
            await answer(engine, ChatRequest((Message("user", f"{number} " + "word " * 400),), Generation(2)))
        again, last = await answer(engine, question(0, max_tokens=12))
    assert again == first
    assert usage_of(last)[2] == usage_of(last)[0] - 1


async def test_choices_differ_by_seed_and_share_the_prompt(make: partial[LlamaEngine]) -> None:
    """`n` answers cost one prompt; a seed makes them repeatable, each its own."""
    request = story(Sampling(seed=4), max_tokens=12, choices=3)
    async with loaded(make(slots=4)) as engine:
        runs = [[delta async for delta in engine.chat(request)] for _ in range(2)]
    texts = [["".join(d.text for d in run if d.choice == choice) for choice in range(3)] for run in runs]
    assert texts[0] == texts[1]
    assert len({*texts[0]}) == 3
    prompt, completion, _ = usage_of(runs[0][-1])
    assert (prompt < 60, completion) == (True, 36)


async def test_log_probabilities_are_of_the_tokens_shown(make: partial[LlamaEngine]) -> None:
    """Greedy takes the likeliest, so each token heads its own list, and probabilities are below one."""
    async with loaded(make()) as engine:
        deltas = [delta async for delta in engine.chat(story(max_tokens=8, logprobs=3))]
    found = [each for delta in deltas for each in delta.logprobs]
    assert b"".join(each.piece for each in found).decode() == "".join(delta.text for delta in deltas)
    assert all(each.top[0] == (each.piece, each.logprob) and each.logprob <= 0 for each in found)
    assert [len(each.top) for each in found] == [3] * 8


async def test_a_biased_token_is_never_taken(make: partial[LlamaEngine]) -> None:
    """Minus a hundred bans a token, plus a hundred leaves no other."""
    async with loaded(make()) as engine:
        banned = story(Sampling(temperature=0, logit_bias=((4093, 100.0),)), max_tokens=3)
        text, _ = await answer(engine, banned)
        plain, _ = await answer(engine, story(max_tokens=3))
    assert text != plain
    assert len({*text.split()}) == 1


async def test_a_grammar_leaves_nothing_else(make: partial[LlamaEngine]) -> None:
    """An answer by grammar is a sentence of it, and ends where it ends."""
    async with loaded(make(slots=2)) as engine:
        tossed = [
            await answer(engine, story(Sampling(seed=seed, grammar=HEADS_OR_TAILS), max_tokens=20)) for seed in range(4)
        ]
    assert {text for text, _ in tossed} <= {"heads!", "tails!"}
    assert {last.finish for _, last in tossed} == {Finish.STOP}


@pytest.mark.parametrize("grammar", ['rule ::= "x"', "root ::= missing", 'root ::= "x', "root ::= root"])
async def test_a_grammar_that_is_none_is_a_400(make: partial[LlamaEngine], grammar: str) -> None:
    """The client is told, and the engine goes on."""
    async with loaded(make()) as engine:
        with pytest.raises(RequestError) as refusal:
            await answer(engine, story(Sampling(grammar=grammar), max_tokens=3))
        assert (refusal.value.status, refusal.value.param) == (400, "grammar")
        text, _ = await answer(engine, story(max_tokens=3))
    assert text


DEAD_ENDS = ['root ::= "\\x00"', "root ::= <[4000000000]>"]


@pytest.mark.parametrize("grammar", DEAD_ENDS)
async def test_a_grammar_that_no_token_fits_ends_its_own_request(make: partial[LlamaEngine], grammar: str) -> None:
    """llama.cpp would end its process; a neighbour's answer goes on."""
    async with loaded(make(slots=2)) as engine:
        neighbour = asyncio.create_task(answer(engine, story(max_tokens=30)))
        with pytest.raises(RequestError) as refusal:
            await answer(engine, story(Sampling(grammar=grammar), max_tokens=5))
        assert refusal.value.status == 400
        assert usage_of((await neighbour)[1])[1] == 30


WITHOUT_END = """root ::= "x" one root | "x" two root
one ::= "x" | "x" one root | "x" two root
two ::= "x" | "x" two one | "x" one two"""


LONG_TO_READ = "\n".join(["root ::= r0", *(f"r{n} ::= r{n + 1} | r{n + 1}" for n in range(40)), 'r40 ::= "x"'])


async def test_a_grammar_without_end_ends_its_own_request(make: partial[LlamaEngine]) -> None:
    """Others are answered all the while; nobody new is sent, and with nobody left the engine begins anew."""
    others = 0

    async def ask_on(engine: LlamaEngine) -> None:
        nonlocal others
        while True:
            assert usage_of((await answer(engine, story(max_tokens=10)))[1])[1] == 10
            others += 1

    async with loaded(make(slots=5)) as engine:
        asking = asyncio.create_task(ask_on(engine))
        asked = (story(Sampling(grammar=text)) for text in (WITHOUT_END, WITHOUT_END, LONG_TO_READ))
        refused = await asyncio.gather(*(answer(engine, each) for each in asked), return_exceptions=True)
        assert others > 2
        with pytest.raises(RequestError) as refusal:
            await answer(engine, story(Sampling(grammar=HEADS_OR_TAILS)))
        troubles = []
        for _ in range(300):
            troubles += [engine.trouble] if engine.trouble else []
            await asyncio.sleep(0 if troubles else 0.1)
        asking.cancel()
        why = await asyncio.wait_for(engine.broken(), 60)
    assert [(each.status, each.code) for each in refused if isinstance(each, RequestError)] == [
        (400, "grammar_too_slow")
    ] * 3
    assert (refusal.value.status, refusal.value.kind, refusal.value.code) == (429, "rate_limit_error", "grammars_stuck")
    assert "a grammar of a client has no end" in troubles[0]
    assert "a grammar of a client has no end" in str(why)


async def test_a_bias_for_no_token_is_a_400(make: partial[LlamaEngine]) -> None:
    """Ids beyond the vocabulary would be looked for in all of it, for every token."""
    async with loaded(make()) as engine:
        with pytest.raises(RequestError, match="token ids of this model are 0 to 49151"):
            await answer(engine, story(Sampling(logit_bias=((49152, 1.0),)), max_tokens=2))


async def test_text_and_token_ids_go_on(make: partial[LlamaEngine]) -> None:
    """Completions use no chat template."""
    async with loaded(make()) as engine:
        text = TextRequest("One, two, three, four,", Generation(8, sampling=GREEDY))
        said = "".join([delta.text async for delta in engine.complete(text)])
        ids = TextRequest((1, 2, 3), Generation(2, sampling=GREEDY))
        last = [delta async for delta in engine.complete(ids)][-1]
    assert "five" in said
    assert usage_of(last)[:2] == (3, 2)


async def test_token_ids_that_do_not_exist_are_a_400(make: partial[LlamaEngine]) -> None:
    """Neither negative nor beyond the vocabulary: both would be an abort in C."""
    async with loaded(make()) as engine:
        for bad in (10**6, 49152):
            with pytest.raises(RequestError, match="token ids"):
                await anext(engine.complete(TextRequest((1, bad), Generation(2))))
        assert (await answer(engine, story(max_tokens=2)))[0]


async def test_a_long_prompt_does_not_hold_up_a_stream(make: partial[LlamaEngine]) -> None:
    """While a thousand tokens are computed for one in steps of 64, the other goes on, a token per step."""
    long = ChatRequest((Message("user", "word " * 1000),), Generation(1, sampling=GREEDY))
    async with loaded(make(context=2048, slots=2, batch=64)) as engine:
        stream = engine.chat(story(max_tokens=400))
        await anext(stream)
        behind = asyncio.create_task(answer(engine, long))
        during = 0
        async for _ in stream:
            during += not behind.done()
            if behind.done():
                break
        await stream.aclose()
    assert during >= 12


async def test_ten_million_characters_are_refused_at_once(make: partial[LlamaEngine]) -> None:
    """What is surely too long is not even tokenised, and a neighbour goes on."""
    clock = asyncio.get_running_loop().time
    async with loaded(make(slots=2)) as engine:
        neighbour = asyncio.create_task(answer(engine, story(max_tokens=10)))
        begin = clock()
        with pytest.raises(RequestError, match="tokens, this model takes 512"):
            await answer(engine, ChatRequest((Message("user", "x" * 10_000_000),)))
        assert clock() - begin < 10
        assert usage_of((await neighbour)[1])[1] == 10


async def test_a_stop_of_the_whole_group_leaves_the_engine_to_its_front(make: partial[LlamaEngine]) -> None:
    """Service managers and terminals signal every process; an answer in hand is finished all the same."""
    async with loaded(make()) as engine:
        ask = asyncio.create_task(answer(engine, story(max_tokens=30)))
        await asyncio.sleep(0.2)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(engine.pid, number)
        assert usage_of((await ask)[1])[1] == 30


async def test_a_killed_process_is_one_error_for_each(make: partial[LlamaEngine]) -> None:
    """Who waits gets an error that says how it ended, and the worker hears of it without any request."""
    async with loaded(make(slots=2)) as engine:
        asks = [asyncio.create_task(answer(engine, story(max_tokens=400))) for _ in range(2)]
        await asyncio.sleep(0.3)
        os.kill(engine.pid, signal.SIGKILL)
        results = await asyncio.gather(*asks, return_exceptions=True)
        broken = await asyncio.wait_for(engine.broken(), 10)
    assert [str(result) for result in results] == [str(broken)] * 2
    assert "SIGKILL" in str(broken)


async def test_an_abort_in_c_says_what_it_was_about(make: partial[LlamaEngine]) -> None:
    """The last words of a process that ends itself are in the error."""
    async with loaded(make()) as engine:
        os.kill(engine.pid, signal.SIGABRT)
        assert "SIGABRT" in str(await asyncio.wait_for(engine.broken(), 10))
        with pytest.raises(EngineCrashedError, match="SIGABRT"):
            await answer(engine, story(max_tokens=1))


async def test_a_stopped_process_gets_no_traffic_and_is_ended(
    make: partial[LlamaEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the worker says that it answers nothing, then the process is taken for dead."""
    monkeypatch.setattr(engine_module, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(engine_module, "TROUBLE_SECONDS", 0.5)
    monkeypatch.setattr(engine_module, "SILENCE_SECONDS", 2.0)
    async with loaded(make()) as engine:
        assert engine.trouble == ""
        os.kill(engine.pid, signal.SIGSTOP)
        await asyncio.sleep(1.0)
        assert "silent" in engine.trouble
        assert "has not answered for 2 s" in str(await asyncio.wait_for(engine.broken(), 10))


async def test_slots_and_cells_are_told(make: partial[LlamaEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    """The gauges say what is busy, and that a client who left has freed it within a second."""
    monkeypatch.setattr(engine_module, "BEAT_SECONDS", 0.05)
    async with loaded(make(slots=2)) as engine:
        stream = engine.chat(story(max_tokens=400))
        await anext(stream)
        await asyncio.sleep(0.3)
        assert (engine.gauges.busy, engine.gauges.held > 20) == (1, True)
        await stream.aclose()
        async with asyncio.timeout(1):
            while engine.gauges.busy:  # noqa: ASYNC110 - what the process says of itself, asked again and again
                await asyncio.sleep(0.02)
