"""Tools of models whose server does nothing for them: told in words, and read from the answer's text."""

import json
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from msgspec.structs import replace

from rbee_runtime.worker.engines import ChatRequest, Delta, Finish, ToolCall, ToolChoice
from rbee_runtime.worker.engines.calling import new_id, with_calls
from rbee_runtime.worker.engines.served import asking
from rbee_runtime.worker.engines.tool_forms import ToolForm, schema_of, told

Reader = Callable[[AsyncIterator[Delta]], AsyncGenerator[Delta, None]]
"""Makes an answer of what a server sends."""

_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")


def in_words(body: dict[str, Any], request: ChatRequest) -> tuple[dict[str, Any], Reader]:
    """Return the body of a chat whose system message tells of the tools, and who reads the calls in its answer.

    A call that is required is one, which a schema holds the whole answer to.
    """
    tools = request.tools
    plain = {name: value for name, value in body.items() if name not in _FIELDS}
    plain["messages"] = asking.messages_of(told(request.messages, tools.tools))
    if tools.choice is ToolChoice.REQUIRED:
        return plain | asking.held_to(schema_of(tools, ToolForm.PLAIN)), as_calls
    return plain, lambda deltas: with_calls(deltas, ToolForm.PLAIN, several=tools.several)


async def as_calls(deltas: AsyncIterator[Delta]) -> AsyncGenerator[Delta, None]:
    """Yield answers that are each one call in JSON as calls; one that was cut is text and no call."""
    gathered: dict[int, list[Delta]] = defaultdict(list)
    async for delta in deltas:
        if delta.thought:
            yield Delta(thought=delta.thought, choice=delta.choice)
        pieces = gathered[delta.choice]
        pieces.append(delta)
        if delta.finish is None:
            continue
        whole = "".join(piece.text for piece in pieces)
        logprobs = tuple(one for piece in pieces for one in piece.logprobs)
        call = _call(whole)
        if call is None:
            yield replace(delta, text=whole, logprobs=logprobs, thought="")
        else:
            yield replace(delta, text="", logprobs=logprobs, calls=(call,), finish=Finish.TOOL_CALLS, thought="")


def _call(text: str) -> ToolCall | None:
    try:
        found = json.loads(text)
        return ToolCall(new_id(), str(found["name"]), json.dumps(found["arguments"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
