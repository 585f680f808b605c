"""The declared fleet: what the inventory's constructors return, checked and frozen."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Final

import rbee_runtime
from rbee_deploy import _fields as check
from rbee_deploy import devices as made_up
from rbee_deploy.activator.firewall.rules import Kind
from rbee_deploy.command_engines import CommandEngine
from rbee_deploy.devices import Devices
from rbee_deploy.externals import External
from rbee_deploy.modes import ContainerEngine, Mode, Way, WorkerRuntime
from rbee_deploy.rollout import Rollout
from rbee_deploy.secrets import SecretSource
from rbee_deploy.stores import Store
from rbee_runtime import ports
from rbee_runtime.config import Preference
from rbee_runtime.logs import LogFormat
from rbee_runtime.models import references
from rbee_runtime.models.references import Scheme
from rbee_runtime.models.sources import credentials

BUILT_IN_ENGINE = "fake"
"""Comes with every release, so that no host has to list it."""

INSTALLABLE_ENGINES = ("llama-cpp", "llama-server", "vllm")
"""What `engines` of a host may name, beside those of the fleet's `command_engines`."""

IMAGED_ENGINES = ("llama-cpp", "vllm")
"""Those that images of workers have."""

MODEL_CREDENTIALS = {
    "hf_token": credentials.HF_TOKEN,
    "object_store": credentials.OBJECT_STORE,
    "registry_auth": credentials.REGISTRIES,
}
"""Fields of fleet and host, and the files by which the hive knows them."""


NAMED_ENGINES = (ContainerEngine.PODMAN.value, ContainerEngine.DOCKER.value)
"""What `engine` of a host may name; `rootless` says which Podman."""


class _EachHost(Enum):
    EACH_HOST = "each_host"


each_host: Final = _EachHost.EACH_HOST
"""`replicas=each_host`: one worker on every host that may serve the model."""


@dataclass(frozen=True)
class Replicas:
    """How many workers a model has: `minimum` are kept up, `maximum` is never passed."""

    minimum: int
    maximum: int
    each_host: bool = False


@dataclass(frozen=True)
class TlsPaths:
    """A server certificate of the operator for the client endpoint: PEM files on the operator's machine."""

    certificate: str
    key: str


def _replicas(value: object) -> Replicas:
    if isinstance(value, Replicas):
        return value
    if value is each_host:
        return Replicas(1, 1, each_host=True)
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    valid = len(pair) == 2 and all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= 1000 for n in pair)
    if not valid or pair[0] > pair[1] or pair[1] < 1:
        raise check.UnfitError("it must be a whole number from 1, (minimum, maximum) or each_host")
    return Replicas(pair[0], pair[1])


def _model_name(value: object) -> str:
    return references.check_name(check.text(value))


