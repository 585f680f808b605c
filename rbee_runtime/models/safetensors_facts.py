"""What a model of safetensors weights is: sizes from the weights' headers, the rest from the files beside them."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rbee_runtime.errors import ModelFormatError
from rbee_runtime.models import safetensors
from rbee_runtime.models.facts import Format, ModelFacts
from rbee_runtime.models.hf_config import HfConfig, read_config, template_file, template_of_tokenizer
from rbee_runtime.models.hf_layers import attending, state_values, windows
from rbee_runtime.models.safetensors import SafetensorsFile, Tensor
from rbee_runtime.models.safetensors_index import SUFFIX, check_numbers, check_present, read_index

PACKED = (".qweight", ".weight_packed", "_blocks")
"""Ends of tensors that hold several quantised parameters per element."""

NOT_PARAMETERS = (".qzeros", ".g_idx", "_scales", ".scales", ".weight_scale", ".weight_scale_inv", ".absmax")
"""Ends of tensors that belong to a quantisation, not to the model."""

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "tok_embeddings.weight")


def facts_of(files: Mapping[str, Path]) -> ModelFacts:
    """Return the facts of the model in one folder, whose files these are by name, or raise ModelFormatError."""
    config = _config(files)
    tally = _Tally(_bits(config))
    index = next((name for name in sorted(files, key=len) if name.endswith(SUFFIX)), None)
    if index is None:
        for name in _unindexed(files):
            tally.add(safetensors.read(files[name], name))
    else:
        _add_indexed(tally, files, index)
    return config_facts(config, files, Format.SAFETENSORS, tally)


def _unindexed(files: Mapping[str, Path]) -> list[str]:
    weights = sorted(name for name in files if name.endswith(".safetensors"))
    # Some repositories carry a second copy of the weights in the form of their makers.
    chosen = [name for name in weights if not name.startswith("consolidated")] or weights
    check_numbers(chosen)
    return chosen


def _add_indexed(tally: "_Tally", files: Mapping[str, Path], index: str) -> None:
    places = read_index(files[index], index)
    check_present(places, files, index)
    found = 0
    for shard in sorted(set(places.values())):
        file = safetensors.read(files[shard], shard)
        found += sum(1 for tensor in file.tensors if places.get(tensor.name) == shard)
        tally.add(file)
    if found < len(places):
        raise ModelFormatError(
            f"{index} is damaged: {len(places) - found} of its {len(places)} tensors are not in the files that it "
            "says; fetch it again"
        )


class _Tally:
    """Sums over the tensors of all files, which are many more than need to be remembered."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self.main = ""
        self.parameters = 0
        self.embedding_bytes = 0
        self.types: Counter[str] = Counter()

    @property
    def bytes(self) -> int:
        return sum(self.types.values())

    def add(self, file: SafetensorsFile) -> None:
        self.main = self.main or file.name
        for tensor in file.tensors:
            self.types[tensor.dtype] += tensor.size
            self.parameters += self._parameters(tensor)
            if tensor.name.endswith(_EMBEDDINGS):
                self.embedding_bytes += tensor.size

    def add_bytes(self, name: str, size: int, dtype: str) -> None:
        self.main = self.main or name
        self.types[dtype] += size
        self.parameters += size * 8 // safetensors.BITS[dtype]

    def _parameters(self, tensor: Tensor) -> int:
        if tensor.name.endswith(NOT_PARAMETERS):
            return 0
        packed = self._bits and (tensor.name.endswith(PACKED) or tensor.dtype in {"U8", "I32"})
        return tensor.size * 8 // self._bits if packed else tensor.elements


def pickle_facts(files: Mapping[str, Path], weights: Mapping[str, Path]) -> ModelFacts:
    """Return the facts of a model whose `weights` are pickles: nothing is read of them but their sizes."""
    config = _config(files)
    dtype = {"float32": "F32", "float16": "F16"}.get(config.text("dtype", "torch_dtype"), "BF16")
    tally = _Tally(_bits(config))
    for name, path in sorted(weights.items()):
        tally.add_bytes(name, path.stat().st_size, dtype)
    return config_facts(config, files, Format.PICKLE, tally)


