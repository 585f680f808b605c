"""GGUF files of an encoder (BERT) with weights by chance: small enough to be made in a test, read by real engines.

Its vectors mean nothing, but the same text has the same one and other texts have others; so have its ranks.
"""

from pathlib import Path
from typing import Any

import gguf

from tests.gguf_files import write

WORDS = ("bees", "make", "honey", "from", "nectar", "the", "stock", "market", "fell", "on", "monday", "who")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CONTROL, _NORMAL = 3, 1
WIDTH, _INNER, _LAYERS, _HEADS, CONTEXT = 32, 64, 2, 4, 128


def encoder_model(path: Path, *, ranks: bool = False) -> Path:
    """Write the model to `path`: one of embeddings, or one that ranks texts."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(_INNER)
    writer.add_block_count(_LAYERS)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK if ranks else gguf.PoolingType.MEAN)
    _add_words(writer)
    write(writer, _shapes(ranks=ranks), seed=7, ones=lambda name: "norm.weight" in name)
    return path


def _tokens() -> list[str]:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    # llama.cpp marks what begins a word, where the published vocabularies mark what does not.
    return [*_SPECIAL, *(f"\u2581{word}" for word in (*WORDS, *letters)), *letters]


def _add_words(writer: gguf.GGUFWriter) -> None:
    tokens = _tokens()
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if token in _SPECIAL else _NORMAL for token in tokens])
    writer.add_token_type_count(2)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_sep_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_mask_token_id(4)


def _shapes(*, ranks: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, Any] = {
        "token_embd.weight": (len(_tokens()), WIDTH),
        "token_types.weight": (2, WIDTH),
        "position_embd.weight": (CONTEXT, WIDTH),
        **_with_bias("token_embd_norm", (WIDTH,)),
    }
    for layer in range(_LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes |= _with_bias(f"blk.{layer}.{part}", (WIDTH, WIDTH))
        for part in ("attn_output_norm", "layer_output_norm"):
            shapes |= _with_bias(f"blk.{layer}.{part}", (WIDTH,))
        shapes |= _with_bias(f"blk.{layer}.ffn_up", (_INNER, WIDTH)) | _with_bias(
            f"blk.{layer}.ffn_down", (WIDTH, _INNER)
        )
    if ranks:
        shapes |= _with_bias("cls", (WIDTH, WIDTH)) | _with_bias("cls.output", (1, WIDTH))
    return shapes


def _with_bias(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