def _aliases(value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise check.UnfitError("it must be a dict of names that clients may use and models that answer")
    return {_model_name(alias): _model_name(model) for alias, model in value.items()}


def _source(value: object) -> str:
    written = check.text(value)
    try:
        references.parse_source(written)
    except ValueError as error:
        # What is no source by mistake may still hold a password or a signature.
        raise check.ExposedError(f"is {references.shown(written)!r}: {error}") from error
    return written


def _store(value: object) -> Store:
    if not isinstance(value, Store):
        raise check.UnfitError("it must be store(…)")
    return value


LEAST_WORKER_MEMORY = 256 << 20
"""Bytes that a worker takes before it has a model, by far rounded up; with less none would ever be ready."""

_SHARE = re.compile("(?:100|[1-9][0-9]?)%")


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _rollout(value: object) -> Rollout:
    if not isinstance(value, Rollout):
        raise check.UnfitError('it must be Rollout(canary=…, batch=…), as in Rollout(canary=1, batch="25%")')
    if not _is_whole(value.canary, 0):
        raise check.UnfitError(f"canary is {value.canary!r}: it must be a whole number of hosts from 0")
    if not (_is_whole(value.batch, 1) or (isinstance(value.batch, str) and _SHARE.fullmatch(value.batch))):
        raise check.UnfitError(f'batch is {value.batch!r}: it must be a number of hosts, or a share such as "25%"')
    if value.undo not in ("host", "run"):
        raise check.UnfitError(f'undo is {value.undo!r}: it must be "host" or "run"')
    seconds: object = value.workers_seconds
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 86400:
        raise check.UnfitError(f"workers_seconds is {seconds!r}: it must be a number from 0 to 86400")
    return value


def _client_endpoint(value: object) -> str | TlsPaths:
    if isinstance(value, TlsPaths):
        return TlsPaths(check.operator_file(value.certificate), check.operator_file(value.key))
    try:
        return str(check.one_of("fleet-tls", "plain-http")(value))
    except ValueError as error:
        raise check.UnfitError(f"{error}, or TlsPaths(certificate=…, key=…)") from error


@dataclass(frozen=True)
class Host:
    """One machine. `address` None means that the name is what SSH and the other hosts use.

    `advertise` is where other hosts reach it when that is not `address`. `worker_ports` is first and last port.
    `mode` is `bare` or `container`: how queen and hive run. `worker_runtime` is `process` or `container`, and always
    the latter where the hive is in one; `engine` is the container engine, `podman` or `docker`, and `rootless` has
    Podman run as a user without rights. `fallback` `bare` has a host that cannot run in containers run bare.
    `worker_memory` are the bytes that one worker may take, None nine tenths of the host's.
    `engines` are the model engines that are installed there, or of which images are brought. `store` says how models
    come to it. `devices` are made-up ones or a recording, to try a fleet out; empty means those of the host.
    `hf_token`, `object_store` and `registry_auth` replace the fleet's. `firewall` closes our ports to whoever does not
    need them; None leaves it alone.
    `ssh_host_keys` is `strict` or `accept-new`.
    """

    name: str = check.setting(check.host_name)
    address: str | None = check.setting(check.address, default=None)
    advertise: str | None = check.setting(check.address, default=None)
    queen: bool = check.setting(check.flag, default=False)
    hive: bool = check.setting(check.flag, default=True)
    mode: str = check.setting(check.one_of(*(mode.value for mode in Mode)), default=Mode.BARE.value)
    worker_runtime: str = check.setting(
        check.one_of(*(way.value for way in WorkerRuntime)), default=WorkerRuntime.PROCESS.value
    )
    engine: str = check.setting(check.one_of(*NAMED_ENGINES), default=ContainerEngine.PODMAN.value)
    rootless: bool = check.setting(check.flag, default=False)
    fallback: str | None = check.setting(check.one_of(Mode.BARE.value), default=None)
    labels: Mapping[str, str] = check.setting(check.labels, default_factory=dict)
    engines: tuple[str, ...] = check.setting(check.words, default=("llama-cpp",))
    models_dir: str = check.setting(check.host_path, default=str(ports.MODELS))
    store: Store = check.setting(_store, default=Store())
    devices: Devices = check.setting(made_up.declared, default=())
    hf_token: SecretSource | None = check.setting(check.secret, default=None)
    object_store: SecretSource | None = check.setting(check.secret, default=None)
    registry_auth: SecretSource | None = check.setting(check.secret, default=None)
    queen_port: int = check.setting(check.unprivileged_port, default=ports.QUEEN_PORT)
    link_port: int = check.setting(check.unprivileged_port, default=ports.QUEEN_LINK_PORT)
    hive_port: int = check.setting(check.unprivileged_port, default=ports.HIVE_PORT)
    worker_ports: tuple[int, int] = check.setting(check.port_range, default=ports.WORKER_PORTS)
    worker_memory: int | None = check.setting(check.size(LEAST_WORKER_MEMORY), default=None)
    firewall: str | None = check.setting(check.one_of(*(kind.value for kind in Kind)), default=None)
    ssh_user: str | None = check.setting(check.text, default=None)
    ssh_port: int = check.setting(check.port, default=22)
    ssh_key: str | None = check.setting(check.private_key, default=None)
    ssh_known_hosts_file: str | None = check.setting(check.operator_file, default=None)
    ssh_config_file: str | None = check.setting(check.operator_file, default=None)
    ssh_host_keys: str = check.setting(check.one_of("strict", "accept-new"), default="accept-new")
    sudo_password: SecretSource | None = check.setting(check.secret, default=None)

    @property
    def way(self) -> Way:
        """Return how it runs rbee. A hive in a container has its workers in containers too: it can start no process."""
        workers = self.hive and self.worker_runtime == WorkerRuntime.CONTAINER
        in_containers = workers or self.mode == Mode.CONTAINER
        engine = ContainerEngine.ROOTLESS if self.rootless else ContainerEngine(self.engine)
        return Way(Mode(self.mode), engine if in_containers else None)

    @property
    def container_engine(self) -> ContainerEngine | None:
        """Return what runs containers on it, None where nothing runs in one."""
        return self.way.engine

    @property
    def ssh_address(self) -> str:
        """Return what SSH connects to."""
        return self.address or self.name

    @property
    def reach(self) -> str:
        """Return the address under which other hosts reach this one."""
        return self.advertise or self.address or self.name


@dataclass(frozen=True)
class Model:
    """One model. `source` is of any form that `rbee_runtime.models.references` knows.

    Hosts fetch it themselves, but for `file:/absolute/path`: that is a file on the operator's machine, which the
    deployer copies, or with `preseed` False one that already lies under that path on the hosts. With `preseed` True
    hosts fetch it before they go over to what wants it. `pin` keeps it on disks that are full. `context` is tokens per
    sequence, `slots` sequences at a time, `load_wait` seconds that a request waits for a cold model. `hosts` and
    `labels` restrict where it runs; empty means everywhere. With a minimum of 0 it is loaded when somebody asks for it;
    workers beyond the minimum go after `idle_ttl` seconds without need of them (None: 300, 0: never), or sooner where
    another model needs their room, unless it is `keep_loaded`. `gpus` is how many cards share a worker (0: as many as
    it takes), `cpu` lets it run on the processor of a host with cards. `placement` is `spread` or `pack`; on a host
    with a worker of a model in `apart_from`, its own name included, no worker of it runs. With `continues` another
    worker goes on with a stream whose worker is gone.
    """

    name: str = check.setting(_model_name)
    source: str = check.setting(_source)
    engine: str | None = check.setting(check.text, default=None)
    replicas: Replicas = check.setting(_replicas, default=Replicas(1, 1))
    context: int = check.setting(check.whole(64, 1 << 22), default=4096)
    slots: int = check.setting(check.whole(1, 512), default=1)
    hosts: tuple[str, ...] = check.setting(check.words, default=())
    labels: Mapping[str, str] = check.setting(check.labels, default_factory=dict)
    load_wait: float = check.setting(check.seconds(1, 3600), default=300.0)
    options: Mapping[str, str | int | float | bool] = check.setting(check.scalars, default_factory=dict)
    preseed: bool | None = check.setting(check.flag, default=None)
    pin: bool = check.setting(check.flag, default=False)
    idle_ttl: float | None = check.setting(check.seconds(0, 7 * 86400), default=None)
    keep_loaded: bool = check.setting(check.flag, default=False)
    gpus: int = check.setting(check.whole(0, 64), default=0)
    cpu: bool = check.setting(check.flag, default=False)
    placement: str = check.setting(check.one_of(*(one.value for one in Preference)), default=Preference.SPREAD.value)
    apart_from: tuple[str, ...] = check.setting(check.words, default=())
    continues: bool = check.setting(check.flag, default=False)

    @property
    def scheme(self) -> Scheme:
        """Return the kind of source."""
        return references.parse_source(self.source).scheme

    @property
    def engine_name(self) -> str:
        """Return the engine that serves it: as given, else by the kind of source."""
        return self.engine or (BUILT_IN_ENGINE if self.scheme is Scheme.FAKE else "llama-cpp")

    @property
    def file(self) -> Path | None:
        """Return the path in a `file:` source."""
        return Path(references.parse_source(self.source).rest) if self.scheme is Scheme.FILE else None

    @property
    def copied(self) -> bool:
        """Say whether the deployer brings it to the hosts."""
        return self.scheme is Scheme.FILE and self.preseed is not False

    @property
    def fetched(self) -> bool:
        """Say whether hosts fetch it over the network."""
        return self.scheme not in {Scheme.FILE, Scheme.FAKE}


def _operator_folder(value: object) -> str:
    return str(Path(check.text(str(value) if isinstance(value, Path) else value)).expanduser().absolute())


@dataclass(frozen=True)
class Site:
    """A whole fleet. `version` is the rbee version on every host.

    `external` are servers that are there already and that the queen sends requests to as well, `command_engines` those
    that hives start for a model as they start our own. `aliases` are further names that clients may ask for, each with
    the model that answers.

    `client_endpoint` is `fleet-tls`, `plain-http` or TlsPaths. `clients` are the networks that the firewall of the
    queen's host lets clients in from; None means everybody. `web_pages` are the origins of pages that may use the API
    from a browser. `secrets_dir` on the operator's machine holds the fleet
    authority and the first API key; None means `rbee/<name>` in the XDG configuration folder. `images` is the folder
    of container images there, as `rbee-deploy images` makes it. `image_mirrors` are registries that are asked for them
    before the one that they were pushed to, `host:port` or `host/path`.
    `drain_seconds` is how long open streams may go on when the queen restarts, `queue_wait_seconds` how long a request
    may wait in line, `first_byte_seconds` how long a worker may take to begin an answer, `silence_seconds` how long it
    may then be silent. `log_format` is that of queen and hives, `lines` or `json`. `uploads` is how
    many hosts receive large files at a time, `rollout` how many are changed at a time. `hf_token` is a token of the
    hub, `object_store` lines such as `AWS_ACCESS_KEY_ID=…`, `registry_auth` the file that `podman login` writes.
    """

    name: str = check.setting(check.host_name)
    hosts: tuple[Host, ...] = check.setting(partial(check.listed, Host))
    models: tuple[Model, ...] = check.setting(partial(check.listed, Model), default=())
    external: tuple[External, ...] = check.setting(partial(check.listed, External), default=())
    command_engines: tuple[CommandEngine, ...] = check.setting(partial(check.listed, CommandEngine), default=())
    aliases: Mapping[str, str] = check.setting(_aliases, default_factory=dict)
    version: str = check.setting(check.text, default=rbee_runtime.__version__)
    client_endpoint: str | TlsPaths = check.setting(_client_endpoint, default="fleet-tls")
    secrets_dir: str | None = check.setting(_operator_folder, default=None)
    images: str | None = check.setting(_operator_folder, default=None)
    image_mirrors: tuple[str, ...] = check.setting(check.registries, default=())
    clients: tuple[str, ...] | None = check.setting(check.networks, default=None)
    web_pages: tuple[str, ...] = check.setting(check.origins, default=())
    drain_seconds: float = check.setting(check.seconds(0, 3600), default=180.0)
    queue_wait_seconds: float = check.setting(check.seconds(0, 3600), default=60.0)
    first_byte_seconds: float = check.setting(check.seconds(1, 86400), default=600.0)
    silence_seconds: float = check.setting(check.seconds(1, 86400), default=120.0)
    log_format: str = check.setting(check.one_of(*(each.value for each in LogFormat)), default=LogFormat.LINES.value)
    uploads: int = check.setting(check.whole(1, 200), default=5)
    rollout: Rollout = check.setting(_rollout, default=Rollout())
    hf_token: SecretSource | None = check.setting(check.secret, default=None)
    object_store: SecretSource | None = check.setting(check.secret, default=None)
    registry_auth: SecretSource | None = check.setting(check.secret, default=None)

    @property
    def queen(self) -> Host:
        """Return the control host."""
        return next(item for item in self.hosts if item.queen)

    @property
    def hives(self) -> tuple[Host, ...]:
        """Return the hosts that run workers."""
        return tuple(item for item in self.hosts if item.hive)

    @property
    def secrets(self) -> Path:
        """Return the folder of the fleet's secrets on the operator's machine."""
        if self.secrets_dir is not None:
            return Path(self.secrets_dir)
        base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        return Path(base) / "rbee" / self.name

    @property
    def external_keys(self) -> bool:
        """Say whether some server that is not ours has a key."""
        return any(server.key is not None for server in self.external)

    def model_credentials(self, host: Host) -> dict[str, SecretSource]:
        """Return where the secrets come from that a host's hive fetches models with, by file name."""
        found = {file: getattr(host, field) or getattr(self, field) for field, file in MODEL_CREDENTIALS.items()}
        return {file: source for file, source in found.items() if source is not None} if host.hive else {}

    def credential_field(self, host: Host, file: str) -> str:
        """Return the place in the inventory that a host's credential comes from, for a sentence."""
        field = next(field for field, known in MODEL_CREDENTIALS.items() if known == file)
        own = getattr(host, field) is not None
        return f"host {host.name!r}: {field}" if own else f"fleet {self.name!r}: {field}"

    def hives_for(self, wanted: Model) -> tuple[Host, ...]:
        """Return the hosts that may serve a model: by name, labels and engine."""
        return tuple(item for item in self.hives if _may_serve(item, wanted))


def _may_serve(where: Host, wanted: Model) -> bool:
    named = not wanted.hosts or where.name in wanted.hosts
    labelled = all(where.labels.get(key) == value for key, value in wanted.labels.items())
    return named and labelled and wanted.engine_name in (*where.engines, BUILT_IN_ENGINE)
