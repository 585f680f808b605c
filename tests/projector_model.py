"""A GGUF file that turns pictures into what the lab's model reads (as LLaVA's does), with weights by chance.

What the model says of a picture means nothing, but other pictures have other answers.
"""

from pathlib import Path

import gguf

from tests.gguf_files import write

_SIDE, _PATCH = 32, 16
_WIDTH, _INNER, _LAYERS, _HEADS = 64, 128, 2, 4
TOKENS = (_SIDE // _PATCH) ** 2
"""That one picture takes of the context."""


def projector_model(path: Path, *, width: int) -> Path:
    """Write the projector for a model whose tokens are vectors of `width` values."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_array("clip.vision.image_mean", [0.5] * 3)
    writer.add_array("clip.vision.image_std", [0.5] * 3)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    sizes = {
        "embedding_length": _WIDTH,
        "feed_forward_length": _INNER,
        "block_count": _LAYERS,
        "attention.head_count": _HEADS,
        "projection_dim": width,
        "image_size": _SIDE,
        "patch_size": _PATCH,
    }
    for key, size in sizes.items():
        writer.add_uint32(f"clip.vision.{key}", size)
    write(writer, _shapes(width), seed=11, ones=lambda name: "ln" in name and name.endswith("weight"))
    return path


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (_WIDTH, 3, _PATCH, _PATCH),
        "v.position_embd.weight": (TOKENS, _WIDTH),
    }
    for layer in range(_LAYERS):
        block = f"v.blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            shapes |= _with_bias(f"{block}.{part}", _WIDTH, _WIDTH)
        for part in ("ln1", "ln2"):
            shapes |= {f"{block}.{part}.weight": (_WIDTH,), f"{block}.{part}.bias": (_WIDTH,)}
        shapes |= _with_bias(f"{block}.ffn_up", _INNER, _WIDTH) | _with_bias(f"{block}.ffn_down", _WIDTH, _INNER)
    return shapes | _with_bias("mm.0", width, _WIDTH) | _with_bias("mm.2", width, width)


def _with_bias(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