def config_facts(config: HfConfig, files: Mapping[str, Path], kind: Format, tally: _Tally) -> ModelFacts:
    """Return what the configuration says, with the sizes of the weights."""
    hidden = config.whole("hidden_size", "n_embd", "d_model")
    heads = config.whole("num_attention_heads", "n_head", "n_heads")
    width = config.whole("head_dim", default=hidden // heads if heads else 0)
    value_width = config.whole("v_head_dim", default=width)
    used = config.whole("num_experts_per_tok", "experts_per_token", "top_k_experts")
    kv_heads = _kv_heads(config, heads)
    latent = config.whole("kv_lora_rank") + config.whole("qk_rope_head_dim") if config.has("kv_lora_rank") else 0
    return ModelFacts(
        format=kind,
        main=tally.main,
        architecture=config.architecture,
        parameters=tally.parameters,
        quantisation=_quantisation(config, tally),
        weights_bytes=tally.bytes,
        embedding_bytes=tally.embedding_bytes,
        context_length=config.whole("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"),
        layers=config.layers,
        heads=heads,
        kv_heads=kv_heads,
        key_length=width,
        value_length=value_width,
        cached=tuple((latent or count * (width + value_width)) if count else 0 for count in kv_heads),
        latent=bool(latent),
        windows=windows(config),
        state=state_values(config, hidden),
        embedding=hidden,
        feed_forward=max(config.whole("intermediate_size", "n_inner"), config.whole("moe_intermediate_size") * used),
        vocabulary=config.whole("vocab_size"),
        experts=config.whole("num_experts", "num_local_experts", "n_routed_experts"),
        experts_used=used,
        chat_template=_template(files),
    )


def _config(files: Mapping[str, Path]) -> HfConfig:
    if "config.json" not in files:
        raise ModelFormatError("the weights have no config.json beside them; engines need it: fetch it as well")
    return read_config(files["config.json"], "config.json")


def _kv_heads(config: HfConfig, heads: int) -> tuple[int, ...]:
    one = 1 if config.truth("multi_query", default=False) else heads
    counts = config.per_layer("num_key_value_heads", "num_kv_heads", "n_head_kv", default=one)
    own = config.layers - min(config.layers, config.whole("num_kv_shared_layers"))
    has = attending(config)
    return tuple(count if has[layer] and layer < own else 0 for layer, count in enumerate(counts))


def _bits(config: HfConfig) -> int:
    """Return how many bits a quantised parameter takes where several share an element (0: none do)."""
    how = config.quantisation()
    bits = how.get("bits", how.get("w_bit"))
    if isinstance(bits, int) and bits in {2, 3, 4, 8}:
        return bits
    method = str(how.get("quant_method", ""))
    return 4 if method == "mxfp4" or how.get("load_in_4bit") is True or "pack" in str(how.get("format", "")) else 0


def _quantisation(config: HfConfig, tally: _Tally) -> str:
    """Return the method with its bits, else the type that most bytes have."""
    method = config.quantisation().get("quant_method")
    if isinstance(method, str) and method.isprintable() and 0 < len(method) <= 40:
        bits = _bits(config)
        return f"{method}-{bits}bit" if bits and method != "mxfp4" else method
    return tally.types.most_common(1)[0][0] if tally.types else ""


def _template(files: Mapping[str, Path]) -> str | None:
    """Return the chat template; a file of its own wins, as it does in the engines."""
    if "chat_template.jinja" in files:
        return template_file(files["chat_template.jinja"], "chat_template.jinja")
    beside = "tokenizer_config.json"
    return template_of_tokenizer(files[beside], beside) if beside in files else None
