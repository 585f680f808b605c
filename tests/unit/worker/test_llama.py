"""The llama-cpp engine with a real model."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.errors import EngineLoadError, RequestError
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.worker.engines import GREEDY, ChatRequest, Delta, Finish, Generation, Message, Sampling
from rbee_runtime.worker.engines.llamacpp.engine import LlamaEngine
from tests.unit.models.gguf_builder import STRING, entry, gguf
from tests.unit.worker.serving import ended, served, start_process

pytestmark = pytest.mark.engine

STORY = (Message("user", "Write a long story about bees"),)


@pytest.fixture
def make(llama_engine_dir: Path, smol_model: Path) -> partial[LlamaEngine]:
    """Build engines for a path or context of the test's choice."""

    def build(*, path: Path = smol_model, context: int = 512, slots: int = 1, **options: Any) -> LlamaEngine:
        spec = WorkerSpec(
            id="llama-000001", model="smol", engine="llama-cpp", context=context, slots=slots, options=options
        )
        return LlamaEngine(spec, path, llama_engine_dir)

    return partial(build)


@asynccontextmanager
async def loaded(engine: LlamaEngine) -> AsyncIterator[LlamaEngine]:
    """Load and free an engine."""
    await engine.load(list[float]().append)
    try:
        yield engine
    finally:
        await engine.close()


def story(sampling: Sampling = GREEDY, **generation: Any) -> ChatRequest:
    return ChatRequest(STORY, Generation(sampling=sampling, **generation))


async def answer(engine: LlamaEngine, request: ChatRequest) -> tuple[str, Delta]:
    deltas = [delta async for delta in engine.chat(request)]
    return "".join(delta.text for delta in deltas), deltas[-1]


async def test_a_real_answer_comes_token_by_token(make: partial[LlamaEngine]) -> None:
    """A real model answers in several deltas, and counts what it used."""
    async with loaded(make()) as engine:
        deltas = [delta async for delta in engine.chat(story(max_tokens=12))]
    assert sum(bool(delta.text) for delta in deltas) >= 6
    assert deltas[-1].finish is Finish.LENGTH
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion == 12
    assert deltas[-1].usage.prompt > len(STORY[0].content.split())


async def test_a_repeated_prompt_is_not_computed_again(make: partial[LlamaEngine]) -> None:
    """The second time all but the last token of the prompt come from the context, and the answer is the same."""
    request = story(max_tokens=8)
    async with loaded(make()) as engine:
        (first, cold), (second, warm) = await answer(engine, request), await answer(engine, request)
    assert first == second
    assert cold.usage is not None
    assert warm.usage is not None
    assert (cold.usage.cached, warm.usage.cached) == (0, warm.usage.prompt - 1)


