"""Models in object stores: `s3://`, `gs://` and `az://`, one object or all that make a model under a prefix.

Settings come from the credential `object-store.env` by the names that the providers' own tools use
(`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, …). Without any secret the access is anonymous.
"""

import re
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError, ReferenceFormError
from rbee_runtime.models import references
from rbee_runtime.models.references import Scheme
from rbee_runtime.models.sources import Credentials, Listing, RangeRefusedError, RemoteFile, SlowError, TransientError
from rbee_runtime.models.sources.pace import FLOOR_BYTES_PER_SECOND, paced
from rbee_runtime.models.sources.selection import select

if TYPE_CHECKING:
    from obstore.store import ObjectStore

MAX_OBJECTS = 10_000
"""A prefix with more is not a model."""

BLOCK = 1024 * 1024
BLOCK_SECONDS = BLOCK / FLOOR_BYTES_PER_SECOND

_QUERY = re.compile(r"(?<=\S)\?\S+")
"""A shared access signature is a query."""

_URL = re.compile(r"https?://([^/\s?]+)")
_STATUS = re.compile(r"status code: (\d{3})")
_PREFIXES: dict[Scheme, str] = {Scheme.S3: "aws_", Scheme.GS: "google_", Scheme.AZ: "azure_"}
_SECRETS = ("access_key", "secret", "token", "service_account", "application_credentials", "account_key", "sas_key")
_IDENTITIES = ("skip_signature", "role_arn", "container_credentials", "use_azure_cli", "use_emulator", "msi_endpoint")
"""Settings that say who asks; where there are none, the request is not signed."""

_ENDPOINTS = ("aws_endpoint_url_s3", "aws_endpoint_url", "aws_endpoint", "google_base_url", "azure_endpoint")
_CLIENT = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "1d"}
"""A large object takes hours; it is an idle connection that ends it."""


class ObjectSource:
    """One model in an object store."""

    def __init__(
        self, parsed: references.Source, *, settings: StoreSettings, credentials: Credentials | None = None
    ) -> None:
        if settings.offline:
            raise ModelStoreError(f"{parsed} is not on this host, and store.offline forbids to fetch it")
        self._where = str(parsed)
        self._path = parsed.path
        self._store = _open(parsed, settings, dict((credentials or Credentials()).objects))

    async def list(self) -> Listing:
        """Return the object, or the files of the one model under the prefix."""
        if not self._path.endswith("/"):
            found = await self._head()
            if found is not None:
                return Listing((found,))
        return Listing(await self._under(f"{self._path.rstrip('/')}/"))

    async def read(self, file: RemoteFile, *, offset: int) -> AsyncIterator[bytes]:
        """Yield the object from `offset` on, only while it is the one that was listed."""
        if file.size is not None and offset >= file.size:
            return
        try:
            result = await self._get(file, offset)
            # The client hands out whole blocks only, so that each has the time which the least rate gives it.
            blocks = paced(result.stream(min_chunk_size=BLOCK), self._where, time.monotonic, within=BLOCK_SECONDS)
            async for block in blocks:
                yield bytes(block)
        except SlowError:
            raise
        except Exception as error:
            raise self._refusal(error, file.locator, offset) from error

    async def close(self) -> None:
        """Do nothing: connections go with the store."""

    async def _get(self, file: RemoteFile, offset: int) -> Any:
        from obstore import get_async  # noqa: PLC0415 - see the package

        options: dict[str, Any] = {"range": {"offset": offset}} if offset else {}
        if file.etag:
            options["if_match"] = file.etag
        return await get_async(self._store, file.locator, options=options)  # type: ignore[arg-type]  # as documented

    async def _head(self) -> RemoteFile | None:
        from obstore import head_async  # noqa: PLC0415 - see the package

        try:
            meta = await head_async(self._store, self._path)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._refusal(error, self._path, 0) from error
        return _file(self._path.rpartition("/")[2], meta)

    async def _under(self, prefix: str) -> tuple[RemoteFile, ...]:
        metas = {meta["path"].removeprefix(prefix): meta for meta in await self._metas(prefix) if meta["size"]}
        if not metas:
            raise ModelStoreError(f"{self._where}: nothing is there; check the bucket, the key and the region")
        if len(metas) > MAX_OBJECTS:
            raise ModelStoreError(f"{self._where} has more than {MAX_OBJECTS} objects; name the model's own folder")
        return tuple(_file(name, metas[name]) for name in select([*metas], where=self._where))

    async def _metas(self, prefix: str) -> Sequence[Any]:
        from obstore import list as list_objects  # noqa: PLC0415 - see the package

        metas: deque[Any] = deque()
        try:
            async for chunk in list_objects(self._store, prefix, chunk_size=1000):
                metas += chunk
                if len(metas) > MAX_OBJECTS:
                    break
        except Exception as error:
            raise self._refusal(error, prefix, 0) from error
        return metas

    def _refusal(self, error: Exception, key: str, offset: int) -> ModelStoreError:
        """Return a sentence instead of a client's report of many lines."""
        from obstore import exceptions  # noqa: PLC0415 - see the package

        if isinstance(error, exceptions.PreconditionError):
            changed = f"{self._where}: {key} has changed since it was listed"
            return RangeRefusedError(changed) if offset else ModelStoreError(f"{changed}; fetch it again")
        if isinstance(error, exceptions.NotSupportedError) and offset:
            return RangeRefusedError(f"{self._where}: the store sends {key} only from its start")
        denied = isinstance(error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError))
        status = _status(error)
        if denied or status in {401, 403}:
            return ModelStoreError(
                f"{self._where}: the object store refuses access; put the keys into the credential object-store.env, "
                "and check that they may read and list this bucket"
            )
        if isinstance(error, FileNotFoundError) or status == 404:
            return ModelStoreError(f"{self._where}: there is no such bucket or object; check the name and the region")
        passing = isinstance(error, exceptions.GenericError) and (status is None or status == 429 or status >= 500)
        if passing:
            return TransientError(f"{self._where}: {_silence(error, status)}; check its address and the network")
        return ModelStoreError(f"{self._where}: {_first_line(error)}")


