"""What engines may be told: read by a worker, and before that by whoever takes a model's options from a person.

No engine is imported for it.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from rbee_runtime.errors import ConfigError
from rbee_runtime.models.references import Scheme, parse_source
from rbee_runtime.testing.fake_script import parse_options, read_script
from rbee_runtime.worker.engines.mistakes import first_mistake

Options = Mapping[str, str | int | float | bool]


class LlamaOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a worker spec: layers on the GPU (None: all if it has one), threads (0: one per CPU allowed)."""

    gpu_layers: Annotated[int, msgspec.Meta(ge=0)] | None = None
    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0


def read_llama(options: Options) -> LlamaOptions:
    """Return validated options, texts of numbers included, or raise ConfigError naming the wrong one."""
    wrong = first_mistake(LlamaOptions, options)
    if wrong:
        known = ", ".join(LlamaOptions.__struct_fields__)
        raise ConfigError(f"an option of engine llama-cpp is wrong: {wrong}; known: {known}")
    return msgspec.convert(options, LlamaOptions, strict=False)


def check(engine: str, source: str, options: Options) -> None:
    """Raise ConfigError unless `engine` takes `options` and what a `fake:` source adds; other engines check theirs."""
    parsed = parse_source(source)
    if parsed.scheme is Scheme.FAKE:
        read_script({**options, **parse_options(parsed.rest)})
    elif engine == "llama-cpp":
        read_llama(options)
