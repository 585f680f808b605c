"""What engines may be told: read by a worker, and before that by whoever takes a model's options from a person.

No engine is imported for it.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal, TypeVar

import msgspec

from rbee_runtime.errors import ConfigError
from rbee_runtime.models.needs import PROMPT_CACHE_MIB
from rbee_runtime.models.references import Scheme, parse_source
from rbee_runtime.testing.fake_script import parse_options, read_script
from rbee_runtime.worker.engines.mistakes import first_mistake

Options = Mapping[str, str | int | float | bool]


LLAMA_SLOTS = 256
"""LLAMA_MAX_SEQ: sequences that llama.cpp is compiled for."""

_LARGEST_SHARE = 1e6

S = TypeVar("S", bound=msgspec.Struct)
L = TypeVar("L", bound="_OfLlama")


class FlashAttention(StrEnum):
    """Whether attention is computed without its large matrix; `auto` does so where the hardware can."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class _OfLlama(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What both engines of llama.cpp may be told; see LlamaOptions."""

    gpu_layers: Annotated[int, msgspec.Meta(ge=0)] | None = None
    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    flash_attention: FlashAttention = FlashAttention.AUTO
    kv_type: Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"] = "f16"
    prompt_cache_mib: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = PROMPT_CACHE_MIB
    tensor_split: Annotated[str, msgspec.Meta(max_length=200)] = ""
    pooling: Literal["", "mean", "cls", "last"] = ""

    def shares(self) -> tuple[float, ...]:
        """Return the shares of the devices; ValueError if they are not numbers."""
        return tuple(float(share) for share in self.tensor_split.split(",")) if self.tensor_split else ()

    def mistake(self) -> str:
        """Return what is wrong with the options together, or ""."""
        try:
            shares = self.shares()
            good = all(0 <= share <= _LARGEST_SHARE for share in shares) and (not shares or sum(shares) > 0)
        except ValueError:
            good = False
        if not good:
            return f"tensor_split is {self.tensor_split!r}: write the devices' shares like 3,1"
        if self.kv_type.startswith("q") and self.flash_attention is FlashAttention.OFF:
            return f"kv_type {self.kv_type} needs flash attention; leave flash_attention out, or set kv_type to f16"
        return ""


class LlamaOptions(_OfLlama, frozen=True, forbid_unknown_fields=True):
    """Options of a llama-cpp worker.

    `gpu_layers` is layers on the GPU (None: all if it has one), `threads` 0 is one per CPU allowed, `batch` tokens of a
    step at most, `kv_type` the element type of the context's memory (a quantised one needs flash attention),
    `prompt_cache_mib` MiB of main memory for the beginnings of prompts that nobody uses now,
    `tensor_split` shares of the devices as numbers with commas between them ("": by their free memory), `task` what it
    serves ("": vectors if the file is of a model for them, else text), `pooling` how the vector of a text is made of
    those of its tokens ("": as the file says, else their mean).
    """

    batch: Annotated[int, msgspec.Meta(ge=32, le=16384)] = 512
    task: Literal["", "generate", "embed"] = ""


class Task(StrEnum):
    """What a server is started for: it can do one of these."""

    GENERATE = "generate"
    EMBED = "embed"
    RERANK = "rerank"


_Path = Annotated[
    str, msgspec.Meta(pattern=r"^(/[^\x00-\x1f]*)?\Z", max_length=4096, description="the absolute path of a file")
]


_PathOrNone = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(none|/[^\x00-\x1f]*)?\Z", max_length=4096, description="the absolute path of a file, or none"
    ),
]


class LlamaServerOptions(_OfLlama, frozen=True, forbid_unknown_fields=True):
    """Options of a llama-server worker; those that a llama-cpp worker has too mean the same.

    `lora` is an adapter, `draft` a small model of the same tokens that drafts answers and `projector` what makes
    pictures readable ("": the one that lies beside the model, `none`: nothing), all of them files on the worker's host;
    `batch` 0 is as the server has it, `task` what it serves.
    """

    batch: Annotated[int, msgspec.Meta(ge=0, le=16384)] = 0
    task: Task = Task.GENERATE
    lora: _Path = ""
    draft: _Path = ""
    projector: _PathOrNone = ""


_Parser = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^([a-z0-9][a-z0-9_]{0,39})?\Z",
        description="vLLM's name of one: small letters, digits and _",
    ),
]


class VllmOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a vLLM worker.

    `eager` records no graphs and compiles nothing (None: so on a CPU); `kv_type` is the element type of the context's
    memory; `tool_parser` and `reasoning_parser` vLLM's names of the model's ways to call tools and to think ("": by its
    chat template); `dtype` and `quantization` as vLLM has them; `task` what it serves.
    """

    eager: bool | None = None
    kv_type: Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2", "bfloat16", "float16"] = "auto"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    quantization: Annotated[str, msgspec.Meta(pattern=r"^([a-z0-9][a-z0-9_-]{0,39})?\Z")] = ""
    tool_parser: _Parser = ""
    reasoning_parser: _Parser = ""
    task: Task = Task.GENERATE


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a server that its engine's own file describes: none."""


def read_llama(options: Options, slots: int) -> LlamaOptions:
    """Return validated options, texts of numbers included, or raise ConfigError naming the wrong one."""
    return _read_of_llama("llama-cpp", LlamaOptions, options, slots)


def read_llama_server(options: Options, slots: int) -> LlamaServerOptions:
    """Return validated options of llama.cpp's server, likewise."""
    return _read_of_llama("llama-server", LlamaServerOptions, options, slots)


def _read_of_llama(engine: str, kind: type[L], options: Options, slots: int) -> L:
    if slots > LLAMA_SLOTS:
        raise ConfigError(f"slots is {slots}: engine {engine} has at most {LLAMA_SLOTS}")
    found = read(engine, kind, options)
    if wrong := found.mistake():
        raise ConfigError(f"an option of engine {engine} is wrong: {wrong}")
    return found


def read(engine: str, kind: type[S], options: Options) -> S:
    """Return an engine's options, texts of numbers included, or raise ConfigError naming the wrong one."""
    wrong = first_mistake(kind, options)
    if wrong:
        known = ", ".join(kind.__struct_fields__)
        raise ConfigError(f"an option of engine {engine} is wrong: {wrong}; known: {known or 'none'}")
    return msgspec.convert(options, kind, strict=False)


def check(engine: str, source: str, options: Options, *, slots: int = 1) -> None:
    """Raise ConfigError unless `engine` takes `options` and what a `fake:` source adds."""
    parsed = parse_source(source)
    if parsed.scheme is Scheme.FAKE:
        read_script({**options, **parse_options(parsed.rest)})
    elif engine == "llama-cpp":
        read_llama(options, slots)
    elif engine == "llama-server":
        read_llama_server(options, slots)
    else:
        read(engine, SERVED.get(engine, NoOptions), options)


SERVED: Mapping[str, type[msgspec.Struct]] = {"llama-server": LlamaServerOptions, "vllm": VllmOptions}
"""Options of the engines that are servers behind the front; any other has none."""
