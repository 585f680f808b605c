"""Names and sources of models: one strict grammar, so that a name is safe as a unit name, a path and a URL segment.

file:/absolute/path                 a file or a folder of this host
fake:key=value,…                    the built-in engine for trials, which has no files
hf:org/repo[@revision][:file-glob]  the Hugging Face hub or a mirror of it; several globs have | between them
https://host[:port]/path[#sha256=…] one file; http:// from the hosts that the store's settings name
s3://bucket/key-or-prefix           an object store; likewise gs:// and az://
oci://registry/repository[:tag]     an artefact or image in a registry, or [@sha256:…]
"""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote

from rbee_runtime.errors import ReferenceFormError

_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(/[A-Za-z0-9][A-Za-z0-9._-]{0,63})?(:[A-Za-z0-9][A-Za-z0-9._-]{0,63})?"
)
_USER = re.compile(r"//[^/?#]*@")
_SLUG = re.compile(r"[^a-z0-9]+")
_FILE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=,-]{0,199}")
_SIGNS = re.compile(
    r"(?i)x-(amz|goog|oss|cos|ms|obs|tos)-.*|(google|aws)access(key)?id|.*(signature|credential)|.*token|sig|signed"
    r"|expires?|expiry|policy|key-pair-id|api[-_]?key|auth(orization|[-_]?key)?|s[etprv]|spr|sip|sk(s|t|v|e|oid|tid)"
)
"""Parameters by which object stores and content networks sign a URL, or that are keys; none says which file it is."""

_HIDDEN = re.compile(r"\*\*\*[0-9a-f]*(#.*)?")
MAX_FILE_NAME = 255
MAX_SOURCE = 2048


class Scheme(StrEnum):
    """Where a model comes from."""

    FILE = "file"
    FAKE = "fake"
    HF = "hf"
    HTTPS = "https"
    HTTP = "http"
    S3 = "s3"
    GS = "gs"
    AZ = "az"
    OCI = "oci"


@dataclass(frozen=True)
class Source:
    """A parsed source: `rest` is what follows the scheme, the other fields are its parts.

    `place` is the repository (hf), bucket (s3, gs, az), host with port (https, http) or registry (oci); `path` the
    file glob (hf), key or prefix, path with query, or repository (oci); `revision` a branch, tag, commit or digest.
    `sha256` is what the reference itself says about the content.
    """

    scheme: Scheme
    rest: str
    place: str = ""
    path: str = ""
    revision: str = ""
    sha256: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}:{self.rest}"


