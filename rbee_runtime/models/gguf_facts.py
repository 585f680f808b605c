"""What a GGUF model is, from its checked header: the metadata of its first part, the tensors of all."""

from collections import Counter
from collections.abc import Sequence

from rbee_runtime.models.chat_template import check_templates
from rbee_runtime.models.facts import Format, ModelFacts
from rbee_runtime.models.gguf import GgufFile
from rbee_runtime.models.gguf_keys import Keys
from rbee_runtime.models.gguf_layers import cached_values, kv_heads, state_values, windows

TEMPLATE = "tokenizer.chat_template"

FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}
"""llama.cpp's names of mixtures, by general.file_type."""


def facts_of(parts: Sequence[GgufFile], projector_bytes: int = 0) -> ModelFacts:
    """Return the facts of the model whose parts these are, or raise ModelFormatError."""
    first = parts[0]
    keys = Keys(first)
    embedding, heads = keys.whole("embedding_length", 0), keys.whole("attention.head_count", 0)
    width = embedding // heads if heads else 0
    key_length, value_length = keys.whole("attention.key_length", width), keys.whole("attention.value_length", width)
    attending, used = kv_heads(keys), keys.whole("expert_used_count", 0)
    return ModelFacts(
        format=Format.GGUF,
        main=first.name,
        architecture=keys.architecture,
        parameters=sum(tensor.elements for part in parts for tensor in part.tensors),
        quantisation=_quantisation(keys, parts),
        weights_bytes=sum(part.tensor_bytes for part in parts),
        embedding_bytes=_bytes_of("token_embd.weight", parts),
        projector_bytes=projector_bytes,
        context_length=keys.whole("context_length", 0),
        layers=keys.layers,
        heads=heads,
        kv_heads=attending,
        key_length=key_length,
        value_length=value_length,
        cached=cached_values(keys, attending, key_length, value_length),
        latent=keys.has("attention.key_length_mla"),
        windows=windows(keys),
        state=state_values(keys, embedding, heads),
        embedding=embedding,
        feed_forward=max(keys.whole("feed_forward_length", 0), keys.whole("expert_feed_forward_length", 0) * used),
        vocabulary=keys.length("tokenizer.ggml.tokens") or keys.whole("vocab_size", 0),
        experts=keys.whole("expert_count", 0),
        experts_used=used,
        chat_template=_template(first, keys),
        embeds=keys.whole("pooling_type", 0) > 0 or keys.says_no("attention.causal"),
        causal=not keys.says_no("attention.causal"),
    )


def _quantisation(keys: Keys, parts: Sequence[GgufFile]) -> str:
    """Return the mixture that the file names, else the type that most of its bytes have."""
    named = keys.general("general.file_type")
    if isinstance(named, int) and named in FILE_TYPES:
        return FILE_TYPES[named]
    sizes: Counter[str] = Counter()
    for part in parts:
        for tensor in part.tensors:
            sizes[tensor.kind.name] += tensor.size
    return sizes.most_common(1)[0][0] if sizes else ""


def _bytes_of(name: str, parts: Sequence[GgufFile]) -> int:
    return sum(tensor.size for part in parts for tensor in part.tensors if tensor.name == name)


def _template(file: GgufFile, keys: Keys) -> str | None:
    """Return the default template; those with names keep to the bounds as well."""
    named = [value for key, value in file.metadata.items() if key.startswith(TEMPLATE) and isinstance(value, str)]
    check_templates(named, file.name)
    default = keys.general(TEMPLATE)
    if default is not None and not isinstance(default, str):
        raise keys.bad("is damaged: its chat template is no text")
    return default
