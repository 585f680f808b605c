"""A model that is one file behind a URL."""

from collections.abc import AsyncIterator
from urllib.parse import unquote, urlsplit

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError, ReferenceFormError
from rbee_runtime.models import references
from rbee_runtime.models.sources import Listing, RemoteFile
from rbee_runtime.models.sources.credentials import Credentials
from rbee_runtime.models.sources.fetcher import Fetcher


class HttpsSource:
    """`https://host/path/file.gguf`, or `http://` from a host that the settings name."""

    def __init__(
        self,
        parsed: references.Source,
        *,
        settings: StoreSettings,
        credentials: Credentials,  # noqa: ARG002 - every source is given them; a plain URL has none
        fetcher: Fetcher | None = None,
    ) -> None:
        self._url = str(parsed).partition("#")[0]
        self._sha256 = parsed.sha256 or None
        self._offline = settings.offline
        self._fetcher = fetcher or Fetcher(settings)

    async def list(self) -> Listing:
        """Return the one file."""
        name = file_name(self._url)
        if self._offline:
            raise ModelStoreError(f"{name} is not on this host, and the store's settings say offline")
        answer = await self._fetcher.look(self._url)
        if answer.size is None and self._sha256 is None:
            raise ModelStoreError(f"the server does not say how large {name} is; add #sha256=… to the model's source")
        file = RemoteFile(name, size=answer.size, sha256=self._sha256, etag=answer.etag, locator=self._url)
        return Listing((file,), revision=self._sha256 or "")

    def read(self, file: RemoteFile, *, offset: int) -> AsyncIterator[bytes]:
        """Yield the content from `offset` on."""
        return self._fetcher.read(file.locator, offset=offset, size=file.size, etag=file.etag)

    async def close(self) -> None:
        """End the connections."""
        await self._fetcher.close()


def file_name(url: str) -> str:
    """Return the name that a URL gives a file, or raise ModelStoreError if it is none that can be used here."""
    last = unquote(urlsplit(url).path).rpartition("/")[2]
    try:
        return references.check_file_name(last)
    except ReferenceFormError as error:
        raise ModelStoreError(f"model source {url.partition('?')[0]!r}: {error}") from error
