"""Options of engines, read where no engine is: by the inventory and by the queen's command line."""

import subprocess
import sys

import pytest

from rbee_runtime.errors import ConfigError
from rbee_runtime.worker.engines import options

GGUF = "file:/x.gguf"
GOOD: list[tuple[str, str, options.Options]] = [
    ("llama-cpp", GGUF, {}),
    ("llama-cpp", "hf:acme/bee", {"threads": "4", "gpu_layers": 0}),
    ("llama-cpp", GGUF, {"kv_type": "q8_0", "flash_attention": "on", "tensor_split": "3,1.5", "batch": "64"}),
    ("fake", "fake:", {"load_s": 1}),
    ("fake", "fake:tokens=3,fail=crash_after_2", {"text": "a b"}),
    ("an engine that is not known here", GGUF, {}),
    ("llama-server", GGUF, {"task": "rerank", "lora": "/srv/a.gguf", "threads": "4"}),
    ("vllm", "hf:acme/bee", {"eager": True, "kv_type": "fp8", "tool_parser": "hermes"}),
]


@pytest.mark.parametrize(("engine", "source", "given"), GOOD)
def test_what_a_worker_takes_is_taken(engine: str, source: str, given: options.Options) -> None:
    """Numbers may be texts; an engine that is not known here has no options."""
    options.check(engine, source, given)


BAD: list[tuple[str, str, options.Options, str]] = [
    (
        "llama-cpp",
        GGUF,
        {"threads": 2000},
        "threads is 2000: expected `int` <= 1024; known: gpu_layers, threads",
    ),
    ("llama-cpp", GGUF, {"threads": True}, "threads is True: expected `int`, got `bool`"),
    ("llama-cpp", GGUF, {"colour": "red"}, "there is no 'colour'; known: gpu_layers, threads"),
    ("llama-cpp", GGUF, {"kv_type": "q3"}, "kv_type is 'q3'; it is one of bf16, f16, "),
    ("llama-cpp", GGUF, {"tensor_split": "3;1"}, "tensor_split is '3;1': write the devices' shares like 3,1"),
    ("llama-cpp", GGUF, {"tensor_split": "0,0"}, "tensor_split is '0,0'"),
    ("llama-cpp", GGUF, {"tensor_split": "1,-2"}, "tensor_split is '1,-2'"),
    ("llama-cpp", GGUF, {"batch": 8}, "batch is 8: expected `int` >= 32"),
    (
        "llama-cpp",
        GGUF,
        {"kv_type": "q8_0", "flash_attention": "off"},
        "kv_type q8_0 needs flash attention; leave flash_attention out, or set kv_type to f16",
    ),
    ("fake", "fake:tokens", {}, "tokens is '': expected `int`, got `str`"),
    ("fake", "fake:tokens=1", {"slot": 2}, "unknown option 'slot' of a fake engine; did you mean 'slots'"),
]


@pytest.mark.parametrize(("engine", "source", "given", "sentence"), BAD)
def test_what_a_worker_refuses_is_refused(engine: str, source: str, given: options.Options, sentence: str) -> None:
    """The sentence names the one option that is wrong, and no path within a document that nobody wrote."""
    with pytest.raises(ConfigError) as caught:
        options.check(engine, source, given)
    assert sentence in str(caught.value)
    assert "$" not in str(caught.value)


@pytest.mark.parametrize("module", ["rbee_runtime.worker.engines.options", "rbee_deploy.inventory"])
def test_no_engine_is_loaded_for_it(module: str) -> None:
    """Whoever reads options needs neither llama.cpp nor an event loop."""
    heavy = {
        "llama_cpp",
        "numpy",
        "asyncio",
        "rbee_runtime.worker.engines.llamacpp",
        "rbee_runtime.testing.fake_engine",
    }
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ""


def test_slots_that_an_engine_lacks_are_refused() -> None:
    """While the inventory loads, not when a worker starts."""
    options.check("llama-cpp", GGUF, {}, slots=256)
    with pytest.raises(ConfigError, match="slots is 257: engine llama-cpp has at most 256"):
        options.check("llama-cpp", GGUF, {}, slots=257)


@pytest.mark.parametrize(
    ("engine", "given", "said"),
    [
        ("llama-server", {"projector": "x.gguf"}, "projector is 'x.gguf'; it is the absolute path of a file, or none"),
        ("llama-server", {"lora": "x.gguf"}, "lora is 'x.gguf'; it is the absolute path of a file"),
        ("vllm", {"reasoning_parser": "A!"}, "vLLM's name of one: small letters, digits and _"),
        ("llama-cpp", {"task": "rank"}, "task is 'rank'; it is one of embed, generate"),
    ],
)
def test_a_wrong_option_is_told_in_words(engine: str, given: options.Options, said: str) -> None:
    """No pattern, and no choice that is nothing."""
    with pytest.raises(ConfigError, match=said) as error:
        options.check(engine, GGUF, given)
    assert "regex" not in str(error.value)