_HEX = r"[0-9a-f]{64}"
_LABEL = r"[A-Za-z0-9][A-Za-z0-9-]{0,62}"
_HOST = rf"(?:{_LABEL}\.)*{_LABEL}\.?|\[[0-9A-Fa-f:.]+\]"
_PORT = r":0*(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_KEY = r"[A-Za-z0-9!_.*'()@=+,:;&$%~ -]+"
_REPOSITORY = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_OBJECT = re.compile(rf"//(?P<place>[A-Za-z0-9][A-Za-z0-9._-]{{1,62}})/(?P<path>{_KEY}(?:/{_KEY})*/?)")
_URL = re.compile(
    rf"//(?P<place>(?:{_HOST})(?:{_PORT})?)(?P<path>(?:/[A-Za-z0-9!$&'()*+,;=:@%_.~-]*)+(?:\?[A-Za-z0-9!$&'()*+,;=:@%_.~/?-]*)?)"
    rf"(?:#sha256=(?P<sha256>{_HEX}))?"
)

_FORMS: dict[Scheme, tuple[re.Pattern[str], str]] = {
    Scheme.FILE: (re.compile(r"(?P<path>/[^\0-\x1f]*)"), "file:/absolute/path/model.gguf"),
    Scheme.FAKE: (re.compile(r"[^\0-\x1f]*"), "fake:key=value,…"),
    Scheme.HF: (
        re.compile(
            rf"(?P<place>{_REPOSITORY})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{{0,127}}))?"
            r"(?::(?P<path>[A-Za-z0-9_*?\[][A-Za-z0-9_*?\[\]!.,+=/|-]{0,254}))?"
        ),
        "hf:org/repo, hf:org/repo@revision or hf:org/repo@revision:*Q4_K_M.gguf",
    ),
    Scheme.HTTPS: (_URL, "https://host/path/model.gguf or https://host/path/model.gguf#sha256=<64 hex digits>"),
    Scheme.HTTP: (_URL, "http://host/path/model.gguf, its host named in the store's plain_http_hosts"),
    Scheme.S3: (_OBJECT, "s3://bucket/key.gguf or s3://bucket/folder/"),
    Scheme.GS: (_OBJECT, "gs://bucket/key.gguf or gs://bucket/folder/"),
    Scheme.AZ: (_OBJECT, "az://container/key.gguf or az://container/folder/"),
    Scheme.OCI: (
        re.compile(
            rf"//(?P<place>(?:{_HOST})(?:{_PORT})?)/(?P<path>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
            rf"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}})|@(?P<digest>sha256:{_HEX}))?"
        ),
        "oci://registry/repository:tag or oci://registry/repository@sha256:<64 hex digits>",
    ),
}


def check_name(name: str) -> str:
    """Return `name` if it is a model name (`org/model:tag`, org and tag optional), else raise ReferenceFormError."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise ReferenceFormError(
            f"model name {name[:100]!r} is not allowed: use letters, digits, '.', '_' and '-', "
            "at most one '/' and one ':tag'"
        )
    return name


def check_file_name(name: str) -> str:
    """Return a relative file name that is safe in a folder of ours, or raise ReferenceFormError."""
    parts = name.split("/")
    fits = len(name) <= MAX_FILE_NAME and len(parts) <= 4 and all(_FILE_PART.fullmatch(part) for part in parts)
    if not fits or ".." in name:
        raise ReferenceFormError(
            f"file name {name[:100]!r} is not allowed: use letters, digits and '._+=,-', at most three folders deep"
        )
    return name


def shown(text: str) -> str:
    """Return a source for a sentence: without user and password, and without a query, which may be a signature."""
    bare = _USER.sub("//***@", text[:MAX_SOURCE])
    plain, mark, _ = bare.partition("?")
    return f"{plain}?***" if mark and "//" in plain else bare


def identity(source: str) -> str:
    """Return what a source is known by on disk and in answers: without anything secret, and the same for one content.

    Of a query only a hash stays, made without what signs it: a new signature of the same URL is the same source. Given
    its own result, it returns that.
    """
    if not source.startswith(("https://", "http://")):
        return source
    bare, mark, query = _USER.sub("//***@", source).partition("?")
    if not mark or _HIDDEN.fullmatch(query):
        return bare + mark + query
    query, hashed, fragment = query.partition("#")
    kept = sorted(part for part in query.split("&") if not _SIGNS.fullmatch(unquote(part.partition("=")[0])))
    digest = hashlib.sha256("&".join(kept).encode()).hexdigest()[:16] if kept else ""
    return f"{bare}?***{digest}{hashed}{fragment}"


def slug(name: str) -> str:
    """Return a model name as a part of a worker id or file name: lower case, only [a-z0-9-], at most 40 characters."""
    return _SLUG.sub("-", name.lower()).strip("-")[:40].strip("-")


def parse_source(text: str) -> Source:
    """Return the parsed source or raise ReferenceFormError."""
    scheme, separator, rest = text.partition(":")
    if not separator or scheme not in set(Scheme):
        known = ", ".join(f"{s.value}:…" for s in Scheme)
        raise ReferenceFormError(f"model source {shown(text)[:100]!r} is not of a known form: use one of {known}")
    if scheme == Scheme.FILE and not rest.startswith("/"):
        raise ReferenceFormError(
            f"model source {shown(text)[:200]!r} needs an absolute path: write file:/absolute/path"
        )
    pattern, form = _FORMS[Scheme(scheme)]
    found = pattern.fullmatch(rest) if len(text) <= MAX_SOURCE else None
    if found is None or (scheme not in {Scheme.FILE, Scheme.FAKE} and _climbs(rest)):
        raise ReferenceFormError(f"model source {shown(text)[:200]!r} is not allowed: write {form}")
    parts = {key: value or "" for key, value in found.groupdict().items()}
    revision = parts.pop("tag", "") or parts.pop("digest", "") or parts.pop("revision", "")
    return Source(
        Scheme(scheme),
        rest,
        place=parts.get("place", ""),
        path=parts.get("path", ""),
        revision=revision,
        sha256=parts.get("sha256", ""),
    )


def _climbs(rest: str) -> bool:
    """Say whether a path has `..` as a part, written plainly or percent-encoded once or twice."""
    return any(part in {".", ".."} for part in unquote(unquote(rest)).replace("\\", "/").split("/"))