async def test_a_seed_makes_an_answer_repeatable(make: partial[LlamaEngine]) -> None:
    """One seed, one answer; other seeds, other answers."""
    async with loaded(make()) as engine:
        texts = [(await answer(engine, story(Sampling(seed=seed), max_tokens=16)))[0] for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


async def test_a_stop_sequence_ends_an_answer(make: partial[LlamaEngine]) -> None:
    """Text before the sequence comes, the sequence does not, the reason is `stop`."""
    async with loaded(make()) as engine:
        whole, _ = await answer(engine, story(max_tokens=24))
        middle = whole[len(whole) // 2 :][:5]
        text, last = await answer(engine, story(max_tokens=24, stop=(middle,)))
    assert text == whole[: whole.index(middle)]
    assert last.finish is Finish.STOP


@pytest.mark.parametrize("settings", [{"top_p": 0.5}, {"frequency_penalty": 2.0, "presence_penalty": 2.0}])
async def test_sampling_settings_reach_the_model(make: partial[LlamaEngine], settings: dict[str, Any]) -> None:
    """Nucleus sampling and penalties change what the same seed gives."""
    async with loaded(make()) as engine:
        plain, _ = await answer(engine, story(Sampling(seed=5), max_tokens=32))
        changed, _ = await answer(engine, story(Sampling(seed=5, **settings), max_tokens=32))
    assert plain != changed


async def test_an_answer_fills_the_context_at_most(make: partial[LlamaEngine]) -> None:
    """Without a limit of its own an answer ends where the context ends."""
    request = story(Sampling(temperature=0, frequency_penalty=0.1))
    async with loaded(make(context=80)) as engine:
        _, last = await answer(engine, request)
    assert last.usage is not None
    assert (last.finish, last.usage.prompt + last.usage.completion) == (Finish.LENGTH, 80)


async def test_a_long_prompt_is_refused_with_numbers(make: partial[LlamaEngine]) -> None:
    """Nothing is cut off in silence: the sentence has both sizes."""
    async with loaded(make()) as engine:
        with pytest.raises(RequestError, match=r"the prompt has 1\d\d\d tokens, this model takes 512") as refusal:
            await answer(engine, ChatRequest((Message("user", "word " * 1000),)))
    assert (refusal.value.status, refusal.value.code) == (400, "context_length_exceeded")


async def test_context_is_never_more_than_the_model_was_trained_for(make: partial[LlamaEngine]) -> None:
    """A larger wish is cut to the model's own limit, and said so in `context`."""
    async with loaded(make(context=100_000)) as engine:
        assert engine.context == 8192


async def test_answers_wait_in_order(make: partial[LlamaEngine]) -> None:
    """One slot: whichever answer is second begins after the last token of the first."""
    order = list[str]()
    async with loaded(make()) as engine:

        async def ask(name: str) -> None:
            async for _ in engine.chat(story(max_tokens=5)):
                order.append(name)

        await asyncio.gather(ask("a"), ask("b"))
    assert order in (sorted(order), sorted(order, reverse=True))
    assert set(order) == {"a", "b"}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_the_prefill(make: partial[LlamaEngine], stream: bool) -> None:
    """Seconds of prompt processing stop within one second after the client is gone, and the next answer is right."""
    engine = make(context=8192)
    async with served(engine=engine) as worker:
        expected, _ = await answer(engine, ChatRequest((Message("user", "hi there"),), Generation(5, sampling=GREEDY)))
        long = [{"role": "user", "content": "word " * 7000}]
        ask = asyncio.create_task(worker.ask(messages=long, stream=stream))
        await worker.until(in_flight=1)
        await asyncio.sleep(0.3)
        ask.cancel()
        await worker.until(in_flight=0, seconds=1)
        again = await worker.ask(max_tokens=5, temperature=0)
    assert again.json()["choices"][0]["message"]["content"] == expected


async def test_a_model_that_is_cut_off_is_a_bad_model(
    make: partial[LlamaEngine], smol_model: Path, tmp_path: Path
) -> None:
    """A good header with tensors missing is refused before llama.cpp reads it."""
    path = tmp_path / "short.gguf"
    with smol_model.open("rb") as whole:
        path.write_bytes(whole.read(8 << 20))
    with pytest.raises(EngineLoadError, match=r"short\.gguf is cut off: tensor .+ fetch it again") as failure:
        await make(path=path).load(list[float]().append)
    assert failure.value.reason == "bad_model"


async def test_a_model_that_llama_cpp_does_not_know_is_a_bad_model(make: partial[LlamaEngine], tmp_path: Path) -> None:
    """A whole file of an unknown architecture is refused by llama.cpp, with its reason."""
    path = tmp_path / "new.gguf"
    path.write_bytes(gguf((entry("general.architecture", STRING, "new"),)))
    with pytest.raises(EngineLoadError, match=r"llama\.cpp cannot load .*new\.gguf: .+new") as failure:
        await make(path=path).load(list[float]().append)
    assert failure.value.reason == "bad_model"


async def test_too_little_memory_is_told_from_a_bad_model(llama_engine_dir: Path, smol_model: Path) -> None:
    """A context that does not fit into the memory allowed ends with status 71."""
    limit = 400 << 20
    process = await start_process(
        "--model", str(smol_model), "--engine-dir", str(llama_engine_dir), "--context", "8192", "--port", "0"
    )
    resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))
    code, errors = await ended(process)
    assert code == 71, errors
    assert "or the model a smaller context" in errors.splitlines()[-1]


def environment(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


@pytest.mark.parametrize(
    ("devices", "shown"),
    [((), []), (("cpu",), [b"CUDA_VISIBLE_DEVICES="]), (("GPU-1", "GPU-2"), [b"CUDA_VISIBLE_DEVICES=GPU-1,GPU-2"])],
    ids=["none named", "the processor", "two cards"],
)
async def test_its_process_sees_only_the_cards_of_its_worker(
    llama_engine_dir: Path, smol_model: Path, devices: tuple[str, ...], shown: list[bytes]
) -> None:
    """What is booked for a neighbour on another card is left to that one."""
    spec = WorkerSpec(id="llama-000001", model="smol", engine="llama-cpp", context=512, devices=devices)
    async with loaded(LlamaEngine(spec, smol_model, llama_engine_dir)) as engine:
        assert engine._child is not None
        assert engine._child._process is not None
        variables = environment(engine._child._process.pid)
        assert [each for each in variables if each.startswith(b"CUDA_VISIBLE_DEVICES=")] == shown
