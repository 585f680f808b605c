"""What options change in the memory that a model needs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.hive import memory
from rbee_runtime.hive.scene import ModelState
from rbee_runtime.models import needs
from rbee_runtime.models.estimate import MIB, CacheType, Settings
from rbee_runtime.models.facts import Format, ModelFacts
from rbee_runtime.protocol import WorkerSpec

PLAIN = ModelFacts(format=Format.GGUF, main="m", architecture="a", parameters=1, quantisation="", weights_bytes=1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, CacheType.F16),
        ({"kv_type": "q8_0"}, CacheType.Q8_0),
        ({"kv_type": "f32"}, CacheType.F32),
        ({"kv_type": "fp8_e4m3"}, CacheType.FP8),
        ({"kv_type": "bfloat16"}, CacheType.F16),
        ({"kv_type": "auto"}, CacheType.F16),
    ],
)
def test_the_context_has_the_type_of_the_option(options: dict[str, Any], expected: CacheType) -> None:
    """By any engine's name of it."""
    for engine in ("llama-cpp", "vllm"):
        assert needs.settings_of(options, PLAIN, engine=engine).cache is expected


@pytest.mark.parametrize(
    ("options", "engine", "in_memory", "expected"),
    [
        ({}, "llama-cpp", True, 256 * MIB),
        ({"prompt_cache_mib": 8}, "llama-server", True, 8 * MIB),
        ({"prompt_cache_mib": "8"}, "llama-server", True, 8 * MIB),
        ({"prompt_cache_mib": "many"}, "llama-cpp", True, 256 * MIB),
        ({}, "llama-cpp", False, 0),
        ({"task": "embed"}, "llama-cpp", True, 0),
        ({}, "vllm", True, 0),
        ({"lora": "/nowhere/a.gguf"}, "llama-server", False, 0),
    ],
)
def test_what_lies_beside_the_model_counts(
    options: dict[str, Any], engine: str, *, in_memory: bool, expected: int
) -> None:
    """Conversations that are kept count where the model is in main memory too; a file that is elsewhere is unknown."""
    assert needs.beside(options, engine=engine, in_memory=in_memory) == expected


@pytest.mark.parametrize(
    ("options", "embeds", "engine", "expected"),
    [
        ({}, False, "llama-cpp", Settings()),
        ({}, True, "llama-cpp", Settings(whole=True)),
        ({"task": "generate"}, True, "llama-cpp", Settings()),
        ({}, True, "llama-server", Settings()),
        ({"task": "rerank", "batch": "64"}, False, "llama-server", Settings(batch=64, whole=True)),
        ({"task": "embed", "batch": 64}, False, "vllm", Settings()),
        ({"batch": "many"}, False, "llama-cpp", Settings()),
        ({"batch": 2048}, False, "llama-cpp", Settings(batch=2048)),
        ({"batch": 2048}, False, "llama-server", Settings()),
    ],
)
def test_texts_for_vectors_are_computed_whole(
    options: dict[str, Any], *, embeds: bool, engine: str, expected: Settings
) -> None:
    """By the option, and in llama-cpp by the file; so is the size of a step."""
    assert needs.settings_of(options, replace(PLAIN, embeds=embeds), engine=engine) == expected


def test_files_of_options_are_in_the_hive_s_estimate(tmp_path: Path) -> None:
    """An adapter, a draft and a projector each with a tenth more than their size; and a smaller context."""
    files = {name: tmp_path / f"{name}.gguf" for name in needs.FILES}
    for file in files.values():
        file.write_bytes(bytes(10_000))
    facts = {
        "format": "gguf",
        "main": "m.gguf",
        "architecture": "llama",
        "parameters": 1000,
        "quantisation": "F16",
        "weights_bytes": 2000,
        "context_length": 4096,
        "cached": [64, 64],
        "windows": [0, 0],
        "embedding": 64,
        "feed_forward": 128,
        "vocabulary": 1000,
    }
    model = ModelState(ready=True, facts=facts, size=2000)
    given: dict[str, Any] = {name: str(path) for name, path in files.items()}

    def guess(**options: Any) -> int:
        spec = WorkerSpec(
            id="w-000001", model="m", engine="llama-server", context=4096, devices=("GPU-1",), options=options
        )
        return memory.guess(spec, model)

    assert guess(**given) - guess() == 33_000
    assert guess(task="embed") > guess()
    assert guess(batch=2048) == guess()
    assert guess() - guess(kv_type="q8_0") == 2 * 64 * 4096 * 15 // 16
