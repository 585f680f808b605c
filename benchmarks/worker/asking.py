"""Clients of one server at the same time, each with a streamed chat; as cheap as a client can be.

Servers and clients share the processors, so a client that costs much would hide what a server costs.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.worker.servers import MODEL, BenchError, LengthError, Server

TOKENS, TRIES = 64, 3
SYSTEM = (
    "You are the assistant of a small harbour library. You answer kindly, in full sentences, and you say so when you "
    "do not know something. Books are lent for four weeks and can be kept for four more if nobody else waits for them. "
    "The reading room opens at nine and closes at six, on Sundays at noon. Children may lend everything on the ground "
    "floor; maps, charts and the old log books stay in the house. Whoever asks for a book that is lent gets its date. "
    "You never tell who has lent a book. The harbour master keeps the tide tables, the school keeps the atlas."
)


@dataclass(frozen=True)
class Asked:
    """One answer of TOKENS tokens: seconds to its first one, and between each and the next."""

    first: float
    gaps: tuple[float, ...]


async def clients(server: Server, count: int, mark: str, *, shared: bool) -> tuple[float, list[Asked]]:
    """Return the seconds that `count` clients took together, and what each got.

    `mark` makes their questions new to the server; unless they are `shared` it stands before the system prompt.
    Where an answer ends early, by the numerics of the moment, all are asked once more, with other marks.
    """
    for again in range(TRIES):
        begun = time.perf_counter()
        marks = [f"{mark}-{number}{'+' * again}" for number in range(count)]
        asked = await asyncio.gather(*(_ask(server, each, shared=shared) for each in marks), return_exceptions=True)
        seconds = time.perf_counter() - begun
        answers = [each for each in asked if isinstance(each, Asked)]
        if len(answers) == count:
            return seconds, answers
        errors = [each for each in asked if isinstance(each, BaseException)]
        worst = next((each for each in errors if not isinstance(each, LengthError)), None)
        if worst is not None or again == TRIES - 1:
            raise worst or errors[0]
    raise AssertionError("no try is the last one")


async def _ask(server: Server, mark: str, *, shared: bool) -> Asked:
    body = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": SYSTEM if shared else f"{mark}. {SYSTEM}"},
            {
                "role": "user",
                "content": f"Question {mark}: tell a very long story about a ship and all the people who work on it.",
            },
        ],
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
    }
    begun = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(_request(server, json.dumps(body).encode()))
        return await _read(server, reader, begun)
    finally:
        writer.close()


def _request(server: Server, body: bytes) -> bytes:
    headers = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **server.headers,
    }
    lines = ["POST /v1/chat/completions HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join((*lines, "", "")).encode() + body


async def _read(server: Server, reader: asyncio.StreamReader, begun: float) -> Asked:
    status = await reader.readline()
    if b" 200 " not in status:
        raise BenchError(f"{server.side} answered {status!r} {(await reader.read(2000))[-500:]!r}")
    times = []
    while line := await reader.readline():
        if line.startswith(b"data: {") and _is_text(server, line):
            times.append(time.perf_counter())
    if len(times) != TOKENS:
        # Shorter ones are slower by what their prompts take, and a side that says more in an event is not to look so.
        raise LengthError(f"{server.side} answered in {len(times)} pieces where {TOKENS} tokens were asked for")
    return Asked(times[0] - begun, tuple(later - earlier for earlier, later in pairwise(times)))


def _is_text(server: Server, line: bytes) -> bool:
    event = json.loads(line[6:])
    if "error" in event:
        raise BenchError(f"{server.side} ended its answer with an error: {event['error']}")
    return any(choice["delta"].get("content") for choice in event["choices"])
