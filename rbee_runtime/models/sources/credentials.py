"""Secrets that sources of models ask for, from files in one folder; none of them is ever printed.

`hf-token` holds a Hugging Face token, `object-store.env` lines `AWS_ACCESS_KEY_ID=…`, `registry-auth.json` what
`podman login` writes: `{"auths": {"registry": {"auth": "<base64 of user:password>"}}}`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from rbee_runtime.errors import ConfigError
from rbee_runtime.protocol import decode

HF_TOKEN = "hf-token"  # noqa: S105 - the name of a file
OBJECT_STORE = "object-store.env"
REGISTRIES = "registry-auth.json"

_TOKEN = re.compile(r"[!-~]+")
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


@dataclass(frozen=True)
class Credentials:
    """`objects` are settings by the names that environments use, `registries` base64 `user:password` by host."""

    hf_token: str = field(default="", repr=False)
    objects: Mapping[str, str] = field(default_factory=dict, repr=False)
    registries: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, folder: Path | None) -> Self:
        """Return what the folder holds; a missing file means none, a damaged one raises ConfigError."""
        if folder is None:
            return cls()
        return cls.parse({name: _text(folder / name) for name in (HF_TOKEN, OBJECT_STORE, REGISTRIES)}, folder)

    @classmethod
    def parse(cls, texts: Mapping[str, str], folder: Path = Path()) -> Self:
        """Return what the texts of those files say, by their names; `folder` is for sentences."""
        return cls(
            hf_token=texts.get(HF_TOKEN, "").strip(),
            objects=_pairs(texts.get(OBJECT_STORE, ""), folder / OBJECT_STORE),
            registries=_auths(texts.get(REGISTRIES, ""), folder / REGISTRIES),
        )


def check(name: str, text: str) -> None:
    """Raise ConfigError unless `text` is what the file `name` may hold; nothing of it is repeated."""
    if name == OBJECT_STORE:
        _pairs(text, name)
    elif name == REGISTRIES:
        _auths(text, name)
    elif not _TOKEN.fullmatch(text.strip()):
        raise ConfigError(f"the credential {name} is not one word of plain characters")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the credential {path}: {error}") from error


def _pairs(text: str, where: Path | str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise ConfigError(f"the credential {where}, line {number}, is not NAME=value")
        pairs[found[1]] = found[2].strip("'\"")
    return pairs


def _auths(text: str, where: Path | str) -> dict[str, str]:
    if not text:
        return {}
    try:
        auths: dict[str, Any] = decode(text, dict[str, Any]).get("auths", {})
        return {host: str(entry["auth"]) for host, entry in auths.items() if "auth" in entry}
    except (msgspec.MsgspecError, AttributeError, TypeError) as error:
        raise ConfigError(f"the credential {where} is not the file that `podman login` writes") from error
