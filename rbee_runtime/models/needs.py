"""What a worker's options change in the memory that its model needs."""

from collections.abc import Mapping
from pathlib import Path

from rbee_runtime.models.estimate import MIB, CacheType, Settings
from rbee_runtime.models.facts import ModelFacts

PROMPT_CACHE_MIB = 256
"""Of main memory for conversations that nobody continues now, unless an option says otherwise: two thousand tokens of
a model of 8 billion parameters."""

FILES = ("lora", "draft", "projector")
"""Options that name a file which the engine loads beside the model."""

OVERHEAD = 1.1
"""Of a file of which only the size is known: a tenth for its context and buffers."""

_KEEPING = frozenset({"llama-cpp", "llama-server"})

Options = Mapping[str, str | int | float | bool]


def settings_of(options: Options, facts: ModelFacts, *, engine: str) -> Settings:
    """Return how a worker computes by its options and its model, as far as that changes what it needs."""
    if engine not in _KEEPING:
        return Settings(_cache_type(options))
    task = options.get("task") or ("embed" if facts.embeds and engine == "llama-cpp" else "generate")
    whole = task in {"embed", "rerank"}
    # llama-server's steps stay what they are: the option is how many of them it plans together.
    batch = _count(options.get("batch", 0)) if whole or engine == "llama-cpp" else 0
    return Settings(_cache_type(options), batch, whole=whole)


def beside(options: Options, *, engine: str, in_memory: bool) -> int:
    """Return the bytes that a worker takes beside its model: files by options, and what it keeps in main memory.

    `in_memory` says that the model is in main memory as well, where both count together. Files that are not on this
    machine are taken for nothing, and so is what is kept of texts where vectors are asked for by an option.
    """
    files = sum(_size(str(options[name])) for name in FILES if options.get(name))
    keeps = in_memory and engine in _KEEPING and options.get("task", "generate") in {"", "generate"}
    return int(files * OVERHEAD) + (_kept(options) if keeps else 0)


def _cache_type(options: Options) -> CacheType:
    """Return the element type of the context's memory, half precision where it is none of ours."""
    said = str(options.get("kv_type", ""))
    if said.startswith(CacheType.FP8):
        return CacheType.FP8
    return CacheType(said) if said in set(CacheType) else CacheType.F16


def _kept(options: Options) -> int:
    return (_count(options.get("prompt_cache_mib", PROMPT_CACHE_MIB), PROMPT_CACHE_MIB)) * MIB


def _count(value: str | float, instead: int = 0) -> int:
    try:
        return max(0, int(value))
    except ValueError:
        # The worker says what is wrong with it.
        return instead


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
