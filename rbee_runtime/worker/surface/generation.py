"""The fields that every request for text may have, with bounds, and what the engine is asked for by them.

Unknown fields are ignored. A known field that would change the answer but is not served is refused, so that nobody
gets prose where they asked for a schema.
"""

import re
from typing import Annotated, Any, TypeVar

import msgspec

from rbee_runtime.errors import RequestError
from rbee_runtime.worker.engines import Generation, Sampling

MAX_N = 8
"""vLLM had a denial of service by a large `n`; OpenAI's own limit is 128."""

MAX_NESTING, MAX_GROWN = 64, 1_000_000
"""Of a client's grammar: groups within groups, and the largest repetition times its characters."""

_LITERALS = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]')
_BRACES = re.compile(r"\{[^}]*\}")
_NUMBERS = re.compile(r"\d{1,9}")

MAX_LOGPROBS = 20
"""OpenAI's own limit."""

_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
_Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
_Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
_Repeat = Annotated[float, msgspec.Meta(gt=0, le=10)]


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`."""

    include_usage: bool | None = None


class GenerationBody(msgspec.Struct, frozen=True, kw_only=True):
    """What chat and completions have in common; None means the field was null or absent.

    `top_k`, `min_p`, `repeat_penalty` and `grammar` are not OpenAI's but those of llama.cpp's server, and
    `repetition_penalty` is vLLM's word for the third.
    """

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Count | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1, le=1_000_000)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_N)] | None = None
    stop: _Stop | Annotated[list[_Stop], msgspec.Meta(max_length=4)] | None = None
    seed: _Seed | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    repeat_penalty: _Repeat | None = None
    repetition_penalty: _Repeat | None = None
    logit_bias: Annotated[dict[str, _Bias], msgspec.Meta(max_length=1024)] | None = None
    grammar: Annotated[str, msgspec.Meta(max_length=65536)] | None = None


B = TypeVar("B", bound=GenerationBody)
T = TypeVar("T")


def decoded(raw: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """Return what is in a body or raise RequestError (400) naming the field."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        param = where.rstrip("`").lstrip(".") or None
        raise invalid(f"{param}: {message}" if param else message, param) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"the request body is not JSON: {error}", None) from error


def decode(raw: bytes, decoder: "msgspec.json.Decoder[B]") -> B:
    """Return the request for text in a body or raise RequestError (400) naming the field."""
    body = decoded(raw, decoder)
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options: only allowed when stream is true", "stream_options")
    return body


def generation_of(body: GenerationBody, *, max_tokens: int | None, logprobs: int | None) -> Generation:
    """Return what the engine is asked for."""
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Generation(
        max_tokens=max_tokens, stop=stop, sampling=_sampling(body), choices=body.n or 1, logprobs=logprobs
    )


def _sampling(body: GenerationBody) -> Sampling:
    repeat = body.repeat_penalty if body.repeat_penalty is not None else body.repetition_penalty
    return Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        # -1 is vLLM's word for all.
        top_k=0 if body.top_k == -1 else body.top_k,
        min_p=body.min_p,
        repeat_penalty=1.0 if repeat is None else repeat,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        seed=body.seed,
        logit_bias=_biases(body.logit_bias or {}),
        grammar=_harmless(body.grammar or ""),
    )


def _biases(biases: dict[str, float]) -> tuple[tuple[int, float], ...]:
    try:
        found = tuple((int(token), bias) for token, bias in biases.items())
    except ValueError:
        found = ((-1, 0.0),)
    if not all(0 <= token < 2**31 for token, _ in found):
        raise invalid("logit_bias: its keys are token ids, as digits in quotes", "logit_bias")
    return found


def _harmless(grammar: str) -> str:
    """Return a grammar that can be parsed: llama.cpp's parser ends its process on too much nesting or repetition."""
    bare = _LITERALS.sub("", grammar)
    depth = deepest = 0
    for character in bare:
        depth += {"(": 1, ")": -1}.get(character, 0)
        deepest = max(deepest, depth)
    most = max((int(number) for braces in _BRACES.findall(bare) for number in _NUMBERS.findall(braces)), default=1)
    if deepest > MAX_NESTING or most * len(grammar) > MAX_GROWN:
        message = f"grammar: at most {MAX_NESTING} groups within groups, and repetitions times length {MAX_GROWN}"
        raise invalid(message, "grammar")
    return grammar


def invalid(message: str, param: str | None) -> RequestError:
    """Return the refusal of a field that is wrong."""
    return RequestError(400, message, param=param)


def unsupported(param: str, message: str) -> RequestError:
    """Return the refusal of a field that is right but not served."""
    return RequestError(400, f"{param}: {message}", code="unsupported_parameter", param=param)


def refuse_named(body: Any, names: tuple[tuple[str, str], ...]) -> None:
    """Raise RequestError (400) if one of these fields asks for what is not served."""
    for name, what in names:
        if getattr(body, name):
            raise unsupported(name, f"this engine does not support {what}")
