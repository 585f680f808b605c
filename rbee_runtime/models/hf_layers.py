"""What each layer of a safetensors model remembers, from its `config.json`; the counterpart of gguf_layers.py."""

from rbee_runtime.models.hf_config import HfConfig

WINDOW_PERIODS = {"gemma2": 2, "gemma3_text": 6, "gemma3": 6, "cohere2": 4}
"""Every so manieth layer attends to everything; for files from before they told the kind of each layer."""

WINDOWED_ALL = frozenset({"mistral", "mixtral", "phi3", "starcoder2"})
"""Here a window that is set holds in every layer. Of others without kinds none is assumed."""

_WINDOWED = frozenset({"sliding_attention", "chunked_attention"})
_ATTENDING = frozenset({"full_attention", "attention", "*", "hybrid"}) | _WINDOWED
_FORWARD_ONLY = frozenset({"-", "mlp", "moe", "E"})


def attending(config: HfConfig) -> tuple[bool, ...]:
    """Return which layers have attention."""
    kinds = config.kinds()
    if kinds:
        return tuple(kind in _ATTENDING for kind in kinds)
    interval, period = config.whole("full_attention_interval"), config.whole("attn_layer_period")
    if interval:
        return tuple((layer + 1) % interval == 0 for layer in range(config.layers))
    if period:
        return tuple(layer % period == config.whole("attn_layer_offset") for layer in range(config.layers))
    if config.has("attn_layer_indices"):
        return _at_indices(config)
    return (config.has("num_attention_heads", "n_head", "n_heads"),) * config.layers


def _at_indices(config: HfConfig) -> tuple[bool, ...]:
    indices = set(config.counts("attn_layer_indices"))
    return tuple(layer in indices for layer in range(config.layers))


def windows(config: HfConfig) -> tuple[int, ...]:
    """Return how many tokens each layer looks back (0: all of them)."""
    window = config.whole("sliding_window", "attention_chunk_size")
    if not window or not config.truth("use_sliding_window", default=True):
        return (0,) * config.layers
    return tuple(window if within else 0 for within in _windowed(config))


def _windowed(config: HfConfig) -> tuple[bool, ...]:
    kinds = config.kinds()
    if kinds:
        return tuple(kind in _WINDOWED for kind in kinds)
    if config.model_type in WINDOWED_ALL:
        return (True,) * config.layers
    period = config.whole("sliding_window_pattern", default=WINDOW_PERIODS.get(config.model_type, 1))
    return tuple(period > 0 and (layer + 1) % period != 0 for layer in range(config.layers))


def state_values(config: HfConfig, hidden: int) -> int:
    """Return how many values all recurrent layers together keep for one sequence."""
    layer = _linear(config) or _convolution(config, hidden) or _state_space(config, hidden)
    kinds = config.kinds()
    # In a layer that is both, attention and state are both kept.
    both = kinds.count("hybrid") or (config.layers if config.model_type == "falcon_h1" else 0)
    idle = sum(1 for kind in kinds if kind in _FORWARD_ONLY)
    return layer * (both or config.layers - sum(attending(config)) - idle)


def _linear(config: HfConfig) -> int:
    keys, values = config.whole("linear_num_key_heads"), config.whole("linear_num_value_heads")
    key_width, value_width = config.whole("linear_key_head_dim"), config.whole("linear_value_head_dim")
    shifted = max(0, config.whole("linear_conv_kernel_dim") - 1)
    return shifted * (2 * keys * key_width + values * value_width) + values * key_width * value_width


def _convolution(config: HfConfig, hidden: int) -> int:
    return hidden * max(0, config.whole("conv_L_cache") - 1)


def _state_space(config: HfConfig, hidden: int) -> int:
    state = config.whole("mamba_d_state", "ssm_state_size", "state_size")
    inner = config.whole("mamba_d_ssm", "intermediate_size_ssm") or _inner(config, hidden)
    shifted = max(0, config.whole("mamba_d_conv", "conv_kernel", "d_conv") - 1)
    return shifted * (inner + 2 * config.whole("mamba_n_groups", "n_groups") * state) + inner * state


def _inner(config: HfConfig, hidden: int) -> int:
    heads = config.whole("mamba_n_heads", "mamba_num_heads")
    width = config.whole("mamba_d_head", "mamba_head_dim")
    return heads * width or config.whole("mamba_expand", "expand", default=2) * hidden
