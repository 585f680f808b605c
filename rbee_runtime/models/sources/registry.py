"""A client of one repository in a registry: the distribution specification's reading half, with its two logins."""

import hashlib
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.sources import Credentials, TransientError
from rbee_runtime.models.sources.addresses import is_named
from rbee_runtime.models.sources.fetcher import Answer, Fetcher
from rbee_runtime.models.sources.oci_names import DIGEST, INDEXES, MANIFESTS, Blob
from rbee_runtime.protocol import decode

MAX_DOCUMENT = 4 * 1024 * 1024
"""Bytes of a manifest or token; registries refuse larger manifests."""

_CHALLENGE = re.compile(r'([a-z]+)="([^"]*)"')
_FIX = "the credential registry-auth.json (podman login writes it)"


class Registry:
    """One repository; `where` names it in messages, as the reference does."""

    def __init__(
        self, host: str, repository: str, *, settings: StoreSettings, credentials: Credentials, fetcher: Fetcher
    ) -> None:
        self.where = f"oci://{host}/{repository}"
        self._host = host
        self._repository = repository
        self._named = settings.plain_http_hosts
        self._basic = _credential(credentials.registries, host, repository)
        self._fetcher = fetcher
        self._base = ""
        self._authorization = ""

    async def document(self, reference: str) -> tuple[dict[str, Any], str, str]:
        """Return a manifest or index with its media type and digest, verified against a digest as `reference`."""
        accept = {"accept": ", ".join((*MANIFESTS, *INDEXES))}
        status, headers, body = await self._small(f"manifests/{reference}", accept)
        if status != 200:
            raise self._refusal(status, reference)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if DIGEST.fullmatch(reference) and digest != reference:
            raise ModelStoreError(f"{self.where}: the registry sends {digest} where {reference} was asked for")
        document = _decoded(body, self.where)
        return document, str(document.get("mediaType") or headers.get("content-type", "")), digest

    async def read(self, blob: Blob, *, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield a blob from `offset` on, not verified."""
        path = f"blobs/{blob.digest}"
        # Tokens live for minutes: this renews one, without which a registry answers 401.
        await self._small(path, {}, method="HEAD")
        url = f"{self._base}/{path}"
        blocks = self._fetcher.read(url, offset=offset, size=blob.size, headers=self._headers())
        async with aclosing(blocks):  # type: ignore[type-var]  # a generator, so that it can be closed
            async for block in blocks:
                yield block

    async def _small(
        self, path: str, headers: Mapping[str, str], *, method: str = "GET"
    ) -> tuple[int, Mapping[str, str], bytes]:
        if not self._base:
            await self._find()
        status, answered, body = await self._ask(method, f"{self._base}/{path}", {**headers, **self._headers()})
        if status != 401:
            return status, answered, body
        await self._log_in(answered.get("www-authenticate", ""))
        return await self._ask(method, f"{self._base}/{path}", {**headers, **self._headers()})

    async def _find(self) -> None:
        """Settle on https, or on http where the settings allow it and nothing speaks TLS there."""
        url = urlsplit(f"//{self._host}")
        plain = is_named(url.hostname or "", url.port or 80, self._named)
        try:
            await self._ask("GET", f"https://{self._host}/v2/", {})
        except TransientError:
            if not plain:
                raise
            await self._ask("GET", f"http://{self._host}/v2/", {})
            self._base = f"http://{self._host}/v2/{self._repository}"
        else:
            self._base = f"https://{self._host}/v2/{self._repository}"

    async def _ask(self, method: str, url: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        async with self._fetcher.open(url, method=method, headers=headers) as answer:
            if answer.status == 401 and urlsplit(answer.url).netloc != urlsplit(url).netloc:
                # Whoever was redirected to must not say where the registry's credential is sent.
                raise ModelStoreError(f"{self.where}: the registry redirects to a place that asks for a login")
            return answer.status, answer.headers, b"" if method == "HEAD" else await _bounded(answer, self.where)

    def _headers(self) -> dict[str, str]:
        return {"authorization": self._authorization} if self._authorization else {}

    async def _log_in(self, challenge: str) -> None:
        kind, _, rest = challenge.partition(" ")
        asked = dict(_CHALLENGE.findall(rest))
        if kind.lower() == "basic" and self._basic:
            self._authorization = f"Basic {self._basic}"
        elif kind.lower() == "bearer" and "realm" in asked:
            self._authorization = f"Bearer {await self._token(asked)}"
        else:
            raise self._refusal(401, "")

    async def _token(self, asked: Mapping[str, str]) -> str:
        """Ask the place that the registry names for a token; it gets the credential of this registry, if any."""
        scope = asked.get("scope") or f"repository:{self._repository}:pull"
        query = urlencode({"service": asked.get("service", ""), "scope": scope})
        headers = {"authorization": f"Basic {self._basic}"} if self._basic else {}
        joint = "&" if "?" in asked["realm"] else "?"
        status, _, body = await self._ask("GET", f"{asked['realm']}{joint}{query}", headers)
        if status != 200:
            raise self._refusal(status if status == 429 or status >= 500 else 401, "")
        answer = _decoded(body, self.where)
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token.isprintable():
            raise ModelStoreError(f"{self.where}: the registry's login gives no token")
        return token

    def _refusal(self, status: int, reference: str) -> ModelStoreError:
        if status == 429 or status >= 500:
            return TransientError(f"{self.where}: the registry is busy or broken, it answers {status}")
        if status == 401:
            what = "does not accept" if self._basic else "asks for a login, and there is none in"
            return ModelStoreError(f"{self.where}: the registry {what} {_FIX}")
        if status == 403:
            return ModelStoreError(f"{self.where}: the account in {_FIX} may not read this repository")
        if status == 404:
            return ModelStoreError(f"{self.where} has no {reference or 'such repository'}; check repository and tag")
        return ModelStoreError(f"{self.where}: the registry refuses, it answers {status}")


def _credential(registries: Mapping[str, str], host: str, repository: str) -> str:
    """Return the credential that names the most of host and repository, as `podman login` stores them."""
    parts = f"{host}/{repository}".split("/")
    for end in range(len(parts), 0, -1):
        if found := registries.get("/".join(parts[:end])):
            return found
    return ""


async def _bounded(answer: Answer, where: str) -> bytes:
    body = bytearray()
    async for block in answer.body:
        body += block
        if len(body) > MAX_DOCUMENT:
            raise ModelStoreError(
                f"{where}: the registry sends more than {MAX_DOCUMENT} bytes where a manifest belongs"
            )
    return bytes(body)


def _decoded(body: bytes, where: str) -> dict[str, Any]:
    try:
        return decode(body, dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ModelStoreError(f"{where}: the registry answers something that is not a manifest") from error
