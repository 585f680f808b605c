"""The lab's GGUF model again as a folder of safetensors, for engines that read no GGUF: the same weights and tokens."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize

from rbee_deploy.artefacts import cache_root, cached_dir
from rbee_deploy.model_files import lab_model

FORMAT = "1"
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
_CONTROL = 3
"""llama.cpp's type of tokens that are no text."""


def safetensors_model() -> Path:
    """Return the folder, made once (seconds, 270 MB)."""
    source = lab_model()
    return cached_dir(
        cache_root() / "models" / f"{source.stem}-safetensors-{FORMAT}", lambda draft: convert(source, draft)
    )


def convert(source: Path, folder: Path) -> None:
    """Write the model of a Llama-shaped GGUF file with a GPT-2 tokenizer into a folder, weights in bfloat16."""
    reader = gguf.GGUFReader(source)
    about = {name: field.contents() for name, field in reader.fields.items()}
    _write(folder / "config.json", _config(about))
    _write(folder / "tokenizer.json", _tokenizer(about))
    _write(folder / "tokenizer_config.json", _tokenizer_config(about))
    _save(folder / "model.safetensors", {_name(each.name): _weights(each, about) for each in reader.tensors})


def _config(about: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": about["llama.embedding_length"],
        "intermediate_size": about["llama.feed_forward_length"],
        "num_hidden_layers": about["llama.block_count"],
        "num_attention_heads": about["llama.attention.head_count"],
        "num_key_value_heads": about["llama.attention.head_count_kv"],
        "max_position_embeddings": about["llama.context_length"],
        "rms_norm_eps": about["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": about["llama.rope.freq_base"],
        "vocab_size": about["llama.vocab_size"],
        "bos_token_id": about["tokenizer.ggml.bos_token_id"],
        "eos_token_id": about["tokenizer.ggml.eos_token_id"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }


def _tokenizer(about: dict[str, Any]) -> dict[str, Any]:
    tokens, kinds = about["tokenizer.ggml.tokens"], about["tokenizer.ggml.token_type"]
    plain = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    shown = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": index, "content": token, **shown}
            for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind == _CONTROL
        ],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", **plain}],
        },
        "decoder": {"type": "ByteLevel", **plain},
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": about["tokenizer.ggml.merges"],
        },
    }


def _tokenizer_config(about: dict[str, Any]) -> dict[str, Any]:
    tokens = about["tokenizer.ggml.tokens"]
    ends = {name: tokens[about[f"tokenizer.ggml.{name}_token_id"]] for name in ("bos", "eos")}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": about["llama.context_length"],
        "chat_template": about["tokenizer.chat_template"],
        **{f"{name}_token": token for name, token in ends.items()},
    }


def _name(tensor: str) -> str:
    stem = tensor.removesuffix(".weight")
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.weight"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{_PARTS[part]}.weight"


def _weights(tensor: gguf.ReaderTensor, about: dict[str, Any]) -> Any:
    values = dequantize(tensor.data, tensor.tensor_type)
    part = tensor.name.split(".")[-2]
    if part == "attn_q":
        return _rotated(values, about["llama.attention.head_count"])
    return _rotated(values, about["llama.attention.head_count_kv"]) if part == "attn_k" else values


def _rotated(values: np.ndarray, heads: int) -> np.ndarray:
    """Return the rows as the other format has them: its two halves of a head are llama.cpp's even and odd rows."""
    return values.reshape(heads, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def _save(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write a safetensors file: the length of a header, the header in JSON, then the tensors one after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, values in tensors.items():
        header[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [at, at + 2 * values.size]}
        at += 2 * values.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(_bfloat16(values).tobytes())


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """Return the upper half of each float32, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded: np.ndarray = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return rounded


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
