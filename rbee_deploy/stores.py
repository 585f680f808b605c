"""How models come to a host and how much disk they may take: what the inventory says of a hive's store."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from rbee_deploy import _fields as check
from rbee_runtime.config import StoreSettings

_DEFAULT = StoreSettings()
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


def _endpoint(value: object) -> str:
    if "@" in check.text(value):
        raise check.ExposedError("has a user in it: leave it out, and give a token as hf_token")
    url = urlsplit(str(value))
    # A port that is none raises ValueError, which is told as this is.
    bare = url.scheme in {"https", "http"} and url.hostname and url.port != 0 and not (url.query or url.fragment)
    if not bare or re.search(r"\s", str(value)):
        raise check.UnfitError("it must be the address of a hub, such as 'https://hub.example'")
    return str(value).rstrip("/")


def _named_hosts(value: object) -> tuple[str, ...]:
    named = check.words(value)
    wrong = next((name for name in named if not _NAMED.fullmatch(name)), None)
    if wrong is not None:
        raise check.UnfitError(f"{wrong!r} must be a host or host:port, without http:// and path")
    return named


@dataclass(frozen=True)
class Store:
    """The model store of one or more hosts.

    `quota` is what all models may take (None: no limit), `spare` what stays free of the disk; both in bytes. `offline`
    forbids to fetch from anywhere but other hives. `hf_endpoint` is a mirror of the hub. `plain_http_hosts` may be
    fetched from without TLS and at private addresses. `hf_caches` are Hugging Face caches on the host whose files are
    used where they lie. `allow_pickle` admits weights that are programs.
    """

    quota: int | None = check.setting(check.size(1), default=None)
    spare: int = check.setting(check.size(0), default=_DEFAULT.spare)
    offline: bool = check.setting(check.flag, default=_DEFAULT.offline)
    hf_endpoint: str | None = check.setting(_endpoint, default=None)
    plain_http_hosts: tuple[str, ...] = check.setting(_named_hosts, default=())
    hf_caches: tuple[str, ...] = check.setting(check.host_paths, default=())
    allow_pickle: bool = check.setting(check.flag, default=_DEFAULT.allow_pickle)

    def settings(self) -> dict[str, Any]:
        """Return what the hive has to be told: what is not as it does by itself."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in given.items() if value is not None and value != getattr(_DEFAULT, name)}

    def allows_plain_http(self, url: str) -> bool:
        """Say whether `url` needs TLS and has it, or is of a host that is named here."""
        # Loads a client of HTTP, which inventories without such an address do without.
        from rbee_runtime.models.sources.addresses import is_named  # noqa: PLC0415

        parts = urlsplit(url)
        return parts.scheme != "http" or is_named(parts.hostname or "", parts.port or 80, self.plain_http_hosts)
