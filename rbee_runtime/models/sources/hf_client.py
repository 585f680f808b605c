"""The hub's own client, with our manners: no token but ours, bounded waits, no report about this machine."""

import asyncio
import difflib
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rbee_runtime import __version__
from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.sources.addresses import is_named
from rbee_runtime.models.threads import SOURCES

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LIST_SECONDS = 30.0
"""The hub lists its largest repositories in a few seconds."""

NEAR_SECONDS = 5.0
"""A refusal does not wait longer for a better message."""

_LOOKED_AT = 200
_NAMED = 2


def client(settings: StoreSettings, token: str) -> "HfApi":
    """Return a client of the hub that the settings (or `HF_ENDPOINT`) name; "" as token asks as a stranger."""
    from huggingface_hub import HfApi, constants, get_session  # noqa: PLC0415 - see the package

    # Its reports would also be fetched for: a list of programs to look for, from the public hub.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    get_session().timeout = LIST_SECONDS
    endpoint = (settings.hf_endpoint or constants.ENDPOINT).rstrip("/")
    _check(endpoint, settings)
    return HfApi(endpoint=endpoint, token=token or False, library_name="rbee", library_version=__version__)


async def near_revisions(api: "HfApi", repository: str, revision: str) -> tuple[str, ...]:
    """Return branches and tags that look like `revision`, else the first ones."""

    def ask() -> tuple[str, ...]:
        refs = api.list_repo_refs(repository)
        return _like(revision, [ref.name for ref in (*refs.branches, *refs.tags)], cutoff=0.0)

    return await _soon(ask)


async def near_repositories(api: "HfApi", repository: str) -> tuple[str, ...]:
    """Return repositories of the same owner that look like this one."""

    def ask() -> tuple[str, ...]:
        models = islice(api.list_models(author=repository.partition("/")[0], limit=_LOOKED_AT), _LOOKED_AT)
        return _like(repository, [model.id for model in models], cutoff=0.6)

    return await _soon(ask)


async def _soon(ask: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    try:
        return await asyncio.wait_for(SOURCES.run(ask), NEAR_SECONDS)
    except Exception:  # noqa: BLE001 - whatever it was, the refusal itself is what counts
        return ()


def _like(wanted: str, names: list[str], *, cutoff: float) -> tuple[str, ...]:
    return tuple(difflib.get_close_matches(wanted, names, n=_NAMED, cutoff=cutoff))


def _check(endpoint: str, settings: StoreSettings) -> None:
    url = urlsplit(endpoint)
    if url.scheme == "https" and url.hostname:
        return
    if url.scheme != "http" or not is_named(url.hostname or "", url.port or 80, settings.plain_http_hosts):
        raise ModelStoreError(
            f"the hub at {endpoint} is not asked without TLS: use https, or add its host to store.plain_http_hosts"
        )
