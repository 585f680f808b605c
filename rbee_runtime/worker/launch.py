"""What a worker process shall serve: from the hive's spec file, or from options typed by hand."""

import argparse
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rbee_runtime import __version__, ports
from rbee_runtime.command_line import Parser
from rbee_runtime.errors import ConfigError, RbeeError
from rbee_runtime.link import Link, Role
from rbee_runtime.models.references import check_name
from rbee_runtime.protocol import WorkerLaunch, WorkerSpec, decode
from rbee_runtime.testing.fake_engine import parse_options

_CREDENTIALS = "$CREDENTIALS_DIRECTORY"
DEFAULT_ENGINE, _FAKE = "llama-cpp", "fake"
_LOOPBACK = "127.0.0.1"

TOKEN_VARIABLE = "RBEE_WORKER_TOKEN"  # noqa: S105 - the name of a variable
TOKEN_FILE_VARIABLE = f"{TOKEN_VARIABLE}_FILE"
CALLERS_TOKEN = f"${TOKEN_VARIABLE}"
"""As the token in a spec file: the one in that variable, or in the file that TOKEN_FILE_VARIABLE names."""

LEAST_TOKEN = 16
"""Characters of such a token, which a person has chosen: it may be all that stands between a port and a network."""

LEAST_CONTEXT, MOST_CONTEXT, MOST_SLOTS = 64, 1 << 22, 512
"""As the inventory has them."""

BY_HAND = "by-hand"
"""Worker id of a worker that no hive started."""


def parse_arguments(arguments: Sequence[str], environment: Mapping[str, str]) -> WorkerLaunch:
    """Return what to launch or raise ConfigError."""
    options = _parser().parse_args(arguments)
    if options.spec is not None:
        return read_spec(options.spec, environment)
    if options.model is None:
        _from_registry(options, environment)
    if options.model is None:
        raise ConfigError(
            "give --spec FILE, or --model PATH (or MODEL_REGISTRY and MODEL_NAME in the environment) to serve a model "
            "by hand; see rbee-worker --help"
        )
    try:
        return _by_hand(options)
    except (msgspec.ValidationError, RbeeError) as error:
        raise ConfigError(str(error)) from error


def _from_registry(options: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Take the model that MODEL_REGISTRY and MODEL_NAME name, fetched now; ConfigError says why that fails."""
    # Here, because a worker that a hive started has its model and need not load any client of a store.
    from rbee_runtime.models import registry  # noqa: PLC0415

    spec = registry.wanted(environment)
    if spec is None:
        return
    try:
        options.model = str(registry.fetch(spec, environment))
    except RbeeError as error:
        raise ConfigError(str(error)) from error
    options.name = options.name or spec.name


def read_spec(path: Path, environment: Mapping[str, str]) -> WorkerLaunch:
    """Return the spec file at `path`, with the service manager's folder and the token of `environment` put in."""
    try:
        launch = decode(path.read_bytes(), WorkerLaunch)
    except OSError as error:
        raise ConfigError(f"cannot read the worker spec {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f"the worker spec {path} is damaged: {error}; the hive writes it anew when told so"
        ) from error
    if not launch.tls_dir and not launch.token:
        raise ConfigError(f"the worker spec {path} has neither tls_dir nor token: nobody could call this worker")
    if launch.token == CALLERS_TOKEN:
        launch = msgspec.structs.replace(launch, token=_callers_token(environment))
    directory = environment.get("CREDENTIALS_DIRECTORY", "")
    if _CREDENTIALS in launch.tls_dir and not directory:
        raise ConfigError(f"{_CREDENTIALS} is not set, which {path} needs; start the worker by its unit")
    return msgspec.structs.replace(launch, tls_dir=launch.tls_dir.replace(_CREDENTIALS, directory))


def _callers_token(environment: Mapping[str, str]) -> str:
    token, file = environment.get(TOKEN_VARIABLE, ""), environment.get(TOKEN_FILE_VARIABLE, "")
    if file and not token:
        try:
            token = Path(file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "it has other characters than ASCII"
            raise ConfigError(f"cannot read the token in {file} ({TOKEN_FILE_VARIABLE}): {said}") from error
    if len(token) < LEAST_TOKEN or not (token.isascii() and token.isprintable()):
        raise ConfigError(
            f"this worker needs a token that its callers send as x-rbee-token: set {TOKEN_VARIABLE}, or "
            f"{TOKEN_FILE_VARIABLE} to a file, with {LEAST_TOKEN} or more printable ASCII characters"
        )
    return token


def link_of(launch: WorkerLaunch) -> Link:
    """Return the worker's credentials."""
    directory = Path(launch.tls_dir) if launch.tls_dir else None
    return Link(Role.WORKER, launch.fleet, directory, "" if directory else launch.token)


def _whole(name: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise ConfigError(f"--{name} is {value}: it must be a whole number from {least} to {most}")
    return value


def _engine(name: str, *, fake: bool) -> str:
    if fake and name not in ("", _FAKE):
        raise ConfigError(f"--engine is {name}: a fake: model is run by engine {_FAKE} alone; leave --engine out")
    return name or (_FAKE if fake else DEFAULT_ENGINE)


def _by_hand(options: argparse.Namespace) -> WorkerLaunch:
    fake = options.model.startswith("fake:")
    path = "" if fake else str(Path(options.model).absolute())
    settings: dict[str, Any] = parse_options(options.model.removeprefix("fake:")) if fake else {}
    spec = WorkerSpec(
        id=BY_HAND,
        model=check_name(options.name or ("fake" if fake else Path(path).stem)),
        engine=_engine(options.engine, fake=fake),
        context=_whole("context", options.context, LEAST_CONTEXT, MOST_CONTEXT),
        slots=_whole("slots", options.slots, 1, MOST_SLOTS),
        devices=tuple(options.device),
        options=settings | dict(_pair(text) for text in options.option),
    )
    return WorkerLaunch(
        worker=spec,
        host=_LOOPBACK,
        port=options.port,
        model_path=path,
        engine_dir=options.engine_dir,
        token=options.token or secrets.token_urlsafe(24),
    )


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"option {text!r} is not of the form key=value")
    return key, value


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="rbee-worker", description="Serve one model on loopback, or as a hive's spec file says.")
    parser.add_argument("--spec", type=Path, metavar="FILE", help="spec file written by the hive")
    parser.add_argument("--model", metavar="PATH", help="GGUF file, or fake:key=value,…")
    parser.add_argument("--name", default="", help="model name in requests (default: from the file name)")
    parser.add_argument("--engine", default="", help=f"engine (default: {DEFAULT_ENGINE}, of a fake: model fake)")
    parser.add_argument(
        "--engine-dir",
        default="",
        metavar="DIR",
        help="engine artefact, such as ~/.local/share/rbee/engines/<id> (default: installed packages)",
    )
    parser.add_argument("--port", type=int, default=ports.WORKER_PORTS[0], help="port on 127.0.0.1 (0: any free one)")
    parser.add_argument("--context", type=int, default=4096, help="tokens per sequence (default: 4096)")
    parser.add_argument("--slots", type=int, default=1, help="answers at a time (default: 1)")
    parser.add_argument("--device", action="append", default=[], help="device id; repeat for several (default: CPU)")
    parser.add_argument("--option", action="append", default=[], metavar="K=V", help="engine option; repeatable")
    parser.add_argument(
        "--token", default="", help="token that callers send as x-rbee-token (default: random, printed)"
    )
    parser.add_argument("--version", action="version", version=f"rbee {__version__}")
    return parser