def _open(parsed: references.Source, settings: StoreSettings, objects: dict[str, str]) -> "ObjectStore":
    from obstore import exceptions, store  # noqa: PLC0415 - see the package

    config = _config(parsed.scheme, objects)
    client = {**_CLIENT, **_plain_http(parsed, config, settings)}
    kinds: dict[Scheme, Any] = {Scheme.S3: store.S3Store, Scheme.GS: store.GCSStore, Scheme.AZ: store.AzureStore}
    try:
        opened: ObjectStore = kinds[parsed.scheme](
            parsed.place, config=config, client_options=client, retry_config={"max_retries": 3}
        )
    except (exceptions.BaseError, ValueError) as error:
        raise ModelStoreError(f"{parsed}: {_first_line(error)}; correct the credential object-store.env") from error
    return opened


def _config(scheme: Scheme, objects: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of this kind of store, unsigned where none of them is a secret or an identity."""
    prefix = _PREFIXES[scheme]
    config = {name.lower(): value for name, value in objects.items() if name.lower().startswith(prefix)}
    if not any(mark in name for name in config for mark in (*_SECRETS, *_IDENTITIES)):
        config[f"{prefix}skip_signature"] = "true"
    if scheme is Scheme.S3 and not {"aws_region", "aws_default_region"} & set(config):
        config["aws_region"] = "us-east-1"
    return config


def _plain_http(parsed: references.Source, config: Mapping[str, str], settings: StoreSettings) -> dict[str, bool]:
    plain = [url for url in (urlsplit(config.get(name, "")) for name in _ENDPOINTS) if url.scheme == "http"]
    for url in plain:
        if not {url.hostname, url.netloc} & set(settings.plain_http_hosts):
            raise ModelStoreError(
                f"{parsed}: the endpoint http://{url.netloc} is not encrypted; use https, "
                f"or add {url.hostname} to store.plain_http_hosts"
            )
    return {"allow_http": True} if plain else {}


def _file(name: str, meta: Any) -> RemoteFile:
    try:
        references.check_file_name(name)
    except ReferenceFormError as error:
        raise ModelStoreError(str(error)) from error
    return RemoteFile(name=name, size=meta["size"], etag=meta["e_tag"], locator=meta["path"])


def _silence(error: Exception, status: int | None) -> str:
    """Return how a store failed for now, in the same words at each try: the client tells milliseconds of each."""
    found = _URL.search(str(error))
    where = f"the object store at {found[1]}" if found else "the object store"
    return f"{where} answers {status}" if status is not None else f"{where} does not answer"


def _first_line(error: Exception) -> str:
    return _QUERY.sub("?***", str(error).partition("\n")[0].strip())


def _status(error: Exception) -> int | None:
    """Return the HTTP status that the client tells of in words only."""
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None
