"""What the queen asks a hive on an operator's behalf: hosts know roles of the fleet, and people have none.

Answers pass as they are, refusals included; the queen checks who asks (policy.py) and which hive is meant.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack

import httpx
from starlette.responses import Response

from rbee_runtime.errors import LinkError, RequestError
from rbee_runtime.queen.controller import Controller
from rbee_runtime.streams import Holding, Stream

MAX_BYTES = 16 * 1024 * 1024
"""Two thousand lines of a log, or a hundred workers, are far less."""

SECONDS = 10.0
SILENCE = httpx.Timeout(SECONDS, read=60.0)
"""Streams of events have a comment every 15 s; a log that nobody writes to may be silent for as long as it likes."""

QUIET = httpx.Timeout(SECONDS, read=None)

MAX_STREAMS = 32
"""Each holds a connection of the pool that desired documents go through too."""


class HiveCalls:
    """Forwards reads to hives; `stopping` ends the streams that go through this queen."""

    def __init__(self, controller: Controller, client: httpx.AsyncClient) -> None:
        self._controller = controller
        self._client = client
        self._open_streams = 0
        self.stopping = asyncio.Event()

    def hive_of(self, worker: str) -> str:
        """Return the hive that has a worker, or raise RequestError 404."""
        entry = self._controller.assignments.get(worker)
        if entry is not None:
            return entry.hive
        for name, member in self._controller.membership.members.items():
            if member.report is not None and any(report.id == worker for report in member.report.workers):
                return name
        mine = [name for name, entry in self._controller.assignments.items() if entry.spec.model == worker]
        others = f"; the workers of model {worker} are {', '.join(sorted(mine))}" if mine else ""
        raise RequestError(404, f"there is no worker {worker[:64]!r}{others}", code="worker_not_found")

    async def get(self, hive: str, path: str, query: Mapping[str, str | int] | None = None) -> Response:
        """Return a hive's answer to `GET /api/v1/<path>`."""
        async with AsyncExitStack() as stack:
            answer = await self._open(stack, hive, path, query, {"accept": "application/json, text/plain"})
            return await self._whole(hive, answer)

    async def stream(
        self,
        hive: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        *,
        headers: Mapping[str, str],
        patience: httpx.Timeout = SILENCE,
    ) -> Response:
        """Return a hive's answer as it comes."""
        if self._open_streams >= MAX_STREAMS:
            raise RequestError(429, f"{MAX_STREAMS} logs or event streams are open; end one", retry_after=5)
        async with AsyncExitStack() as stack:
            self._open_streams += 1
            stack.callback(self._closed)
            answer = await self._open(stack, hive, path, query, headers, patience)
            if answer.status_code != 200:
                return await self._whole(hive, answer)
            media = answer.headers.get("content-type", "text/plain")
            parts = Holding(answer.aiter_raw(), stack.pop_all())
            return Stream(parts, stopping=self.stopping, media_type=media)

    async def _whole(self, hive: str, answer: httpx.Response) -> Response:
        body = bytearray()
        try:
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > MAX_BYTES:
                    said = f"hive {hive} answers with more than {MAX_BYTES} bytes"
                    raise RequestError(502, said, kind="server_error")
        except httpx.HTTPError as error:
            raise _silent(hive, self._url(hive), error) from error
        after = answer.headers.get("retry-after")
        later = {"retry-after": after} if after else {}
        return Response(bytes(body), answer.status_code, later, answer.headers.get("content-type"))

    def _closed(self) -> None:
        self._open_streams -= 1

    async def _open(
        self,
        stack: AsyncExitStack,
        hive: str,
        path: str,
        query: Mapping[str, str | int] | None,
        headers: Mapping[str, str],
        patience: httpx.Timeout | None = None,
    ) -> httpx.Response:
        url = self._url(hive)
        try:
            async with asyncio.timeout(SECONDS):
                request = self._client.build_request(
                    "GET", f"{url}/api/v1/{path}", params=query, headers=headers, timeout=patience or SECONDS
                )
                answer = await self._client.send(request, stream=True)
        except (httpx.HTTPError, LinkError, TimeoutError) as error:
            raise _silent(hive, url, error) from error
        stack.push_async_callback(answer.aclose)
        if answer.status_code == 403:
            raise RequestError(502, f"hive {hive} at {url} does not take this queen's certificate", kind="server_error")
        return answer

    def _url(self, hive: str) -> str:
        member = self._controller.membership.members.get(hive)
        declared = any(each.name == hive for each in self._controller.fleet.current.hives)
        if member is None and not declared:
            raise RequestError(404, f"there is no hive {hive[:64]!r} in the inventory", code="hive_not_found")
        if member is None or not member.record.url:
            raise RequestError(503, f"hive {hive} has not been heard yet", kind="server_error", retry_after=5)
        return member.record.url


def _silent(hive: str, url: str, error: Exception) -> RequestError:
    said = f"hive {hive} at {url} does not answer: {error or type(error).__name__}"
    return RequestError(503, said, kind="server_error", code="hive_unreachable", retry_after=5)
