"""Models in registries of containers: pushed as an artefact, or one file under `models/` in a layer of an image."""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models import references
from rbee_runtime.models.sources import Credentials, Listing, RangeRefusedError, RemoteFile
from rbee_runtime.models.sources.fetcher import Fetcher
from rbee_runtime.models.sources.inflate import inflated
from rbee_runtime.models.sources.oci_names import Blob, checked_name, choose, layers, named
from rbee_runtime.models.sources.registry import Registry
from rbee_runtime.models.sources.selection import select
from rbee_runtime.models.sources.tar_member import FOLDER, Member, TarWalk

MAX_SEARCHED = 8 * 1024**3
"""Bytes of layers that are fetched to find out where the model is; it is nearly always in the last one."""

_TAR = "tar"
_LATEST = "latest"


class OciSource:
    """One model of a registry."""

    def __init__(
        self,
        parsed: references.Source,
        *,
        settings: StoreSettings,
        credentials: Credentials | None = None,
        fetcher: Fetcher | None = None,
    ) -> None:
        if settings.offline:
            raise ModelStoreError(f"{parsed} is not on this host, and the store's settings say offline")
        _check_host(parsed)
        self._reference = parsed.revision or _LATEST
        self._fetcher = fetcher or Fetcher(settings)
        self._registry = Registry(
            parsed.place,
            parsed.path,
            settings=settings,
            credentials=credentials or Credentials(),
            fetcher=self._fetcher,
        )

    async def list(self) -> Listing:
        """Return the files of the artefact, or the model file of the image; its manifest's digest is the revision."""
        document, _, digest = await self._registry.document(self._reference)
        if "manifests" in document:
            chosen = choose(document, self._registry.where)
            document, _, digest = await self._registry.document(chosen)
        blobs = layers(document, self._registry.where)
        files = named(blobs, self._registry.where)
        if not files:
            return Listing((await self._in_image(blobs),), revision=digest)
        names = tuple(files) if len(files) == 1 else select([*files], where=self._registry.where)
        return Listing(tuple(_file(name, files[name]) for name in names), revision=digest)

    async def read(self, file: RemoteFile, *, offset: int) -> AsyncGenerator[bytes, None]:
        """Yield a file from `offset` on; one that lies in an image only whole."""
        kind, digest, size = file.locator.split(" ")
        blob = Blob(digest, int(size), "")
        if kind == _TAR and offset:
            raise RangeRefusedError(f"{file.name} lies inside of a layer, which is read from its start")
        blocks = self._member(blob, file) if kind == _TAR else self._registry.read(blob, offset=offset)
        async with aclosing(blocks):
            async for block in blocks:
                yield block

    async def close(self) -> None:
        """End the connections."""
        await self._fetcher.close()

    async def _in_image(self, blobs: Sequence[Blob]) -> RemoteFile:
        """Look through the layers, the last one first, because it covers the others."""
        searched = 0
        for blob in reversed([blob for blob in blobs if blob.is_tar]):
            searched += blob.size
            if searched > MAX_SEARCHED:
                break
            member = await self._search(blob)
            if member is not None:
                name = checked_name(member.name, self._registry.where)
                locator = f"{_TAR} {blob.digest} {blob.size}"
                return RemoteFile(name, member.size, etag=blob.digest, locator=locator, whole=True)
        raise ModelStoreError(
            f"{self._registry.where} has no model: neither a layer that is named as a file, "
            f"nor a file under {FOLDER}/ in an image"
        )

    async def _search(self, blob: Blob) -> Member | None:
        walk = TarWalk(self._registry.where)
        async with aclosing(inflated(self._registry.read(blob), self._registry.where)) as contents:
            async for content in contents:
                for _ in walk.feed(content):
                    return walk.found
                if walk.found is not None or walk.ended:
                    return walk.found
        return None

    async def _member(self, blob: Blob, file: RemoteFile) -> AsyncGenerator[bytes, None]:
        """Yield the file of a layer, and raise at the end where the layer was not what its digest says."""
        walk, digest = TarWalk(self._registry.where), hashlib.sha256()
        async with aclosing(inflated(self._hashed(blob, digest), self._registry.where)) as contents:
            async for content in contents:
                for block in walk.feed(content):
                    yield block
        if f"sha256:{digest.hexdigest()}" != blob.digest:
            raise ModelStoreError(f"{self._registry.where}: layer {blob.digest} arrived damaged; fetch it again")
        if not walk.whole or walk.found != Member(file.name, file.size or 0):
            raise ModelStoreError(f"{self._registry.where}: layer {blob.digest} ends within {file.name}")

    async def _hashed(self, blob: Blob, digest: "hashlib._Hash") -> AsyncGenerator[bytes, None]:
        async with aclosing(self._registry.read(blob)) as blocks:
            async for block in blocks:
                digest.update(block)
                yield block


def _check_host(parsed: references.Source) -> None:
    """Refuse short forms: which registry `library/name` means is not guessed."""
    host = parsed.place
    if "." not in host and ":" not in host and host != "localhost":
        raise ModelStoreError(f"{parsed}: {host!r} is not a registry; write its host in full, such as {host}.example")


def _file(name: str, blob: Blob) -> RemoteFile:
    sha256 = blob.digest.removeprefix("sha256:")
    return RemoteFile(name, blob.size, sha256, blob.digest, f"blob {blob.digest} {blob.size}")
