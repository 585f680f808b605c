"""What each layer of a GGUF model remembers: attention's cache, a window of it, or a state of fixed size.

The rules are those by which llama.cpp sizes its memory (llama-hparams.cpp and the loaders of the architectures).
"""

from collections.abc import Sequence

from rbee_runtime.models.gguf_keys import Keys

WINDOW_PERIODS = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gemma-embedding": 6,
    "cohere2": 4,
    "llama4": 4,
    "gpt-oss": 2,
    "exaone4": 4,
    "olmo2": 4,
    "afmoe": 4,
    "smallthinker": 4,
    "modern-bert": 3,
}
"""Every so manieth layer attends to everything, by architecture; files seldom say it. Others: no windows assumed."""

FULL_FIRST = frozenset({"smallthinker", "modern-bert"})
"""The layer without a window is the first of each period, not the last."""

LLAMA4_CHUNK = 8192
"""Tokens; not in the files."""

FULL_INTERVAL = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}
"""Every so manieth layer attends, the others are linear, unless the file says another number."""

WITHOUT_ATTENTION = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
BOTH_IN_EACH_LAYER = frozenset({"falcon-h1"})


def kv_heads(keys: Keys) -> tuple[int, ...]:
    """Return the heads of attention's cache in each layer; 0 where a layer keeps none of its own."""
    if keys.architecture in WITHOUT_ATTENTION:
        return (0,) * keys.layers
    heads = keys.per_layer("attention.head_count_kv", keys.whole("attention.head_count", 0))
    interval = _full_interval(keys)
    if interval:
        heads = tuple(count if (layer + 1) % interval == 0 else 0 for layer, count in enumerate(heads))
    # The last layers may read the cache of earlier ones, or predict further tokens, which is off by default.
    idle = keys.whole("attention.shared_kv_layers", 0) + keys.whole("nextn_predict_layers", 0)
    own = max(0, keys.layers - idle)
    return heads[:own] + (0,) * (keys.layers - own)


def cached_values(keys: Keys, heads: Sequence[int], key_length: int, value_length: int) -> tuple[int, ...]:
    """Return how many values each layer caches per token."""
    if keys.has("attention.key_length_mla"):
        latent = keys.whole("attention.kv_lora_rank") + keys.whole("rope.dimension_count")
        return tuple(latent if count else 0 for count in heads)
    wide = key_length + value_length
    narrow = keys.whole("attention.key_length_swa", key_length) + keys.whole("attention.value_length_swa", value_length)
    return tuple(count * (narrow if window else wide) for count, window in zip(heads, windows(keys), strict=True))


def windows(keys: Keys) -> tuple[int, ...]:
    """Return how many tokens each layer looks back (0: all of them)."""
    chunk = LLAMA4_CHUNK if keys.architecture == "llama4" else 0
    window = keys.whole("attention.sliding_window", chunk)
    if not window:
        return (0,) * keys.layers
    return tuple(window if within else 0 for within in _windowed(keys))


def _windowed(keys: Keys) -> tuple[bool, ...]:
    pattern = "attention.sliding_window_pattern"
    if keys.is_array(pattern):
        return tuple(map(bool, keys.per_layer(pattern, 0)))
    period = keys.whole(pattern, WINDOW_PERIODS.get(keys.architecture, 1))
    full = 0 if keys.architecture in FULL_FIRST else period - 1
    return tuple(period == 0 or layer % period != full for layer in range(keys.layers))


def state_values(keys: Keys, embedding: int, heads: int) -> int:
    """Return how many values all recurrent layers together keep for one sequence."""
    layer = _state_of_a_layer(keys, embedding, heads)
    return layer * _recurrent_layers(keys) if layer else 0


def _recurrent_layers(keys: Keys) -> int:
    if keys.architecture in WITHOUT_ATTENTION | BOTH_IN_EACH_LAYER:
        return keys.layers
    interval = _full_interval(keys)
    if interval:
        return keys.layers - keys.layers // interval
    attention = keys.per_layer("attention.head_count_kv", keys.whole("attention.head_count", 0))
    forward = keys.per_layer("feed_forward_length", 0)
    # Nemotron-H has layers that are neither: only a feed-forward network.
    only_forward = keys.architecture.startswith("nemotron_h")
    return sum(1 for heads, width in zip(attention, forward, strict=True) if not heads and not (only_forward and width))


def _full_interval(keys: Keys) -> int:
    return keys.whole("full_attention_interval", FULL_INTERVAL.get(keys.architecture, 0))


def _state_of_a_layer(keys: Keys, embedding: int, heads: int) -> int:
    if keys.has("wkv.head_size"):
        return embedding * (keys.whole("token_shift_count", 2) + keys.whole("wkv.head_size"))
    if keys.has("shortconv.l_cache"):
        return embedding * max(0, keys.whole("shortconv.l_cache") - 1)
    if keys.has("kda.head_dim"):
        width = heads * keys.whole("kda.head_dim")
        return width * (3 * _shifted(keys) + keys.whole("kda.head_dim"))
    inner, state = keys.whole("ssm.inner_size", 0), keys.whole("ssm.state_size", 0)
    return _shifted(keys) * (inner + 2 * keys.whole("ssm.group_count", 0) * state) + state * inner


def _shifted(keys: Keys) -> int:
    return max(0, keys.whole("ssm.conv_kernel", 0) - 1)
