"""Models of the Hugging Face hub or a mirror of it: listed by the hub's own client, read by plain ranged requests.

The revision is resolved to its commit once; what is read afterwards is of that commit, whatever a branch does.
"""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError, ReferenceFormError
from rbee_runtime.models import references
from rbee_runtime.models.sources import Credentials, Listing, RangeRefusedError, RemoteFile, TransientError, hf_cache
from rbee_runtime.models.sources.fetcher import Fetcher
from rbee_runtime.models.sources.git_blob import checked
from rbee_runtime.models.sources.hf_client import LIST_SECONDS, client, near_repositories, near_revisions
from rbee_runtime.models.sources.hf_refusals import CODE, MESSAGE, Asked, refused
from rbee_runtime.models.sources.selection import select
from rbee_runtime.models.threads import SOURCES

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoSibling

_GIT = "git:"
"""Marks the locator of a file that git holds itself; it is verified by its blob's name."""


class HfSource:
    """One model of a hub."""

    def __init__(
        self,
        parsed: references.Source,
        *,
        settings: StoreSettings,
        credentials: Credentials | None = None,
        fetcher: Fetcher | None = None,
        env: Mapping[str, str] = os.environ,
    ) -> None:
        self._parsed = parsed
        self._offline = settings.offline
        self._caches = hf_cache.caches(settings, env)
        self._token = (credentials or Credentials()).hf_token
        self._api = client(settings, self._token)
        self._fetcher = fetcher or Fetcher(settings)
        self._asked = Asked(
            endpoint=self._api.endpoint,
            repository=parsed.place,
            revision=parsed.revision,
            with_token=bool(self._token),
        )

    async def list(self) -> Listing:
        """Return the files of the one model that the reference chooses, at the commit that its revision is now.

        What a cache on this host has carries its path; offline, a cache is all there is.
        """
        if self._offline:
            return await SOURCES.run(self._cached)
        info = await self._info()
        commit = info.sha or ""
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        chosen = select(list(siblings), glob=self._parsed.path, where=f"hf:{self._parsed.place}")
        files = tuple(self._file(siblings[name], commit) for name in chosen)
        if info.gated:
            await self._check_gate(files[0])
        here = await SOURCES.run(self._present, files)
        return Listing(here, revision=commit)

    async def read(self, file: RemoteFile, *, offset: int) -> AsyncIterator[bytes]:
        """Yield the file from `offset` on; a small one only whole, because git names whole content."""
        place = _Place.read(file.locator)
        if place.blob and offset:
            raise RangeRefusedError(f"{file.name} is small and checked as a whole")
        blocks = self._fetcher.read(place.url, offset=offset, size=file.size, headers=self._headers())
        if place.blob:
            blocks = checked(blocks, name=file.name, size=file.size or 0, blob=place.blob)
        async for block in blocks:
            yield block

    async def close(self) -> None:
        """End the connections of reads; the hub's client keeps its own for the process."""
        await self._fetcher.close()

    def _present(self, files: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
        return tuple(hf_cache.present(file, self._caches, self._parsed.place) for file in files)

    def _cached(self) -> Listing:
        snapshot = hf_cache.find(self._parsed, self._caches)
        if snapshot is None:
            raise ModelStoreError(
                f"{self._parsed} is in no Hugging Face cache of this host, and the store's settings say offline"
            )
        return hf_cache.listing(snapshot, self._parsed.path)

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token}"} if self._token else {}

    def _file(self, sibling: "RepoSibling", commit: str) -> RemoteFile:
        name = sibling.rfilename
        try:
            references.check_file_name(name)
        except ReferenceFormError as error:
            raise ModelStoreError(f"hf:{self._parsed.place}: {error}") from error
        url = f"{self._api.endpoint}/{self._parsed.place}/resolve/{commit}/{quote(name)}"
        if sibling.lfs is not None:
            return RemoteFile(name, sibling.lfs.size, sibling.lfs.sha256, sibling.lfs.sha256, url)
        blob = sibling.blob_id or ""
        locator = f"{_GIT}{blob} {url}" if blob else url
        return RemoteFile(name, sibling.size, etag=blob or None, locator=locator, whole=bool(blob))

    async def _info(self) -> "ModelInfo":
        """Ask the hub, which is a blocking call of its client."""
        from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - see the package

        try:
            return await SOURCES.run(self._model_info)
        except HfHubHTTPError as error:
            raise await self._refusal(error) from error
        except Exception as error:  # the client's transport and its parsing have many errors of their own
            said = str(error).partition("\n")[0] or type(error).__name__
            raise TransientError(f"the hub at {self._asked.endpoint} gives no list: {said}") from error

    def _model_info(self) -> "ModelInfo":
        return self._api.model_info(
            self._parsed.place,
            revision=self._parsed.revision or None,
            files_metadata=True,
            timeout=LIST_SECONDS,
        )

    async def _refusal(self, error: "HfHubHTTPError") -> ModelStoreError:
        headers, status = error.response.headers, error.response.status_code
        code = headers.get(CODE, "")
        asked = replace(self._asked, near=await self._near(code, status))
        return refused(asked, status=status, code=code, message=headers.get(MESSAGE, ""))

    async def _near(self, code: str, status: int) -> tuple[str, ...]:
        if code == "RevisionNotFound":
            return await near_revisions(self._api, self._parsed.place, self._parsed.revision)
        if status in {401, 404} and code != "GatedRepo":
            return await near_repositories(self._api, self._parsed.place)
        return ()

    async def _check_gate(self, file: RemoteFile) -> None:
        """Ask for a file's headers: the list of a gated repository is open to all, its files are not."""
        url = _Place.read(file.locator).url
        async with self._fetcher.open(url, method="HEAD", headers=self._headers()) as answer:
            # The host of the bytes may refuse HEAD, although it would send them.
            if answer.status in {401, 403} and answer.url.startswith(f"{self._api.endpoint}/"):
                code = answer.headers.get(CODE, "GatedRepo")
                raise refused(self._asked, status=answer.status, code=code, message=answer.headers.get(MESSAGE, ""))


@dataclass(frozen=True)
class _Place:
    url: str
    blob: str

    @classmethod
    def read(cls, locator: str) -> "_Place":
        blob, _, url = locator.rpartition(" ")
        return cls(url, blob.removeprefix(_GIT))
