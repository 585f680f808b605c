"""What the queen asks a hive on an operator's behalf: hosts know roles of the fleet, and people have none.

Answers pass as they are, refusals included; the queen checks who asks (policy.py) and which hive is meant.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack

import httpx
from starlette.responses import Response

from rbee_runtime.errors import LinkError, RequestError
from rbee_runtime.protocol import QUEEN
from rbee_runtime.queen.controller import Controller
from rbee_runtime.streams import Holding, Stream

MAX_BYTES = 16 * 1024 * 1024
"""Two thousand lines of a log, or a hundred workers, are far less."""

SECONDS = 10.0
SILENCE = httpx.Timeout(SECONDS, read=60.0)
"""Streams of events have a comment every 15 s; a log that nobody writes to may be silent for as long as it likes."""

QUIET = httpx.Timeout(SECONDS, read=None)

MAX_STREAMS = 32
"""Each holds a connection to its client and one to a hive for as long as both like."""


class HiveCalls:
    """Forwards reads and orders to hives; `stopping` ends the streams that go through this queen."""

    def __init__(self, controller: Controller, client: httpx.AsyncClient, *, signature: str) -> None:
        self._controller = controller
        self._signature = signature
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
            headers = {"accept": "application/json, text/plain"}
            answer = await self._open(stack, hive, self._request("GET", hive, path, query=query, headers=headers))
            return await self._whole(hive, answer)

    async def order(self, method: str, hive: str, path: str, *, within: float = SECONDS) -> Response:
        """Return a hive's answer to something that it is to do within so many seconds."""
        async with AsyncExitStack() as stack:
            headers, patience = {QUEEN: self._signature}, httpx.Timeout(SECONDS, read=within)
            request = self._request(method, hive, path, headers=headers, patience=patience)
            answer = await self._open(stack, hive, request, within=within)
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
            request = self._request("GET", hive, path, query=query, headers=headers, patience=patience)
            answer = await self._open(stack, hive, request)
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
            raise _silent(hive, self.url(hive), error) from error
        after = answer.headers.get("retry-after")
        later = {"retry-after": after} if after else {}
        return Response(bytes(body), answer.status_code, later, answer.headers.get("content-type"))

    def _closed(self) -> None:
        self._open_streams -= 1

    def _request(
        self,
        method: str,
        hive: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        patience: httpx.Timeout | None = None,
    ) -> httpx.Request:
        url, timeout = f"{self.url(hive)}/api/v1/{path}", patience or httpx.Timeout(SECONDS)
        return self._client.build_request(method, url, params=query, headers=headers, timeout=timeout)

    async def _open(
        self, stack: AsyncExitStack, hive: str, request: httpx.Request, *, within: float = SECONDS
    ) -> httpx.Response:
        url = self.url(hive)
        try:
            async with asyncio.timeout(within):
                answer = await self._client.send(request, stream=True)
        except (httpx.HTTPError, LinkError, TimeoutError) as error:
            raise _silent(hive, url, error) from error
        stack.push_async_callback(answer.aclose)
        if answer.status_code == 403:
            raise RequestError(502, f"hive {hive} at {url} does not take this queen's certificate", kind="server_error")
        return answer

    def url(self, hive: str) -> str:
        """Return where a hive answers, or raise RequestError: 404 for none of the fleet, 503 for one not heard yet."""
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
