"""Whether and how hard a model shall think before it answers, as clients of each API say it."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from rbee_runtime.worker.engines.thoughts import THINKS
from rbee_runtime.worker.surface.generation import invalid

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""OpenAI's `reasoning_effort`."""

Option = str | bool | int | float
TemplateOptions = Annotated[
    dict[Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,63}$")], Option], msgspec.Meta(max_length=16)
]
"""`chat_template_kwargs` as vLLM and llama.cpp's server have it: what the model's chat template is told by name."""

_OURS = frozenset(
    {
        *("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"),
        # Arguments of the function by which servers render, beside what the template is told.
        *("conversation", "chat_template", "tokenize", "tokenizer", "continue_final_message", "padding", "truncation"),
        *("max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    }
)


def template_of(effort: Effort | None, given: Mapping[str, Option] | None = None) -> tuple[tuple[str, Option], ...]:
    """Return what the template is told; RequestError for what is not a client's to say."""
    taken = sorted(_OURS & (given or {}).keys())
    if taken:
        raise invalid(f"chat_template_kwargs.{taken[0]}: this comes from the request itself", "chat_template_kwargs")
    told: dict[str, Option] = {}
    if effort is not None:
        # Templates that know efforts take no notice of the other name, and the other way round.
        told = {THINKS: True, "reasoning_effort": effort} if effort != "none" else {THINKS: False}
    return tuple((told | dict(given or {})).items())
