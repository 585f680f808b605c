"""The engine's side: one connection per question, on which nothing is written that the guard did not make up itself."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import h11

from rbee_runtime import ports
from rbee_runtime.errors import GuardError
from rbee_runtime.guard.config import EngineKind, GuardConfig

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
"""As the hive's clients wait; making a container while a host boots can take many seconds."""

ANSWER_BYTES = 16 * 1024 * 1024
"""Of an answer that is read whole; a list of hundreds of containers has a few."""

READ_BYTES = 64 * 1024
JSON = "application/json"
_UNITS = {EngineKind.PODMAN: ports.PODMAN_UNIT, EngineKind.DOCKER: "docker"}


@dataclass(frozen=True)
class Question:
    """A request to the engine; `seconds` is how long its whole answer may take, None for an answer without end."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Any = None
    seconds: float | None = ANSWER_SECONDS


@dataclass(frozen=True)
class Answer:
    """An answer as it goes to the hive: status, kind and content, and nothing else that the engine said."""

    status: int
    content: bytes = b""
    kind: str = JSON

    def document(self) -> Any:
        """Return the content as JSON; GuardError."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            raise GuardError(f"the engine's answer of status {self.status} is no JSON", status=502) from None


@dataclass(frozen=True)
class OpenAnswer:
    """An answer whose content is still coming."""

    status: int
    kind: str
    blocks: AsyncIterator[bytes]


class EngineSocket:
    """Asks the engine behind a path."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config

    async def ask(self, question: Question) -> Answer:
        """Return the whole answer; GuardError if there is none."""
        try:
            async with asyncio.timeout(question.seconds), self.stream(question) as opened:
                content = bytearray()
                async for block in opened.blocks:
                    content += block
                    if len(content) > ANSWER_BYTES:
                        raise GuardError(f"{self._config.engine}'s answer is longer than {ANSWER_BYTES} B", status=502)
                return Answer(opened.status, bytes(content), opened.kind)
        except TimeoutError:
            said = f"{self._config.engine} gave no answer in {question.seconds:g} s"
            raise GuardError(f"{said}: see `journalctl -u {self._unit()}` on the host", status=504) from None

    @contextlib.asynccontextmanager
    async def stream(self, question: Question) -> AsyncGenerator[OpenAnswer, None]:
        """Give an answer whose content is read as it comes, and hang up at the end."""
        reader, writer = await self._connect()
        try:
            connection = h11.Connection(h11.CLIENT)
            writer.write(_written(connection, question))
            await writer.drain()
            head = await _next(connection, reader)
            while isinstance(head, h11.InformationalResponse):
                head = await _next(connection, reader)
            if not isinstance(head, h11.Response) or (300 <= head.status_code < 400 and head.status_code != 304):
                raise GuardError(f"{self._config.engine} answers in a way that is not understood", status=502)
            kind = dict(head.headers).get(b"content-type", JSON.encode()).decode("latin-1")
            async with contextlib.aclosing(_blocks(connection, reader)) as blocks:
                yield OpenAnswer(head.status_code, kind, blocks)
        except (OSError, h11.ProtocolError) as error:
            said = f"{self._config.engine} hung up at {self._config.engine_socket}"
            raise GuardError(f"{said}: see `journalctl -u {self._unit()}` on the host ({error})", status=502) from error
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await asyncio.open_unix_connection(self._config.engine_socket)
        except (OSError, TimeoutError) as error:
            raise GuardError(
                f"{self._config.engine} does not answer at {self._config.engine_socket}: run `systemctl start "
                f"{self._unit()}` on the host",
                status=503,
            ) from error

    def _unit(self) -> str:
        return _UNITS[self._config.engine]


def _written(connection: h11.Connection, question: Question) -> bytes:
    content = b"" if question.body is None else json.dumps(question.body, sort_keys=True).encode()
    target = quote(question.path, safe="/:@") + (f"?{urlencode(question.query)}" if question.query else "")
    headers = [("Host", "localhost"), ("Connection", "close"), ("Content-Length", str(len(content)))]
    if content:
        headers.append(("Content-Type", JSON))
    parts = [
        connection.send(h11.Request(method=question.method, target=target, headers=headers)),
        connection.send(h11.Data(data=content)),
        connection.send(h11.EndOfMessage()),
    ]
    return b"".join(part for part in parts if part)


async def _next(connection: h11.Connection, reader: asyncio.StreamReader) -> Any:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(READ_BYTES))
    return event


async def _blocks(connection: h11.Connection, reader: asyncio.StreamReader) -> AsyncGenerator[bytes, None]:
    while isinstance(event := await _next(connection, reader), h11.Data):
        yield bytes(event.data)
