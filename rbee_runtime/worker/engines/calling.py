"""Turn the deltas of an answer into deltas with calls, where a model was told of tools."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator

from msgspec.structs import replace

from rbee_runtime.worker.engines import Delta, Finish
from rbee_runtime.worker.engines.tool_calls import CallReader
from rbee_runtime.worker.engines.tool_forms import ToolForm


def new_id() -> str:
    """Return an id of a call; nine letters and digits, because that is what Mistral's templates take and no other."""
    return secrets.token_hex(5)[:9]


async def with_calls(deltas: AsyncIterator[Delta], form: ToolForm, *, several: bool) -> AsyncGenerator[Delta, None]:
    """Yield the same answer, with what is a call of a tool taken out of its text; the first alone unless `several`."""
    readers: dict[int, CallReader] = {}
    told: dict[int, int] = {}
    async for delta in deltas:
        reader = readers.setdefault(delta.choice, CallReader(form, new_id))
        found = reader.push(delta.text)
        text, calls, finish = found.text, found.calls, delta.finish
        if finish is not None:
            rest = reader.finish(cut=finish is Finish.LENGTH)
            text, calls = text + rest.text, calls + rest.calls
            # One that was cut by its limit stays cut, however many calls came before.
            finish = Finish.TOOL_CALLS if reader.found and finish is Finish.STOP else finish
        if not several:
            calls = calls[: max(0, 1 - told.get(delta.choice, 0))]
            told[delta.choice] = told.get(delta.choice, 0) + len(calls)
        if text or calls or finish is not None or delta.logprobs or delta.thought:
            yield replace(delta, text=text, calls=calls, finish=finish)
