"""The chat template: Jinja out of the model file, that is, a program by a stranger, run in Jinja's sandbox.

Its time and memory are bounded by the process that it runs in (preparing.py).

Jinja comes with the engine artefact, hence the late import.
"""

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rbee_runtime.errors import EngineLoadError, RequestError

MAX_SOURCE = 1 << 20
MAX_PROMPT = 16 << 20
"""Characters; the request body is at most 10 MiB, so that only a template that multiplies it gets here."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""For models that bring no template; llama.cpp falls back to the same form."""

Render = Callable[..., str]
"""From messages, tools and what else the template is told by name, to a prompt."""


class _RefusedError(Exception):
    """A template called `raise_exception`."""


def compile_template(source: str, *, bos: str, eos: str) -> Render:
    """Return a function from messages to prompt text; EngineLoadError if `source` is no template."""
    from jinja2 import TemplateError  # noqa: PLC0415 - in the engine artefact
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415 - in the engine artefact

    if len(source) > MAX_SOURCE:
        raise EngineLoadError(f"the model's chat template has {len(source)} characters, at most {MAX_SOURCE} are run")
    # Block trimming and loop controls are what the templates of published models are written for.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_refuse, strftime_now=_now, bos_token=bos, eos_token=eos)
    try:
        template = environment.from_string(source)
    except (TemplateError, RecursionError) as error:
        raise EngineLoadError(f"the model's chat template is damaged: {_line(error)}") from error

    def render(
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        besides: Mapping[str, Any] | None = None,
    ) -> str:
        given = {"messages": messages, "add_generation_prompt": True, "tools": tools, "documents": None}
        try:
            text = template.render({**(besides or {}), **given})
        except MemoryError:
            raise
        except Exception as error:  # a stranger's program may raise anything
            reason = _line(error)
            raise RequestError(
                400, f"the model's chat template refused the messages: {reason}", param="messages"
            ) from error
        if len(text) > MAX_PROMPT:
            raise RequestError(400, f"the prompt has {len(text)} characters, at most {MAX_PROMPT} are taken")
        return text

    return render


def _refuse(message: str) -> None:
    raise _RefusedError(message)


def _now(form: str) -> str:
    return dt.datetime.now(tz=dt.UTC).strftime(form)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
