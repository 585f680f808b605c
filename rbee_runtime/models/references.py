"""Names and sources of models: one strict grammar, so that a name is safe as a unit name, a path and a URL segment."""

import re
from dataclasses import dataclass
from enum import StrEnum

from rbee_runtime.errors import ReferenceFormError

_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(/[A-Za-z0-9][A-Za-z0-9._-]{0,63})?(:[A-Za-z0-9][A-Za-z0-9._-]{0,63})?"
)
_SLUG = re.compile(r"[^a-z0-9]+")


class Scheme(StrEnum):
    """Where a model comes from."""

    FILE = "file"
    FAKE = "fake"


@dataclass(frozen=True)
class Source:
    """A parsed source: `file:/absolute/path` or `fake:key=value,…`."""

    scheme: Scheme
    rest: str


def check_name(name: str) -> str:
    """Return `name` if it is a model name (`org/model:tag`, org and tag optional), else raise ReferenceFormError."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise ReferenceFormError(
            f"model name {name!r} is not allowed: use letters, digits, '.', '_' and '-', at most one '/' and one ':tag'"
        )
    return name


def slug(name: str) -> str:
    """Return a model name as a part of a worker id or file name: lower case, only [a-z0-9-], at most 40 characters."""
    return _SLUG.sub("-", name.lower()).strip("-")[:40].strip("-")


def parse_source(text: str) -> Source:
    """Return the parsed source or raise ReferenceFormError."""
    scheme, separator, rest = text.partition(":")
    known = ", ".join(f"{s.value}:…" for s in Scheme)
    if not separator or scheme not in set(Scheme):
        raise ReferenceFormError(f"model source {text!r} is not of a known form: use one of {known}")
    if scheme == Scheme.FILE and not rest.startswith("/"):
        raise ReferenceFormError(f"model source {text!r} needs an absolute path: write file:/absolute/path/model.gguf")
    return Source(Scheme(scheme), rest)
