"""What the gateway reads of a request's body: which model, whether it streams, how long the answer may be."""

from typing import Any

import msgspec

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway import prompts
from rbee_runtime.protocol import decode

COMPLETION_TOKENS = 16
"""OpenAI's own limit of a completion whose request names none; a chat has none."""


class Body(msgspec.Struct, frozen=True):
    """A request body: the bytes as they came, and the fields that the gateway acts on; `limit` 0: none is set.

    `opening` is the beginning of its prompt, `floor` the tokens that this has for sure (0: not counted).
    """

    raw: bytes
    model: str
    stream: bool
    limit: int = 0
    opening: bytes = b""
    floor: int = 0


class _Fields(msgspec.Struct):
    model: Any = None
    stream: Any = False
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    max_tokens: Any = None
    system: msgspec.Raw = prompts.NOTHING
    instructions: msgspec.Raw = prompts.NOTHING
    messages: msgspec.Raw = prompts.NOTHING
    prompt: msgspec.Raw = prompts.NOTHING
    input: msgspec.Raw = prompts.NOTHING
    truncation: Any = None
    truncate_prompt_tokens: Any = None


_DECODER = msgspec.json.Decoder(_Fields)


def parse(raw: bytes, *, streams: bool = True) -> Body:
    """Return what the gateway needs of a body or raise RequestError 400 naming the field.

    Where nothing streams, a client that asks for it gets what the worker says to that.
    """
    try:
        fields = _DECODER.decode(raw)
    except msgspec.ValidationError:
        raise RequestError(400, "the request body must be a JSON object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, f"the request body is not JSON: {error}") from None
    if not isinstance(fields.model, str) or not fields.model:
        raise RequestError(400, "name a model: `model` must be a non-empty string", param="model")
    if fields.stream is not None and not isinstance(fields.stream, bool):
        raise RequestError(400, "`stream` must be true or false", param="stream")
    opening = prompts.opening(fields.system or fields.instructions, fields.messages or fields.prompt or fields.input)
    floor = _floor(fields) if len(raw) >= prompts.COUNTED_BYTES else 0
    return Body(raw, fields.model, bool(fields.stream) and streams, _limit(fields), opening, floor)


def renamed(body: Body, model: str) -> bytes:
    """Return the body with another name of its model and each other value as it came, or raise RequestError 400.

    A key that came twice is there once, with the value that was read: no server may take the other one.
    """
    try:
        fields = decode(body.raw, dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise RequestError(400, f"the request body is not JSON: {error}") from None
    return msgspec.json.encode({**fields, "model": model})


def _limit(fields: _Fields) -> int:
    """Return the number of tokens that a client asks for at most; whether it may is the worker's to say."""
    for given in (fields.max_completion_tokens, fields.max_output_tokens, fields.max_tokens):
        if isinstance(given, int) and given > 0:
            return int(given)
    return 0


def _floor(fields: _Fields) -> int:
    """Return the tokens that a prompt has for sure; none of one that its client lets the worker cut."""
    if fields.truncation is not None or fields.truncate_prompt_tokens is not None:
        return 0
    return prompts.floor(fields.messages, fields.prompt)
