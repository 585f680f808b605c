"""The check that every model passes before it counts as held: what it is, that it is whole, that it is no program.

A file's first bytes decide over its name. Pickles run code when they are loaded and need the owner's word.
"""

import re
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from pathlib import Path, PurePosixPath

from rbee_runtime.errors import ModelFormatError, ModelStoreError
from rbee_runtime.models import gguf, gguf_facts, safetensors_facts
from rbee_runtime.models.facts import Format, ModelFacts
from rbee_runtime.models.gguf import GgufFile
from rbee_runtime.models.gguf_parts import gather

__all__ = ["Format", "ModelFacts", "inspect"]

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

_ZIP = b"PK\x03\x04"
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_HEAD = 16


class _Kind(Enum):
    GGUF = auto()
    SAFETENSORS = auto()
    PICKLE = auto()
    OTHER = auto()


def inspect(files: Sequence[tuple[str, Path]], *, allow_pickle: bool = False) -> ModelFacts:
    """Return the facts of the model that the files make up, each (name, where its content is).

    Raises ModelFormatError with one sentence if they are not exactly one whole model of a known format, or have
    pickles without leave.
    """
    kinds = {name: _kind(name, path) for name, path in files}
    if len(kinds) < len(files):
        raise ModelFormatError("a model has two files of one name; name each file once")
    paths = dict(files)
    found = {kind: {name: paths[name] for name in kinds if kinds[name] is kind} for kind in _Kind}
    if found[_Kind.PICKLE] and not allow_pickle:
        raise _refusal(min(found[_Kind.PICKLE]))
    if found[_Kind.GGUF]:
        return _gguf(found[_Kind.GGUF])
    if found[_Kind.SAFETENSORS]:
        return safetensors_facts.facts_of(_folder(paths, found[_Kind.SAFETENSORS]))
    if found[_Kind.PICKLE]:
        weights = found[_Kind.PICKLE]
        return safetensors_facts.pickle_facts(_folder(paths, weights), _folder(weights, weights))
    shown = ", ".join(sorted(paths)[:3]) or "nothing"
    raise ModelFormatError(f"no weights are among the files ({shown}); GGUF and safetensors models are served")


def _refusal(name: str) -> ModelFormatError:
    return ModelFormatError(
        f"{name} is a pickle, which runs its own code when it is loaded; use safetensors or GGUF weights (a glob in "
        "the source leaves files out), or set store.allow_pickle in hive.yaml if you trust its maker"
    )


def _kind(name: str, path: Path) -> _Kind:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise ModelStoreError(f"cannot read {name}: {error.strerror}") from error
    low = name.lower()
    if head.startswith(gguf.MAGIC):
        return _Kind.GGUF
    # The length of a safetensors header may look like the first bytes of a pickle; its brace does not.
    if head[8:9] == b"{" and low.endswith(".safetensors"):
        return _Kind.SAFETENSORS
    if head.startswith(_ZIP) or _PICKLE.match(head) or low.endswith(PICKLE_SUFFIXES):
        return _Kind.PICKLE
    if low.endswith(".gguf"):
        return _Kind.GGUF
    return _Kind.SAFETENSORS if low.endswith(".safetensors") else _Kind.OTHER


def _gguf(paths: Mapping[str, Path]) -> ModelFacts:
    files = [gguf.read(path, name) for name, path in sorted(paths.items())]
    weights = [file for file in files if _role(file) == "model"]
    models = gather(weights)
    if not models:
        raise ModelFormatError(
            f"{files[0].name} is a GGUF {_role(files[0])}, not a model; add the model that it is for"
        )
    if len(models) > 1:
        shown = ", ".join(parts[0].name for parts in models[:6])
        raise ModelFormatError(
            f"the files are {len(models)} models ({shown}); name one of them by a glob in the source"
        )
    projectors = sum(file.tensor_bytes for file in files if _role(file) == "mmproj")
    return gguf_facts.facts_of(models[0], projectors)


def _role(file: GgufFile) -> str:
    if file.metadata.get("general.architecture") == "clip":
        return "mmproj"
    role = file.metadata.get("general.type", "model")
    return role if role in {"mmproj", "adapter", "imatrix"} else "model"


def _folder(paths: Mapping[str, Path], weights: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files of the topmost folder that holds weights, by their names in it."""
    folder = min((PurePosixPath(name).parent for name in weights), key=lambda path: (len(path.parts), str(path)))
    return {PurePosixPath(name).name: path for name, path in paths.items() if PurePosixPath(name).parent == folder}
