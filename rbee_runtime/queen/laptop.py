"""The queen without a fleet: loopback, a kept token, a hive in the same process, everything under the user's folder."""

import secrets
from dataclasses import dataclass
from pathlib import Path

import yaml

from rbee_runtime import durable
from rbee_runtime.config import FleetFile, FleetHive, FleetModel, HiveConfig, QueenConfig, Section
from rbee_runtime.errors import ConfigError, ReferenceFormError
from rbee_runtime.models.references import Scheme, check_name, parse_source
from rbee_runtime.queen import fleet
from rbee_runtime.queen.keys import Keys
from rbee_runtime.queen.records import Priority, Scope
from rbee_runtime.worker.engines import options as engine_options

HIVE_NAME = "local"
LOOPBACK = "127.0.0.1"
TOKEN_FILE = "link-token"  # noqa: S105 - the name of the file
KEY_FILE = "api-key"
_LOAD_WAIT = 600.0
"""A laptop reads a big model slowly, and nobody else waits."""


@dataclass(frozen=True)
class Setup:
    """Files of a laptop's queen."""

    queen_file: Path
    hive_file: Path
    config: QueenConfig


def prepare(root: Path, engines_dir: Path, port: int, models: list[str]) -> Setup:
    """Write the settings of queen, hive and fleet under `root` and return where they are, or raise ConfigError."""
    declared = FleetFile(hives=(FleetHive(name=HIVE_NAME),), models=tuple(parse_model(text) for text in models))
    fleet.check(declared, where="--model")
    _check_engines(declared, engines_dir)
    state = root / "queen"
    config = QueenConfig(
        address=LOOPBACK,
        port=port,
        link_port=port + 1 if port else 0,
        state_dir=state,
        run_dir=root / "run" / "queen",
        fleet_file=state / "fleet.yaml",
    )
    hive = HiveConfig(
        name=HIVE_NAME,
        address=LOOPBACK,
        port=0,
        advertise=LOOPBACK,
        state_dir=root / "hive",
        run_dir=root / "run" / "hive",
        models_dir=root / "models",
        engines_dir=engines_dir,
        launcher="process",
    )
    setup = Setup(state / "queen.yaml", state / "hive.yaml", config)
    for path, section in ((setup.queen_file, config), (setup.hive_file, hive), (config.fleet_file, declared)):
        durable.write(path, _yaml(section))
    return setup


def with_model(declared: FleetFile, text: str, engines_dir: Path) -> FleetFile:
    """Return the fleet with one more model, written as `--model` has it, or raise ConfigError."""
    grown = declared.model_copy(update={"models": (*declared.models, parse_model(text))})
    fleet.check(grown, where="--model")
    _check_engines(grown, engines_dir)
    return grown


def write_fleet(path: Path, declared: FleetFile) -> None:
    """Have the queen serve these models from its next look at the file on."""
    durable.write(path, _yaml(declared))


def _check_engines(declared: FleetFile, engines_dir: Path) -> None:
    """Raise ConfigError for a model whose engine is not there: nothing would ever come of it on this machine."""
    from rbee_runtime.hive import engines  # noqa: PLC0415 - a queen of a fleet has no hive and no devices

    found = engines.installed(engines_dir, engines.this_host(None))
    for model in declared.models:
        if model.engine not in found.usable:
            said = found.unfit.get(model.engine, f"there is no engine {model.engine} in {engines_dir}")
            raise ConfigError(
                f"--model {model.name}={model.source}: {said}; name a folder that has it with --engines-dir, "
                f"install it beside rbee (pip install 'rbee[{model.engine}]'), "
                "or try a model that needs none, such as --model demo=fake:tokens=5"
            )


def parse_model(text: str) -> FleetModel:
    """Return the model of one `--model NAME=SOURCE` or raise ConfigError."""
    name, separator, written = text.partition("=")
    if not separator:
        raise ConfigError(f"--model {text!r} has no source: write --model NAME=file:/absolute/path.gguf")
    try:
        source = parse_source(written)
        check_name(name)
        engine = "fake" if source.scheme is Scheme.FAKE else "llama-cpp"
        engine_options.check(engine, written, {})
    except (ReferenceFormError, ConfigError) as error:
        raise ConfigError(f"--model {text!r}: {error}") from error
    if source.scheme is Scheme.FILE and not Path(source.rest).is_file():
        raise ConfigError(f"--model {text!r}: there is no file {source.rest}")
    return FleetModel(name=name, source=written, engine=engine, each_host=True, load_wait=_LOAD_WAIT)


def token(state_dir: Path) -> str:
    """Return the token of this state directory; made once, so that a later queen can still call running workers."""
    path = state_dir / TOKEN_FILE
    if not path.exists():
        durable.write(path, secrets.token_urlsafe(32).encode())
    return path.read_text(encoding="ascii").strip()


def first_key(keys: Keys, state_dir: Path) -> str:
    """Return a new key and keep it in a file (0600) if there is none at all yet, else an empty string."""
    if keys.active():
        return ""
    _, key = keys.create("laptop", Scope, priority=Priority.INTERACTIVE)
    durable.write(state_dir / KEY_FILE, f"{key}\n".encode())
    return key


def banner(port: int, key: str, state_dir: Path, models: list[str]) -> str:
    """Return what a person sees when the queen is up."""
    url = f"http://{LOOPBACK}:{port}/v1"
    shown = key or f"$(cat {state_dir / KEY_FILE})"
    body = f'{{"model": "{models[0] if models else "MODEL"}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    lines = [
        f"OpenAI-compatible endpoint: {url}",
        f"API key: {key} (kept in {state_dir / KEY_FILE})" if key else f"API key: in {state_dir / KEY_FILE}",
        "Try it:",
        f'  curl {url}/chat/completions -H "Authorization: Bearer {shown}" \\',
        f"    -H 'Content-Type: application/json' -d '{body}'",
        *([] if models else ["It has no model yet: rbee-keeper chat --model file:/path.gguf"]),
        "Ctrl-C ends it with its workers.",
    ]
    return "\n".join(lines)


def _yaml(section: Section) -> bytes:
    values = section.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(values, sort_keys=False).encode()
