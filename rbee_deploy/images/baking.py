"""Images of workers with one model inside: what goes into them, and the launch file by which they serve it."""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rbee_deploy.artefacts import file_sha256
from rbee_deploy.errors import ArtefactError
from rbee_deploy.images import context
from rbee_deploy.images.kinds import ENGINES_INSIDE, Kind
from rbee_runtime import ports
from rbee_runtime.errors import ModelStoreError, ReferenceFormError
from rbee_runtime.models import formats
from rbee_runtime.models.facts import Format
from rbee_runtime.models.references import check_name
from rbee_runtime.protocol import WorkerLaunch, WorkerSpec, encode
from rbee_runtime.worker.launch import CALLERS_TOKEN

WORKER = Kind.WORKER_LLAMA_CPP
CONTAINERFILE = "Containerfile.model"
LAUNCH = "launch.json"

_SLUG = re.compile(r"[^a-z0-9.]+")
_MOST = 64
"""Characters of a model in a tag; a whole one has 128 at most."""


@dataclass(frozen=True)
class Baked:
    """A model to be put into an image: the name in requests, a GGUF file and its hash."""

    name: str
    file: Path
    sha256: str

    @property
    def slug(self) -> str:
        """Return the name as a part of tags and files."""
        return _SLUG.sub("-", self.name.lower()).strip("-.")[:_MOST]

    @property
    def inside(self) -> str:
        """Return the name of the file in the image."""
        return f"sha256-{self.sha256}.gguf"


def asked(text: str) -> Baked:
    """Return the model that `NAME=FILE` names, or raise ArtefactError."""
    name, separator, path = text.partition("=")
    if not separator or not path:
        raise ArtefactError(f"--bake {text!r} is not of the form NAME=FILE.gguf, as in smollm2=/srv/smollm2.gguf")
    file = Path(path).expanduser().absolute()
    try:
        check_name(name)
        facts = formats.inspect([(file.name, file)])
        if facts.format is not Format.GGUF:
            raise ArtefactError(f"--bake {name}: {file} is of the format {facts.format}; give one whole GGUF file")
        return Baked(name, file, file_sha256(file))
    except ReferenceFormError as error:
        raise ArtefactError(f"--bake {text!r}: {error}") from error
    except ModelStoreError as error:
        raise ArtefactError(f"--bake {name}: {file} cannot be served: {error}") from error
    except OSError as error:
        raise ArtefactError(f"--bake {name}: cannot read {file}: {error.strerror}; correct the path") from error


def check_apart(models: Sequence[Baked]) -> None:
    """Raise ArtefactError for two models whose images would have one tag."""
    names: dict[str, str] = {}
    for model in models:
        if model.slug in names:
            raise ArtefactError(
                f"--bake names {names[model.slug]!r} and {model.name!r}, which are the same in a tag: rename one"
            )
        names[model.slug] = model.name


def write(folder: Path, baked: Baked, engine: str) -> None:
    """Fill an empty folder from which the image is built; `engine` is the folder of the engine in the worker's."""
    shutil.copyfile(context.containerfile(CONTAINERFILE), folder / CONTAINERFILE)
    (folder / LAUNCH).write_bytes(encode(launch(baked, engine)))
    models = folder / "models"
    models.mkdir()
    try:
        os.link(baked.file.resolve(), models / baked.inside)
    except OSError:
        # Another file system, or a file that this user may read and not link.
        shutil.copyfile(baked.file, models / baked.inside)


def launch(baked: Baked, engine: str) -> WorkerLaunch:
    """Return how a container of the image serves the model where nobody mounts another launch file over this."""
    return WorkerLaunch(
        worker=WorkerSpec(id="baked", model=baked.name, engine=WORKER.engine),
        host="0.0.0.0",  # noqa: S104 - inside a container; whoever starts it publishes the port or not
        port=ports.WORKER_PORTS[0],
        model_path=str(ports.PREFIX / "models" / baked.inside),
        engine_dir=str(ENGINES_INSIDE / engine),
        token=CALLERS_TOKEN,
    )
