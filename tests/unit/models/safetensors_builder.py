"""Builds safetensors files and the folders they come in, good and bad ones."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "vocab_size": 100,
    "torch_dtype": "bfloat16",
}


def described(dtype: str, shape: Sequence[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def safetensors(header: object, *, data: int = 0, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data)


def tensors(**shapes: Sequence[int]) -> bytes:
    """Return a file of float32 tensors one after the other."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        size = 4
        for count in shape:
            size *= count
        header[name] = described("F32", shape, at, at + size)
        at += size
    return safetensors(header, data=at)


def folder(root: Path, files: Mapping[str, bytes | object]) -> list[tuple[str, Path]]:
    """Write the files, JSON where they are no bytes, and return them as the store names them."""
    named = []
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        named.append((name, path))
    return named
