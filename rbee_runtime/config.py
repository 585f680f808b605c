"""Settings of queen and hive: frozen, validated in one place, unknown keys refused with the nearest known one."""

import difflib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self, TypeVar

import msgspec
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    model_validator,
)

from rbee_runtime import endpoints, ports, worker_bridge
from rbee_runtime.errors import ConfigError
from rbee_runtime.logs import LogFormat
from rbee_runtime.protocol import ModelFile


def _model_file(value: object) -> ModelFile:
    return msgspec.convert(value, ModelFile)


DeclaredFile = Annotated[ModelFile, PlainValidator(_model_file), PlainSerializer(msgspec.to_builtins)]
"""A wire message inside a section: msgspec checks it, whose errors are ValueErrors too."""


class Section(BaseModel):
    """Base of every section: immutable, strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsFiles(Section):
    """A server certificate for the client endpoint; PEM paths."""

    certificate: Path
    key: Path


class QueenConfig(Section):
    """`/etc/rbee/queen.yaml`.

    `client_tls` None means plain HTTP on the client endpoint. `link_dir` holds ca.pem, queen.pem and queen.key;
    None is laptop mode: loopback and a token. `address` is what both listeners bind to. `cors_origins` are web
    pages that may use the API from a browser. A request waits in line for `queue_wait_seconds` at most; a worker has
    `first_byte_seconds` to begin its answer, of which one that is not streamed has nothing before its end, and is
    silent for `silence_seconds` at most after that.
    """

    fleet: str = "laptop"
    name: str = "queen"
    address: str = "0.0.0.0"  # noqa: S104 - the client endpoint is the point of the process; keys are always asked for
    port: int = ports.QUEEN_PORT
    link_port: int = ports.QUEEN_LINK_PORT
    state_dir: Path = ports.QUEEN_STATE
    run_dir: Path = ports.QUEEN_RUN
    fleet_file: Path = ports.ETC / "fleet.yaml"
    link_dir: Path | None = None
    client_tls: TlsFiles | None = None
    bootstrap_key_file: Path | None = None
    drain_seconds: float = 180.0
    queue_wait_seconds: float = Field(default=60.0, ge=0)
    first_byte_seconds: float = Field(default=600.0, gt=0)
    silence_seconds: float = Field(default=120.0, gt=0)
    cors_origins: tuple[str, ...] = ()
    log_format: LogFormat = LogFormat.LINES


class StoreSettings(Section):
    """How models come to this host and how much disk they may take.

    `quota` is bytes for all models (None: no limit); beyond it, and to make room for a new one, the least recently
    used that nothing holds go. `spare` bytes of the disk stay free. `offline` uses what is on this host and on
    other hives only. `plain_http_hosts` may be fetched from without TLS and at private addresses; nothing else may.
    `allow_pickle` admits weights that are programs. `hf_caches` are existing Hugging Face caches
    whose files are linked, not copied.
    """

    quota: int | None = None
    spare: int = 5 * 1024**3
    offline: bool = False
    hf_endpoint: str = ""
    plain_http_hosts: tuple[str, ...] = ()
    allow_pickle: bool = False
    hf_caches: tuple[Path, ...] = ()


class SimulatedDevice(Section):
    """A device that does not exist, for trying out placement; `total` is bytes."""

    id: str
    name: str = "simulated"
    kind: str = "simulated"
    total: int = 24 * 1024**3
    used: int = 0


class DeviceSettings(Section):
    """Where devices come from: this host (both empty), made-up ones, or a recorded file of another host's.

    The processor is this host's unless the others have one. A recorded file that changes is read again.
    """

    simulate: tuple[SimulatedDevice, ...] = ()
    recorded: Path | None = None


class WorkerImage(Section):
    """An image of workers, as the container engine knows it, and where its model engine lies inside.

    `engine_dir` is "" for an engine that is part of the release.
    """

    image: str = Field(min_length=1)
    engine_dir: str = ""


class ContainerSettings(Section):
    """How workers run when the launcher is an engine of containers; `socket` "" means the engine's usual one.

    `images` are by model engine; an engine without one cannot be started. `memory_limit` are bytes of one worker, None
    is the share of the host's memory in `worker_limits`.
    """

    images: dict[str, WorkerImage] = {}
    socket: str = ""
    network: str = worker_bridge.NETWORK
    memory_limit: int | None = Field(default=None, ge=1)
    pids_limit: int = 4096


class HiveConfig(Section):
    """`/etc/rbee/hive.yaml`.

    `advertise` is the address under which the queen reaches this host. `link_dir` holds ca.pem, hive.pem and hive.key;
    None is laptop mode. `launcher` is `systemd`, `process`, `podman` or `docker`. `engine_builds` are folders of
    `engines_dir` to use instead of the newest ones of their engines.
    """

    fleet: str = "laptop"
    name: str = "local"
    address: str = "0.0.0.0"  # noqa: S104 - mutual TLS guards it
    port: int = ports.HIVE_PORT
    advertise: str = "127.0.0.1"
    queen_url: str = f"https://127.0.0.1:{ports.QUEEN_LINK_PORT}"
    state_dir: Path = ports.HIVE_STATE
    run_dir: Path = ports.HIVE_RUN
    models_dir: Path = ports.MODELS
    engines_dir: Path = ports.ENGINES
    engine_builds: tuple[str, ...] = ()
    link_dir: Path | None = None
    launcher: str = Field(default="systemd", pattern="^(systemd|process|podman|docker)$")
    containers: ContainerSettings = ContainerSettings()
    devices: DeviceSettings = DeviceSettings()
    store: StoreSettings = StoreSettings()
    worker_ports: tuple[int, int] = ports.WORKER_PORTS
    heartbeat_seconds: float = 5.0
    log_format: LogFormat = LogFormat.LINES

    @property
    def in_containers(self) -> bool:
        """Say whether workers run in containers."""
        return self.launcher in {"podman", "docker"}

    @model_validator(mode="after")
    def worker_ports_are_a_range(self) -> Self:
        """Refuse an empty or impossible range."""
        first, last = self.worker_ports
        if not 1024 <= first <= last <= 65535:
            raise ValueError(f"worker_ports {first}-{last} is not a range within 1024-65535")
        return self


HOST_NAME = r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}"
"""Names of hosts and of servers that are not ours: parts of addresses, of lines in logs, and of labels."""


class FleetHive(Section):
    """A GPU host as the inventory declares it."""

    name: str = Field(pattern=f"^{HOST_NAME}$")
    labels: dict[str, str] = {}


class Preference(StrEnum):
    """Which of the places that fit is the better one: the emptiest or the fullest."""

    SPREAD = "spread"
    PACK = "pack"


class FleetModel(Section):
    """A model as the inventory declares it.

    `replicas_min` workers are kept up on eligible hives, with 0 it is loaded when somebody asks for it; up to
    `replicas_max` while requests wait; with `each_host` one on every eligible hive instead.
    `hosts` and `labels` restrict the hives; empty means all. `load_wait` is seconds a request waits for a cold model.
    `pin` keeps its files on disks that are full. `idle_ttl` is seconds without a request after which a worker beyond
    the minimum goes (0: never); with `keep_loaded` none goes, and none makes room for another model.
    `gpus` is how many cards share a worker (0: as many as it takes), `cpu` lets it run on the processor of a host that
    has cards. `placement` spreads workers over what is emptiest or packs them into what is fullest; no worker runs on
    a host with one of a model in `apart_from`, which may name the model itself. With `continues` another worker goes on
    with a stream whose worker is gone.
    """

    name: str
    source: str
    engine: str
    files: tuple[DeclaredFile, ...] = ()
    replicas_min: int = 1
    replicas_max: int = 1
    each_host: bool = False
    context: int = 4096
    slots: int = 1
    hosts: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    load_wait: float = 300.0
    options: dict[str, str | int | float | bool] = {}
    pin: bool = False
    idle_ttl: float = Field(default=300.0, ge=0)
    keep_loaded: bool = False
    gpus: int = Field(default=0, ge=0, le=64)
    cpu: bool = False
    placement: Preference = Preference.SPREAD
    apart_from: tuple[str, ...] = ()
    continues: bool = False


class FleetExternal(Section):
    """A server that is not the fleet's own and speaks OpenAI's API, as the inventory declares it.

    `models` are its own names of its models by the names that clients ask for, or a list where both are the same.
    At most `slots` requests are there at a time. `key_file` holds its API key in a line `<name>=<key>`. `ca` is the
    authority that its certificate is verified with, as PEM; "" means those that this host trusts.
    """

    name: str = Field(pattern=f"^{HOST_NAME}$")
    url: Annotated[str, AfterValidator(endpoints.address)]
    models: Annotated[dict[str, str], BeforeValidator(endpoints.names)] = Field(min_length=1)
    slots: int = Field(default=4, ge=1, le=1024)
    key_file: Path | None = None
    ca: Annotated[str, AfterValidator(endpoints.authority)] = ""


class FleetFile(Section):
    """`/etc/rbee/fleet.yaml`: hosts, models and external servers, loaded hot by the queen.

    `aliases` are further names that clients may ask for, each with the model that answers.
    """

    hives: tuple[FleetHive, ...] = ()
    models: tuple[FleetModel, ...] = ()
    external: tuple[FleetExternal, ...] = ()
    aliases: dict[str, str] = {}


S = TypeVar("S", bound=Section)


def load(path: Path, section: type[S]) -> S:
    """Return the validated file at `path` or raise ConfigError with one sentence."""
    try:
        text = path.read_text(encoding="utf-8")
        raw = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} does not hold a mapping of settings")
    return parse(raw, section, where=str(path), text=text)


def parse(raw: dict[str, object], section: type[S], *, where: str, text: str = "") -> S:
    """Return `raw` as a validated section or raise ConfigError naming `where`, the field and the nearest known one.

    With the YAML `text` that `raw` came from, the line is named too.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        line = f" line {_line(text, error.errors(include_url=False)[0]['loc'])}" if text else ""
        raise ConfigError(f"{where}{line}: {_sentence(error, section)}") from error


def _line(text: str, location: tuple[int | str, ...]) -> int:
    """Return the line, from 1 on, of the innermost part of `location` that is in a YAML text."""
    node, line = yaml.compose(text, Loader=yaml.SafeLoader), 1
    for step in location:
        if isinstance(node, yaml.MappingNode):
            key, node = next((pair for pair in node.value if pair[0].value == str(step)), (None, None))
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            key = node = node.value[step]
        else:
            break
        if key is None:
            break
        line = key.start_mark.line + 1
    return line


def _sentence(error: ValidationError, section: type[Section]) -> str:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{field or 'settings'}: {first['msg'].removeprefix('Value error, ')}"
    near = difflib.get_close_matches(str(first["loc"][-1]), section.model_fields, n=1)
    hint = f"did you mean {near[0]!r}? correct it there" if near else "remove it there"
    return f"unknown field {field!r}; {hint}, or run the deploy again, which writes the file anew"
