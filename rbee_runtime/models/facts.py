"""What is known of a model from its files alone, whatever their format."""

from dataclasses import dataclass
from enum import StrEnum

MAX_LAYERS = 1024
MAX_WIDTH = 1 << 31
"""Bounds of every count that a file may claim; published models stay below 200 layers and 2^20 columns."""


class Format(StrEnum):
    """How weights are stored."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    PICKLE = "pickle"


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One model: counts, and bytes where the name says so; 0 or () where the files do not say.

    `main` is the file to name to an engine. Per layer: `kv_heads` (0: no attention there), `cached` (values that the
    cache holds per token) and `windows` (tokens that attention looks back, 0: all). `state` is the values that
    recurrent layers keep per sequence, `latent` says that the cache is of latent attention. `weights_bytes` are all
    tensors, `embedding_bytes` those of the token embedding alone, `projector_bytes` those of an image or audio
    projector beside the model. `feed_forward` is the widest that a token passes, over all experts that it uses.
    `embeds` says that the model is made for vectors or ranks of texts, `causal` that a token sees none after it.
    """

    format: Format
    main: str
    architecture: str
    parameters: int
    quantisation: str
    weights_bytes: int
    embedding_bytes: int = 0
    projector_bytes: int = 0
    context_length: int = 0
    layers: int = 0
    heads: int = 0
    kv_heads: tuple[int, ...] = ()
    key_length: int = 0
    value_length: int = 0
    cached: tuple[int, ...] = ()
    latent: bool = False
    windows: tuple[int, ...] = ()
    state: int = 0
    embedding: int = 0
    feed_forward: int = 0
    vocabulary: int = 0
    experts: int = 0
    experts_used: int = 0
    chat_template: str | None = None
    embeds: bool = False
    causal: bool = True
