"""Builds GGUF files byte by byte, good and bad ones."""

import struct
from collections.abc import Sequence

UINT8, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 0, 4, 5, 6, 7, 8, 9, 10
CODES = {UINT8: "B", UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "B", UINT64: "Q"}


def text(value: str | bytes, *, length: int | None = None) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def payload(kind: int, value: object) -> bytes:
    if kind == STRING:
        return text(value)  # type: ignore[arg-type]
    return value if isinstance(value, bytes) else struct.pack(f"<{CODES.get(kind, 'I')}", value)


def array(kind: int, values: Sequence[object], *, count: int | None = None) -> bytes:
    items = b"".join(payload(kind, value) for value in values)
    return struct.pack("<IQ", kind, len(values) if count is None else count) + items


def entry(key: str | bytes, kind: int, value: object) -> bytes:
    return text(key) + struct.pack("<I", kind) + payload(kind, value)


def tensor(name: str | bytes, shape: Sequence[int] = (32,), *, kind: int = 0, offset: int = 0) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dims + struct.pack("<IQ", kind, offset)


ARCHITECTURE = entry("general.architecture", STRING, "llama")
LLAMA = (
    ARCHITECTURE,
    entry("llama.block_count", UINT32, 2),
    entry("llama.context_length", UINT32, 4096),
    entry("llama.embedding_length", UINT32, 64),
    entry("llama.attention.head_count", UINT32, 4),
    entry("llama.attention.head_count_kv", UINT32, 2),
    entry("tokenizer.ggml.tokens", ARRAY, array(STRING, ["a", "b", "<eos>"])),
    entry("tokenizer.chat_template", STRING, "{% for m in messages %}{{ m.content }}{% endfor %}"),
)
TENSOR = tensor("token_embd.weight")


def gguf(
    metadata: Sequence[bytes] = LLAMA,
    tensors: Sequence[bytes] = (TENSOR,),
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    data: int = 128,
    alignment: int = 32,
    order: str = "<",
) -> bytes:
    """Return a file whose parts are as given; `counts` are (tensors, metadata) in place of the true ones."""
    named = counts or (len(tensors), len(metadata))
    head = struct.pack(f"{order}4sIQQ", b"GGUF", version, *named) + b"".join(metadata) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + bytes(data)
