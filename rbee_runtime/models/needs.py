"""What a worker's options change in the memory that its model needs."""

from collections.abc import Mapping
from pathlib import Path

from rbee_runtime.models.estimate import MIB, CacheType

PROMPT_CACHE_MIB = 256
"""Of main memory for conversations that nobody continues now, unless an option says otherwise: two thousand tokens of
a model of 8 billion parameters."""

FILES = ("lora", "draft", "projector")
"""Options that name a file which the engine loads beside the model."""

OVERHEAD = 1.1
"""Of a file of which only the size is known: a tenth for its context and buffers."""

_KEEPING = frozenset({"llama-cpp", "llama-server"})

Options = Mapping[str, str | int | float | bool]


def cache_type(options: Options) -> CacheType:
    """Return the element type of the context's memory that a worker is told to have, half precision if none of ours."""
    said = str(options.get("kv_type", ""))
    if said.startswith(CacheType.FP8):
        return CacheType.FP8
    return CacheType(said) if said in set(CacheType) else CacheType.F16


def beside(options: Options, *, engine: str, in_memory: bool) -> int:
    """Return the bytes that a worker takes beside its model: files by options, and what it keeps in main memory.

    `in_memory` says that the model is in main memory as well, where both count together. Files that are not on this
    machine are taken for nothing.
    """
    files = sum(_size(str(options[name])) for name in FILES if options.get(name))
    kept = _kept(options) if in_memory and engine in _KEEPING else 0
    return int(files * OVERHEAD) + kept


def _kept(options: Options) -> int:
    try:
        return int(options.get("prompt_cache_mib", PROMPT_CACHE_MIB)) * MIB
    except ValueError:
        # The worker says what is wrong with it.
        return PROMPT_CACHE_MIB * MIB


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
