"""Engine artefacts: directories with an `engine.json`, and packages or a program that a worker makes use of."""

import sys
from pathlib import Path

import msgspec

from rbee_runtime.errors import EngineLoadError
from rbee_runtime.protocol import decode
from rbee_runtime.states import ExitReason


class Artefact(msgspec.Struct, frozen=True):
    """`engine.json`; paths in it are relative to its directory.

    `python` is major.minor of the interpreter that the packages in `site` were built for. `program` starts it: the
    server itself, or an interpreter that has the packages installed. `command`, `ready`, `environment` and `model` are
    those of a server that is known by nothing else: see engines/served/command.py.
    """

    name: str
    version: str
    variant: str = ""
    python: str = ""
    site: str = ""
    program: str = ""
    command: tuple[str, ...] = ()
    ready: str = "/health"
    environment: dict[str, str] = {}
    model: str = ""


def activate(directory: Path, name: str) -> Artefact:
    """Make the packages of the artefact importable, after the release's own; EngineLoadError when it does not fit."""
    artefact = read(directory, name)
    # Not site.addsitedir: it would run the .pth files of every package in there.
    sys.path.append(str(packages(directory, artefact)))
    return artefact


def read(directory: Path, name: str) -> Artefact:
    """Return what the directory holds; EngineLoadError where that is not the engine of this name."""
    artefact = _read(directory)
    if artefact.name != name:
        raise missing(f"engine directory {directory} holds {artefact.name}, not {name}")
    return artefact


def packages(directory: Path, artefact: Artefact) -> Path:
    """Return the folder of the artefact's packages; EngineLoadError where this interpreter cannot use them."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if artefact.python != running:
        raise missing(
            f"engine {directory.name} is built for Python {artefact.python}, this worker runs {running}; "
            "run the deploy again to build a matching one"
        )
    site = (directory / artefact.site).resolve()
    if not artefact.site or not site.is_relative_to(directory.resolve()) or not site.is_dir():
        raise missing(f"engine directory {directory} has no folder {artefact.site!r}; run the deploy again")
    return site


def _read(directory: Path) -> Artefact:
    try:
        return decode((directory / "engine.json").read_bytes(), Artefact)
    except OSError as error:
        raise missing(
            f"no engine in {directory}: cannot read engine.json ({error.strerror}); run the deploy again"
        ) from error
    except msgspec.MsgspecError as error:
        raise missing(f"engine.json in {directory} is damaged: {error}; run the deploy again") from error


def missing(message: str) -> EngineLoadError:
    """Return the error of an engine that is not there."""
    return EngineLoadError(message, reason=ExitReason.ENGINE_MISSING)
