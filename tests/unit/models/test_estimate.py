"""How much memory a model takes, against published sizes and what llama.cpp reports for itself."""

from dataclasses import replace
from typing import Any

import pytest

from rbee_runtime.errors import EngineLoadError
from rbee_runtime.models.estimate import ENGINES, GIB, MIB, CacheType, Estimate, Settings, kv_bytes, memory, utilisation
from rbee_runtime.models.facts import Format, ModelFacts


def grouped(layers: int, heads: int, kv_heads: int, width: int = 128, **more: object) -> ModelFacts:
    """Return a model of grouped attention."""
    facts = ModelFacts(
        format=Format.GGUF,
        main="m.gguf",
        architecture="x",
        parameters=8_000_000_000,
        quantisation="Q4_K_M",
        weights_bytes=layers * 100 * MIB,
        context_length=131072,
        layers=layers,
        heads=heads,
        kv_heads=(kv_heads,) * layers,
        key_length=width,
        value_length=width,
        cached=(kv_heads * width * 2,) * layers,
        windows=(0,) * layers,
        embedding=4096,
        feed_forward=14336,
        vocabulary=128256,
    )
    return replace(facts, **more)  # type: ignore[arg-type]


LLAMA_8B = grouped(32, 32, 8)
SMOL = grouped(30, 9, 3, 64, embedding=576, feed_forward=1536, vocabulary=49152)


@pytest.mark.parametrize(
    ("facts", "gib"),
    [
        pytest.param(LLAMA_8B, 4.0, id="Llama-3.1-8B"),
        pytest.param(grouped(36, 32, 8), 4.5, id="Qwen3-8B"),
        pytest.param(grouped(64, 64, 8), 8.0, id="Qwen3-32B"),
        pytest.param(grouped(48, 32, 4), 3.0, id="Qwen3-30B-A3B"),
    ],
)
def test_published_cache_sizes(facts: ModelFacts, gib: float) -> None:
    """The cache of 32,768 tokens in f16."""
    assert memory(facts, context=32768).kv == gib * GIB


@pytest.mark.parametrize(
    ("context", "slots", "mib"), [(2048, 1, 45), (8192, 1, 180), (4096, 2, 180), (2100, 1, 50.625)]
)
def test_the_cache_is_what_llama_cpp_reports(context: int, slots: int, mib: float) -> None:
    """SmolLM2-135M's cache as llama.cpp logs it, its rounding to 256 cells included."""
    assert memory(SMOL, context=context, slots=slots).kv == mib * MIB


def test_buffers_are_near_what_llama_cpp_reports() -> None:
    """SmolLM2-135M's compute buffer is 98.3 to 102.6 MiB; the estimate is not below and at most a tenth above."""
    assert 102.6 * MIB <= memory(SMOL, context=2048).buffers <= 1.1 * 98.3 * MIB


