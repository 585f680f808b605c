"""The one client that fetches from URLs: checked addresses, bounded headers, no surprises in the body.

Every source that reads by HTTP goes through it, so that none of them can be talked into reading inside the network.
"""

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from urllib.parse import SplitResult, urljoin, urlsplit

import httpcore

from rbee_runtime import __version__
from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.sources import RangeRefusedError, TransientError
from rbee_runtime.models.sources.addresses import CONNECT_SECONDS, PinnedBackend, Resolver, is_named, resolve
from rbee_runtime.models.sources.pace import paced

STALL_SECONDS = 30.0
"""Without a byte for so long the connection is given up."""

HEADER_SECONDS = 60.0
MAX_REDIRECTS = 3
MAX_HEADERS = 200

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_USER = re.compile(r"//[^/]*@")
_LENGTH = re.compile(r"\d{1,18}")
_SECRETS = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True)
class Answer:
    """Headers of an answer and its body; `size` is bytes of the whole content, `offset` where the body starts."""

    url: str
    status: int
    headers: Mapping[str, str]
    size: int | None
    offset: int
    body: AsyncIterator[bytes]

    @property
    def etag(self) -> str | None:
        """Return the validator of the content, or None."""
        return self.headers.get("etag")


class Fetcher:
    """Fetches by the rules of the settings. `stall` is seconds without a byte; close it at the end."""

    def __init__(
        self,
        settings: StoreSettings,
        *,
        resolver: Resolver = resolve,
        tls: ssl.SSLContext | None = None,
        stall: float = STALL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._named = settings.plain_http_hosts
        self._stall = stall
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or ssl.create_default_context(),
            network_backend=PinnedBackend(self._named, resolver),
            max_connections=8,
            keepalive_expiry=5.0,
        )

    async def close(self) -> None:
        """End every connection."""
        await self._pool.aclose()

    @contextlib.asynccontextmanager
    async def open(
        self, url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Answer]:
        """Send a request, follow redirects and give the answer, whatever its status; `url` is where it came from."""
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._send(method, url, sent)
            try:
                fields = _fields(response, url)
                if response.status not in _REDIRECTS or "location" not in fields:
                    answer = _answer(response, fields, url, self._stall)
                    yield replace(answer, body=paced(answer.body, _shown(url), self._clock))
                    return
            finally:
                with contextlib.suppress(httpcore.NetworkError, httpcore.ProtocolError):
                    await response.aclose()
            url, sent = self._redirected(url, fields["location"], sent)
        raise ModelStoreError(f"{_shown(url)} redirects more than {MAX_REDIRECTS} times; correct the model's source")

    async def look(self, url: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        """Return size and validator of a file without its content; TransientError or ModelStoreError."""
        async with self.open(url, method="HEAD", headers=headers) as answer:
            if answer.status == 200:
                return answer
        # Presigned URLs and simple servers know GET only.
        async with self.open(url, headers={**(headers or {}), "range": "bytes=0-0"}) as answer:
            if answer.status not in {200, 206}:
                raise _refusal(answer)
            return answer

    async def read(
        self,
        url: str,
        *,
        offset: int = 0,
        size: int | None = None,
        etag: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[bytes]:
        """Yield the content of `url` from `offset` on; RangeRefusedError if that, `size` or `etag` do not fit."""
        asked = dict(headers or {})
        if offset:
            asked["range"] = f"bytes={offset}-"
            if _strong(etag):
                asked["if-range"] = str(etag)
        async with self.open(url, headers=asked) as answer:
            _check(answer, offset=offset, size=size, etag=etag)
            async for block in answer.body:
                yield block

    async def _send(self, method: str, url: str, headers: Mapping[str, str]) -> httpcore.Response:
        self._permit(url)
        fixed = {"user-agent": f"rbee/{__version__}", "accept": "*/*", "accept-encoding": "identity"}
        waits = {"connect": CONNECT_SECONDS, "read": self._stall, "write": self._stall, "pool": self._stall}
        request = httpcore.Request(
            method,
            url,
            headers=[(name.encode(), value.encode()) for name, value in {**fixed, **headers}.items()]
            + [(b"host", urlsplit(url).netloc.encode())],
            extensions={"timeout": waits},
        )
        with _sentences(url, self._stall):
            async with asyncio.timeout(HEADER_SECONDS):
                return await self._pool.handle_async_request(request)

    def _permit(self, url: str) -> None:
        parts = _split(url)
        host, port = parts.hostname or "", _port(parts)
        if parts.scheme == "https" and host:
            return
        if parts.scheme != "http" or not is_named(host, port, self._named):
            raise ModelStoreError(
                f"{_shown(url)} is not fetched: only https is, and http from hosts that plain_http_hosts of the "
                "store's settings names"
            )

    def _redirected(self, url: str, location: str, sent: dict[str, str]) -> tuple[str, dict[str, str]]:
        try:
            target = urljoin(url, location)
        except ValueError as error:
            raise ModelStoreError(f"{_shown(url)} redirects to what is not a URL that can be fetched") from error
        old, new = _split(url), _split(target)
        self._permit(target)
        if old.scheme == "https" and new.scheme != "https":
            raise ModelStoreError(f"{_shown(url)} redirects away from TLS to {_shown(target)}, which is not followed")
        if self._is_inside(new) and not self._is_inside(old):
            raise ModelStoreError(f"{_shown(url)} redirects into this network to {_shown(target)}: not followed")
        if (old.scheme, old.netloc.lower()) != (new.scheme, new.netloc.lower()):
            sent = {name: value for name, value in sent.items() if name not in _SECRETS}
        return target, sent

    def _is_inside(self, parts: SplitResult) -> bool:
        return is_named(parts.hostname or "", _port(parts), self._named)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ModelStoreError(f"{_shown(url)!r} is not a URL that can be fetched") from error
    if "@" in parts.netloc or "\\" in url or any(not 0x20 < ord(sign) < 0x7F for sign in url):
        raise ModelStoreError(f"{_shown(url)!r} is not fetched: it has a user name or characters that no URL has")
    return parts


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _shown(url: str) -> str:
    """Return a URL for a sentence: without its query, which may be a signature, and without user and password."""
    return _USER.sub("//***@", url.partition("?")[0].partition("#")[0])[:200]


def _strong(etag: str | None) -> bool:
    return bool(etag) and not str(etag).startswith("W/")


def _fields(response: httpcore.Response, url: str) -> dict[str, str]:
    if len(response.headers) > MAX_HEADERS:
        raise ModelStoreError(f"{_shown(url)} answers with {len(response.headers)} headers: not a server of models")
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


def _answer(response: httpcore.Response, fields: Mapping[str, str], url: str, stall: float) -> Answer:
    whole = _LENGTH.fullmatch(fields.get("content-length", ""))
    size, offset = int(whole[0]) if whole else None, 0
    if response.status == 206:
        part = _CONTENT_RANGE.fullmatch(fields.get("content-range", ""))
        if part is None:
            raise ModelStoreError(f"{_shown(url)} sends a part of the file without saying which")
        offset, size = int(part[1]), None if part[3] == "*" else int(part[3])
    return Answer(url, response.status, fields, size, offset, _body(response, url, stall))


async def _body(response: httpcore.Response, url: str, stall: float) -> AsyncIterator[bytes]:
    with _sentences(url, stall):
        async for block in response.aiter_stream():
            yield block


def _check(answer: Answer, *, offset: int, size: int | None, etag: str | None) -> None:
    """Raise the error that says why this answer is not the wanted part of the wanted file."""
    url = _shown(answer.url)
    if answer.status == 416 or (offset and answer.status == 200):
        raise RangeRefusedError(f"{url} cannot go on at byte {offset}: the server sends the whole file or another one")
    if answer.status not in {200, 206}:
        raise _refusal(answer)
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise ModelStoreError(f"{url} is sent compressed, although that was not asked for; use another server")
    if answer.offset != offset:
        raise RangeRefusedError(f"{url} sends from byte {answer.offset} on instead of {offset}")
    changed = etag is not None and answer.etag is not None and answer.etag != etag
    if changed or (size is not None and answer.size is not None and answer.size != size):
        raise RangeRefusedError(f"{url} is another file than before: {answer.size} bytes, validator {answer.etag}")


def _refusal(answer: Answer) -> ModelStoreError:
    kind = TransientError if answer.status in _BUSY else ModelStoreError
    hint = {
        401: "it asks for a credential",
        403: "access is refused; check the credential and the licence of the model",
        404: "there is no such file",
    }.get(answer.status, "the server is busy or broken" if kind is TransientError else "the server refuses")
    return kind(f"{_shown(answer.url)} answers {answer.status}: {hint}")


@contextlib.contextmanager
def _sentences(url: str, stall: float) -> Iterator[None]:
    """Turn what a connection can do wrong into one sentence."""
    try:
        yield
    except (TimeoutError, httpcore.TimeoutException) as error:
        raise TransientError(f"{_shown(url)} was silent for {stall:g} s or could not be connected to") from error
    except httpcore.RemoteProtocolError as error:
        raise TransientError(f"{_shown(url)} broke off or does not speak HTTP: {str(error)[:100]}") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError) as error:
        raise TransientError(f"no connection to {_shown(url)}: {str(error)[:200] or type(error).__name__}") from error
