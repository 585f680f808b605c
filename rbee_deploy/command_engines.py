"""Servers of OpenAI's API that run as engines of workers: as the inventory describes them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rbee_deploy import _fields as check

PLACEHOLDERS = ("model", "folder", "name", "socket", "port", "key", "context", "slots", "engine")
"""What a worker puts in; see rbee_runtime/worker/engines/served/command.py."""

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z][a-z0-9]*)*")
_VERSION = re.compile(r"[0-9][A-Za-z0-9._+]{0,30}")
_OURS = ("fake", "llama-cpp", "llama-server", "vllm")


def _name(value: object) -> str:
    name = check.text(value)
    if not _NAME.fullmatch(name) or len(name) > 40:
        raise check.UnfitError("it must be a word of small letters and digits, such as 'sglang' or 'whisper-server'")
    if name in _OURS:
        raise check.UnfitError(f"{name!r} is an engine of rbee; choose another name")
    return name


def _version(value: object) -> str:
    version = check.text(value)
    if not _VERSION.fullmatch(version):
        raise check.UnfitError("it must begin with a digit, such as '0.5.1'")
    return version


def _command(value: object) -> tuple[str, ...]:
    words = check.words(value)
    if not words:
        raise check.UnfitError("it must be a list of words, the program first")
    unknown = [name for word in words for name in _PLACEHOLDER.findall(word) if name not in PLACEHOLDERS]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise check.UnfitError(f"{{{unknown[0]}}} is none of {known}")
    if not any(place in word for word in words for place in ("{port}", "{socket}")):
        raise check.UnfitError("it must say where the server listens: {socket}, or {port} on 127.0.0.1")
    return words


def _path(value: object) -> str:
    path = check.text(value)
    if not path.startswith("/"):
        raise check.UnfitError("it must be a path such as '/health'")
    return path


def _environment(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for pair in value.items() for each in pair):
        raise check.UnfitError("it must be a dict of texts by names of variables")
    return dict(value)


@dataclass(frozen=True)
class CommandEngine:
    """One server: hosts name it in `engines`, models by `engine`.

    `command` is the program and its words, in which a worker puts `{model}` (file or folder), `{folder}`, `{name}`
    (what requests call the model), `{socket}` or `{port}` (where to listen), `{key}` (what it is asked with on a port),
    `{context}`, `{slots}` and `{engine}` (the folder of engine.json). `ready` answers 200 once it serves; `model` is
    the server's own name for its model where it takes none. The program has to be on the host.
    """

    name: str = check.setting(_name)
    command: tuple[str, ...] = check.setting(_command)
    version: str = check.setting(_version, default="1")
    ready: str = check.setting(_path, default="/health")
    environment: Mapping[str, str] = check.setting(_environment, default_factory=dict)
    model: str | None = check.setting(check.text, default=None)

    def manifest(self) -> dict[str, Any]:
        """Return what its engine.json says."""
        return {
            "name": self.name,
            "version": self.version,
            "variant": "command",
            "command": list(self.command),
            "ready": self.ready,
            "environment": dict(self.environment),
            "model": self.model or "",
        }
