"""Which streams another worker may go on with: those of plain text whose request says all that the answer keeps to.

Others would have to go on within a call, a schema or a stop string of which half is out, and end as they always did.
"""

from typing import Any, Final

import msgspec

from rbee_runtime.framing import Headers
from rbee_runtime.gateway.body import COMPLETION_TOKENS, Body
from rbee_runtime.gateway.transcript import Transcript

CONTINUABLE: Final[Headers] = [(b"x-rbee-continuable", b"1")]
"""On answers that another worker may go on with."""

_CHAT, _TEXT = "/v1/chat/completions", "/v1/completions"


class _Turn(msgspec.Struct):
    role: Any = None


class _Fields(msgspec.Struct):
    """Of a request: what has to be there, what may only have one value, and what must not be there."""

    messages: list[_Turn] = []
    prompt: Any = None
    max_completion_tokens: Any = None
    max_tokens: Any = None
    n: Any = None
    best_of: Any = None
    logprobs: Any = None
    response_format: Any = None
    top_logprobs: Any = None
    tools: Any = None
    functions: Any = None
    grammar: Any = None
    stop: Any = None
    echo: Any = None
    suffix: Any = None
    continue_final_message: Any = None


_FIELDS = msgspec.json.Decoder(_Fields)


def transcript_of(path: str, body: Body) -> Transcript | None:
    """Return what keeps the text of the stream that a body asks for, None if that is not to be continued."""
    if path not in {_CHAT, _TEXT} or not body.stream:
        return None
    try:
        fields = _FIELDS.decode(body.raw)
    except msgspec.DecodeError:
        return None
    begun = _begun_by_its_client(path, fields)
    return None if begun or _is_shaped(fields) else Transcript(body, is_chat=path == _CHAT, limit=_limit(path, fields))


def _begun_by_its_client(path: str, fields: _Fields) -> bool:
    """Say whether a prompt is none that a text can be put behind: it ends in one already, or is no text."""
    if path == _TEXT:
        return not isinstance(fields.prompt, str)
    return not fields.messages or fields.messages[-1].role == "assistant" or bool(fields.continue_final_message)


def _is_shaped(fields: _Fields) -> bool:
    """Say whether an answer has more to keep to than its text so far tells."""
    form = fields.response_format
    plain = form is None or (isinstance(form, dict) and form.get("type") == "text")
    single = fields.n in (None, 1) and fields.best_of in (None, 1)
    told = fields.logprobs is not None and fields.logprobs is not False
    unwanted = (fields.top_logprobs, fields.tools, fields.functions, fields.grammar, fields.stop)
    return not plain or not single or told or any(unwanted) or bool(fields.echo or fields.suffix)


def _limit(path: str, fields: _Fields) -> int:
    """Return the most tokens of the answer, 0 for as many as there is room for."""
    given = (fields.max_completion_tokens, fields.max_tokens) if path == _CHAT else (fields.max_tokens,)
    found = next((each for each in given if isinstance(each, int) and each > 0), 0)
    return found or (0 if path == _CHAT else COMPLETION_TOKENS)
