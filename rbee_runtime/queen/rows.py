"""Long lists of the admin API, made and sent bit by bit: requests go on meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable

from pydantic import BaseModel
from starlette.responses import StreamingResponse

TURN_SECONDS = 0.005
"""Longer than that nobody waits for a list that somebody else asked for, but for its longest row."""


def rows(found: Iterable[BaseModel]) -> StreamingResponse:
    """Return the JSON array of some answers, each of which is made when its turn comes."""
    return StreamingResponse(_parts(found), media_type="application/json")


async def _parts(found: Iterable[BaseModel]) -> AsyncIterator[str]:
    made: list[str] = []
    ahead, until = "[", time.monotonic() + TURN_SECONDS
    for row in found:
        made += (ahead, row.model_dump_json())
        ahead = ","
        if time.monotonic() >= until:
            yield "".join(made)
            made.clear()
            await asyncio.sleep(0)
            until = time.monotonic() + TURN_SECONDS
    yield "".join((*made, "[]" if ahead == "[" else "]"))