CASES: dict[str, tuple[dict[str, Any], Any, int]] = {
    "q8_0": ({"settings": Settings(CacheType.Q8_0)}, LLAMA_8B, 4 * GIB * 17 // 32),
    "q4_0": ({"settings": Settings(CacheType.Q4_0)}, LLAMA_8B, 4 * GIB * 9 // 32),
    "fp8": ({"settings": Settings(CacheType.FP8)}, LLAMA_8B, 2 * GIB),
    "slots multiply": ({"slots": 4}, LLAMA_8B, 16 * GIB),
    "slots share a unified pool": ({"slots": 4, "unified": True}, LLAMA_8B, 4 * GIB),
    "heads per layer": ({}, replace(LLAMA_8B, cached=(2048, 0, 1024, 512) * 8), 7 * GIB // 4),
    "latent attention": ({}, grouped(61, 128, 1, cached=(512 + 64,) * 61, latent=True), 61 * 576 * 2 * 32768),
    "windows": ({"engine": "llama-server"}, replace(LLAMA_8B, windows=(1536, 0) * 16), 2 * GIB + 2 * GIB // 16),
    "windows wider than the context": ({"engine": "llama-server"}, replace(LLAMA_8B, windows=(65536,) * 32), 4 * GIB),
    "windows kept whole": ({"engine": "llama-cpp"}, replace(LLAMA_8B, windows=(1536, 0) * 16), 4 * GIB),
    "no more than trained for": ({}, replace(LLAMA_8B, context_length=8192), GIB),
    "layers without a cache": ({}, replace(LLAMA_8B, cached=(0,) * 32), 0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cache_follows_model_and_options(case: str) -> None:
    """Element types, slots, windows, latent and uneven attention: 32,768 tokens each."""
    options, facts, expected = CASES[case]
    assert memory(facts, **{"context": 32768, **options}).kv == expected


def test_windows_in_a_pool_count_once_per_slot() -> None:
    """A unified pool holds a window for each slot and one batch."""
    facts = replace(LLAMA_8B, windows=(1024,) * 32)
    size = kv_bytes(facts, context=32768, slots=3, cache=CacheType.F16, habits=ENGINES["vllm"], unified=True)
    assert size == (3 * 1024 + 8192) * 4 * GIB // 32768


def test_recurrent_state_is_per_slot_and_not_per_token() -> None:
    """State is f32 and independent of the context."""
    facts = replace(LLAMA_8B, state=1_000_000)
    assert [memory(facts, context=context, slots=3).state for context in (512, 32768)] == [12_000_000] * 2


def test_an_accelerator_costs_its_context_and_graphs() -> None:
    """CUDA's context is counted per GPU, vLLM's graphs with it, and neither in main memory."""
    overheads = [
        memory(LLAMA_8B, context=512, engine=engine, accelerated=accelerated).overhead
        for engine, accelerated in (("llama-cpp", True), ("vllm", True), ("llama-cpp", False))
    ]
    assert overheads == [512 * MIB, 512 * MIB + 2 * GIB, 96 * MIB]


SHARES = {
    "whole layers": ("llama-cpp", LLAMA_8B, 3, (11 * 100 * MIB, 11 * GIB // 8)),
    "heads": ("vllm", LLAMA_8B, 4, (800 * MIB, GIB)),
    "fewer heads than devices": ("vllm", grouped(32, 32, 2), 4, (800 * MIB, GIB // 2)),
    "latent attention is copied": ("vllm", replace(LLAMA_8B, latent=True), 4, (800 * MIB, 4 * GIB)),
    "the embedding is copied": ("vllm", replace(LLAMA_8B, embedding_bytes=320 * MIB), 4, (1040 * MIB, GIB)),
    "the projector is copied": ("llama-cpp", replace(LLAMA_8B, projector_bytes=MIB), 2, (1601 * MIB, 2 * GIB)),
}


@pytest.mark.parametrize("case", SHARES)
def test_devices_share_a_model(case: str) -> None:
    """Each of several devices holds its layers or heads, and copies of what cannot be divided."""
    engine, facts, devices, expected = SHARES[case]
    found = memory(facts, context=32768, engine=engine, devices=devices)
    assert (found.weights, found.kv, found.devices) == (*expected, devices)


def test_the_total_is_the_parts_and_explained() -> None:
    """One line names every part with its size."""
    found = Estimate(
        weights=5 * GIB, kv=4 * GIB, state=0, buffers=GIB // 4, overhead=GIB // 2,
        context=32768, slots=2, cache=CacheType.F16, devices=2,
    )  # fmt: skip
    assert found.total == 39 * GIB // 4
    assert found.explain() == (
        "weights 5.00 + cache 4.00 (32768 tokens x 2 slots, f16) + buffers 0.25 + overhead 0.50 = 9.75 GiB"
        " on each of 2 devices"
    )
    assert "state 1.00 + " in replace(found, state=GIB).explain()


NINE = Estimate(
    weights=9 * GIB, kv=0, state=0, buffers=0, overhead=0, context=512, slots=1, cache=CacheType.F16
)  # fmt: skip


@pytest.mark.parametrize(("total", "free", "share"), [(80, 80, 0.113), (24, 9.02, 0.375), (9, 9, 1.0)])
def test_vllm_gets_the_share_that_it_needs(total: float, free: float, share: float) -> None:
    """The share is of the whole card, in thousandths and never less than the estimate."""
    assert utilisation(NINE, int(total * GIB), int(free * GIB)) == share


@pytest.mark.parametrize(("total", "free"), [(80, 9.03), (24, 8), (8, 8)])
def test_vllm_is_not_started_where_too_little_is_free(total: float, free: float) -> None:
    """A share beyond what is free, or beyond the card, is refused with the numbers and the reason for the hive."""
    with pytest.raises(EngineLoadError, match=rf"needs 9.00 GiB of the device's {total}.*free") as refusal:
        utilisation(NINE, int(total * GIB), int(free * GIB))
    assert refusal.value.reason == "out_of_memory"


def test_whole_texts_take_a_step_of_the_context_and_keep_nothing_of_it() -> None:
    """An encoder has no cache; llama.cpp reserves logits for each token, and models of text compute them too."""
    whole = Settings(whole=True)
    text = memory(LLAMA_8B, context=8192, slots=8, settings=whole)
    encoder = memory(replace(LLAMA_8B, causal=False), context=8192, slots=8, settings=whole)
    assert text.kv == memory(LLAMA_8B, context=8192, slots=1).kv
    assert encoder.kv == 0
    assert text.buffers - encoder.buffers == 8192 * LLAMA_8B.vocabulary * 4
    assert encoder.buffers > 8192 * 8192 * 4


def test_longer_steps_take_longer_rows_and_no_more_logits() -> None:
    """Logits are kept for the answers of a step, however many tokens of prompts it has."""
    more = memory(LLAMA_8B, context=512, settings=Settings(batch=1024)).buffers - memory(LLAMA_8B, context=512).buffers
    assert more == 512 * 2 * (LLAMA_8B.embedding + LLAMA_8B.feed_forward) * 4
