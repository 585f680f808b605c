"""The file that turns pictures into what a model reads: one of those beside it."""

from pathlib import Path

from rbee_runtime.errors import EngineLoadError, ModelStoreError
from rbee_runtime.models import gguf
from rbee_runtime.models.gguf import GgufFile
from rbee_runtime.states import ExitReason

MOST_FILES = 64
"""Of a folder: one with more is a person's collection, in which nothing is guessed."""


def beside(model: Path) -> Path | None:
    """Return the projector for a GGUF model that lies in its folder, or None.

    EngineLoadError where several fit: a wrong one gives answers about pictures that nobody sent.
    """
    try:
        files = [path for path in sorted(model.parent.glob("*.gguf")) if path.name != model.name][: MOST_FILES + 1]
        width = _width(gguf.read(model)) if files else 0
    except (OSError, ModelStoreError):
        # What is wrong with the model is said by whoever loads it.
        return None
    fitting = [path for path in files if _fits(path, width)] if len(files) <= MOST_FILES else []
    if len(fitting) > 1:
        shown = ", ".join(path.name for path in fitting)
        raise EngineLoadError(
            f"several projectors for pictures lie beside {model.name} ({shown}); name one by the option projector",
            reason=ExitReason.BAD_CONFIG,
        )
    return fitting[0] if fitting else None


def _fits(path: Path, width: int) -> bool:
    try:
        file = gguf.read(path)
    except ModelStoreError:
        return False
    sizes = {file.metadata.get(f"clip.{kind}.projection_dim") for kind in ("vision", "audio")}
    return file.metadata.get("general.architecture") == "clip" and width in sizes


def _width(file: GgufFile) -> int:
    found = file.metadata.get(f"{file.metadata.get('general.architecture')}.embedding_length")
    return found if isinstance(found, int) else 0
