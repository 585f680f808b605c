"""The declared fleet: what the inventory's constructors return, checked and frozen."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import rbee_runtime
from rbee_deploy import _fields as check
from rbee_deploy.modes import Mode
from rbee_deploy.secrets import SecretSource
from rbee_runtime import ports
from rbee_runtime.models import references

BUILT_IN_ENGINE = "fake"
"""Comes with every release, so that no host has to list it."""

INSTALLABLE_ENGINES = ("llama-cpp",)
"""What `engines` of a host may name."""


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


def _source(value: object) -> str:
    references.parse_source(check.text(value))
    return str(value)


def _secret(value: object) -> SecretSource:
    if not callable(getattr(value, "read", None)) or isinstance(value, str):
        raise check.ExposedError("is given as plain text: use secret_env, secret_file or secret_command")
    return value  # type: ignore[return-value] # a protocol with this one method


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
    `engines` are those that the deployer installs there. `ssh_host_keys` is `strict` or `accept-new`.
    """

    name: str = check.setting(check.host_name)
    address: str | None = check.setting(check.address, default=None)
    advertise: str | None = check.setting(check.address, default=None)
    queen: bool = check.setting(check.flag, default=False)
    hive: bool = check.setting(check.flag, default=True)
    mode: str = check.setting(check.text, default=Mode.BARE.value)
    labels: Mapping[str, str] = check.setting(check.labels, default_factory=dict)
    engines: tuple[str, ...] = check.setting(check.words, default=("llama-cpp",))
    models_dir: str = check.setting(check.host_path, default=str(ports.MODELS))
    queen_port: int = check.setting(check.unprivileged_port, default=ports.QUEEN_PORT)
    link_port: int = check.setting(check.unprivileged_port, default=ports.QUEEN_LINK_PORT)
    hive_port: int = check.setting(check.unprivileged_port, default=ports.HIVE_PORT)
    worker_ports: tuple[int, int] = check.setting(check.port_range, default=ports.WORKER_PORTS)
    ssh_user: str | None = check.setting(check.text, default=None)
    ssh_port: int = check.setting(check.port, default=22)
    ssh_key: str | None = check.setting(check.operator_file, default=None)
    ssh_known_hosts_file: str | None = check.setting(check.operator_file, default=None)
    ssh_config_file: str | None = check.setting(check.operator_file, default=None)
    ssh_host_keys: str = check.setting(check.one_of("strict", "accept-new"), default="accept-new")
    sudo_password: SecretSource | None = check.setting(_secret, default=None)

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
    """One model. `source` is `file:/absolute/path` on the operator's machine, or `fake:…`.

    With `preseed` False the file already lies under that path on the hosts. `context` is tokens per sequence, `slots`
    sequences at a time, `load_wait` seconds that a request waits for a cold model. `hosts` and `labels` restrict
    where it runs; empty means everywhere.
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
    preseed: bool = check.setting(check.flag, default=True)

    @property
    def engine_name(self) -> str:
        """Return the engine that serves it: as given, else by the kind of source."""
        fake = references.parse_source(self.source).scheme is references.Scheme.FAKE
        return self.engine or (BUILT_IN_ENGINE if fake else "llama-cpp")

    @property
    def file(self) -> Path | None:
        """Return the path in a `file:` source."""
        source = references.parse_source(self.source)
        return Path(source.rest) if source.scheme is references.Scheme.FILE else None


def _hosts(value: object) -> tuple[Host, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, Host) for item in value):
        raise check.UnfitError("it must be a list of host(…)")
    return tuple(value)


def _models(value: object) -> tuple[Model, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, Model) for item in value):
        raise check.UnfitError("it must be a list of model(…)")
    return tuple(value)


def _secrets_dir(value: object) -> str:
    return str(Path(check.text(str(value) if isinstance(value, Path) else value)).expanduser().absolute())


@dataclass(frozen=True)
class Site:
    """A whole fleet. `version` is the rbee version on every host.

    `client_endpoint` is `fleet-tls`, `plain-http` or TlsPaths. `secrets_dir` on the operator's machine holds the fleet
    authority and the first API key; None means `rbee/<name>` in the XDG configuration folder.
    `drain_seconds` is how long open streams may go on when the queen restarts.
    """

    name: str = check.setting(check.host_name)
    hosts: tuple[Host, ...] = check.setting(_hosts)
    models: tuple[Model, ...] = check.setting(_models, default=())
    version: str = check.setting(check.text, default=rbee_runtime.__version__)
    client_endpoint: str | TlsPaths = check.setting(_client_endpoint, default="fleet-tls")
    secrets_dir: str | None = check.setting(_secrets_dir, default=None)
    drain_seconds: float = check.setting(check.seconds(0, 3600), default=180.0)

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

    def hives_for(self, wanted: Model) -> tuple[Host, ...]:
        """Return the hosts that may serve a model: by name, labels and engine."""
        return tuple(item for item in self.hives if _may_serve(item, wanted))


def _may_serve(where: Host, wanted: Model) -> bool:
    named = not wanted.hosts or where.name in wanted.hosts
    labelled = all(where.labels.get(key) == value for key, value in wanted.labels.items())
    return named and labelled and wanted.engine_name in (*where.engines, BUILT_IN_ENGINE)
