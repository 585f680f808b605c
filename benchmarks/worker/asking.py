"""Clients of one server at the same time, each with streamed chats, one after the other; as cheap as a client can be.

Servers and clients share the processors, so a client that costs much would hide what a server costs.
"""

import asyncio
import json
import time
from dataclasses import dataclass

from benchmarks.worker.servers import MODEL, BenchError, Server

TOKENS = 64
SYSTEM = (
    "You are the assistant of a small harbour library. You answer kindly, in full sentences, and you say so when you "
    "do not know something. Books are lent for four weeks and can be kept for four more if nobody else waits for them. "
    "The reading room opens at nine and closes at six, on Sundays at noon. Children may lend everything on the ground "
    "floor; maps, charts and the old log books stay in the house. Whoever asks for a book that is lent gets its date. "
    "You never tell who has lent a book. The harbour master keeps the tide tables, the school keeps the atlas."
)


@dataclass(frozen=True)
class Asked:
    """One answer: seconds to its first token and to its end, and how many tokens it has."""

    first: float
    whole: float
    tokens: int


async def clients(server: Server, count: int, mark: str, *, shared: bool, turns: int) -> tuple[float, list[Asked]]:
    """Return tokens per second of `count` clients together, and what each got in its `turns`.

    `mark` makes their questions new to the server; unless they are `shared` it stands before the system prompt.
    """
    begun = time.perf_counter()
    asked = await asyncio.gather(*(_client(server, f"{mark}-{number}", shared, turns) for number in range(count)))
    answers = [answer for each in asked for answer in each]
    return sum(each.tokens for each in answers) / (time.perf_counter() - begun), answers


async def _client(server: Server, mark: str, shared: bool, turns: int) -> list[Asked]:
    return [await _ask(server, f"{mark}-{turn}", shared=shared) for turn in range(turns)]


async def _ask(server: Server, mark: str, *, shared: bool) -> Asked:
    body = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": SYSTEM if shared else f"{mark}. {SYSTEM}"},
            {
                "role": "user",
                "content": f"Ask {mark}: write a very long list of books about the sea, with a sentence on each.",
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
    first, tokens, last = 0.0, 0, begun
    while line := await reader.readline():
        if line.startswith(b"data: {") and _is_text(server, line):
            last = time.perf_counter()
            first = first or last - begun
            tokens += 1
    if tokens < TOKENS // 8:
        raise BenchError(f"{server.side} answered {tokens} tokens, too few to measure")
    return Asked(first, last - begun, tokens)


def _is_text(server: Server, line: bytes) -> bool:
    event = json.loads(line[6:])
    if "error" in event:
        raise BenchError(f"{server.side} ended its answer with an error: {event['error']}")
    return any(choice["delta"].get("content") for choice in event["choices"])
