"""The file that turns pictures into what a model reads: one of those beside it."""

import re
from pathlib import Path

from rbee_runtime import logs
from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models import gguf
from rbee_runtime.models.gguf import GgufFile

_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf\Z")
MOST_FILES = 64
"""Of a folder: one with more is a person's collection, in which nothing is guessed."""


def beside(model: Path) -> Path | None:
    """Return the projector for a GGUF model that lies in its folder, or None.

    None too where another model lies there, which it may belong to, and where several fit, which the log tells: a wrong
    one gives answers about pictures that nobody sent.
    """
    try:
        own = gguf.read(model)
        paths = [path for path in sorted(model.parent.glob("*.gguf")) if path.name != model.name]
        files = [(path, gguf.read(path)) for path in paths if not _is_part(path)] if len(paths) <= MOST_FILES else []
    except (OSError, ModelStoreError):
        # What is wrong with the model is said by whoever loads it; beside a damaged file nothing is guessed.
        return None
    if any(file.metadata.get("general.architecture") != "clip" for _, file in files):
        return None
    fitting = [path for path, file in files if _width(own) in _sizes(file)]
    if len(fitting) > 1:
        shown = ", ".join(path.name for path in fitting)
        logs.warning("projector_not_chosen", files=shown, detail="several fit this model; name one by option projector")
    return fitting[0] if len(fitting) == 1 else None


def _is_part(path: Path) -> bool:
    return _PART.search(path.name) is not None


def _sizes(file: GgufFile) -> set[object]:
    return {file.metadata.get(f"clip.{kind}.projection_dim") for kind in ("vision", "audio")}


def _width(file: GgufFile) -> int:
    found = file.metadata.get(f"{file.metadata.get('general.architecture')}.embedding_length")
    return found if isinstance(found, int) else 0
