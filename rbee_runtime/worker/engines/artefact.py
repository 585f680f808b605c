"""Engine artefacts: directories with an `engine.json` and packages that a worker adds to its import path."""

import sys
from pathlib import Path

import msgspec

from rbee_runtime.errors import EngineLoadError
from rbee_runtime.protocol import decode
from rbee_runtime.states import ExitReason


class Artefact(msgspec.Struct, frozen=True):
    """`engine.json`; `python` is major.minor of the interpreter it was built for, `site` relative to its directory."""

    name: str
    version: str
    variant: str
    python: str
    site: str


def activate(directory: Path, name: str) -> Artefact:
    """Make the packages of the artefact importable, after the release's own; EngineLoadError when it does not fit."""
    artefact = _read(directory)
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if artefact.name != name:
        raise _missing(f"engine directory {directory} holds {artefact.name}, not {name}")
    if artefact.python != running:
        raise _missing(
            f"engine {directory.name} is built for Python {artefact.python}, this worker runs {running}; "
            "run the deploy again to build a matching one"
        )
    site = (directory / artefact.site).resolve()
    if not site.is_relative_to(directory.resolve()) or not site.is_dir():
        raise _missing(f"engine directory {directory} has no folder {artefact.site!r}; run the deploy again")
    # Not site.addsitedir: it would run the .pth files of every package in there.
    sys.path.append(str(site))
    return artefact


def _read(directory: Path) -> Artefact:
    try:
        return decode((directory / "engine.json").read_bytes(), Artefact)
    except OSError as error:
        raise _missing(
            f"no engine in {directory}: cannot read engine.json ({error.strerror}); run the deploy again"
        ) from error
    except msgspec.MsgspecError as error:
        raise _missing(f"engine.json in {directory} is damaged: {error}; run the deploy again") from error


def _missing(message: str) -> EngineLoadError:
    return EngineLoadError(message, reason=ExitReason.ENGINE_MISSING)
