"""Files that the deployer owns on a host, rendered from the inventory; pure, strict, the same text every time."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2

from rbee_deploy import configs, firewall, housing, modes
from rbee_deploy.activator import places, worker_rules
from rbee_deploy.devices import RECORDING, Recorded
from rbee_deploy.digest import desired_digest
from rbee_deploy.errors import RenderError
from rbee_deploy.externals import KEYS
from rbee_deploy.images.manifest import Image
from rbee_deploy.modes import Way
from rbee_deploy.secrets import Secret
from rbee_deploy.site import MODEL_CREDENTIALS, Host, Site
from rbee_runtime import ports, worker_bridge, worker_limits
from rbee_runtime.config import ContainerSettings
from rbee_runtime.protocol import ModelFile

HIDDEN_BY_PROTECT_HOME = ("/home", "/root", "/run/user")


@dataclass(frozen=True)
class OwnedFile:
    """One file as it should be on a host.

    `affects` are the units to restart when it changes; empty means that it is read when needed.
    `is_unit` asks for a daemon-reload after a change.
    """

    path: str
    content: str | Secret
    owner: str = "root"
    group: str = "root"
    mode: str = "0644"
    affects: frozenset[str] = frozenset()
    is_unit: bool = False

    @property
    def secret(self) -> bool:
        """Say whether the content must not be shown."""
        return isinstance(self.content, Secret)

    def text(self) -> str:
        """Return the plain content."""
        return self.content.reveal() if isinstance(self.content, Secret) else self.content

    @property
    def sha256(self) -> str:
        """Return the hash of the content, as the host's fact reports it."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Return what the digest takes: of a secret only its version, of other content the hash."""
        content = f"version {self.content.version}" if isinstance(self.content, Secret) else self.sha256
        return f"{self.owner}:{self.group} {self.mode} {content}"


@dataclass(frozen=True)
class Certificate:
    """A certificate with its chain (PEM), its key, and an id that changes with it."""

    pem: str
    key: Secret
    version: str


@dataclass(frozen=True)
class SiteState:
    """What is not in the inventory.

    `release` is the release id, `ca` the authority's PEM, `bootstrap_key` the first API key's line `<id8>:<sha256>`.
    `certificates` are by (role, host name), with roles queen, hive, worker and, when the client endpoint has TLS,
    client. `models` are the files that the deployer puts on hosts, by model name. `model_credentials` are what the hive
    of the host at hand fetches models with, by file name, `engines` the names of its engine builds, `images` those of
    its containers, `podman` the version there, None before it is installed. `external_keys` are those of servers that
    are not ours.
    """

    release: str
    ca: str
    bootstrap_key: str
    certificates: Mapping[tuple[str, str], Certificate] = field(default_factory=dict)
    models: Mapping[str, tuple[ModelFile, ...]] = field(default_factory=dict)
    model_credentials: Mapping[str, Secret] = field(default_factory=dict)
    engines: tuple[str, ...] = ()
    images: tuple[Image, ...] = ()
    podman: str | None = None
    external_keys: Secret | None = None


def owned_files(site: Site, host: Host, state: SiteState) -> tuple[OwnedFile, ...]:
    """Return every file of a host in the order of placing: a unit comes after the credentials that it names."""
    credentials = _credentials(site, host, state)
    own = (*_configs(site, host, state), *_firewall(site, host), *_units(site, host, state, credentials))
    own = (*own, *_fallback(host))
    files = (*credentials, *own)
    return (*files, *(_digest_file(role, state.release, files) for role in roles(host)))


FALLBACK = str(places.FALLBACK)
"""Lies on hosts that run bare because they did not get ready in containers."""

ROLES = ("queen", "hive")
GUARD = "guard.json"
_FIREWALL_PATHS = (str(places.FIREWALL), modes.unit_path(ports.FIREWALL_UNIT))


def unwanted_paths(files: Iterable[OwnedFile]) -> tuple[str, ...]:
    """Return the files that an earlier inventory may have put on a host and that this one does not."""
    names = (*MODEL_CREDENTIALS.values(), "client.pem", "client.key", KEYS)
    optional = (*(str(ports.CREDENTIALS / name) for name in names), str(RECORDING), *_FIREWALL_PATHS)
    wanted = {file.path for file in files}
    # One that lies beside ours, such as a mask or a whole copy by `systemctl edit`, would go before it.
    beside = [path for role in ROLES if digest_path(role) in wanted for path in modes.other_files(role)]
    return tuple(path for path in (*optional, *beside) if path not in wanted)


def roles(host: Host) -> tuple[str, ...]:
    """Return the roles that a host plays: `queen`, `hive` or both."""
    return tuple(role for role, plays in (("queen", host.queen), ("hive", host.hive)) if plays)


def digest_of(files: Iterable[OwnedFile], role: str) -> str:
    """Return the desired digest of a role, which is the content of one of its files."""
    return next(file.text().strip() for file in files if file.path == digest_path(role))


def digest_path(role: str) -> str:
    """Return where a role's desired digest lies on the host."""
    return str(ports.ETC / f"{role}.digest")


def template_text(name: str, **values: Any) -> str:
    """Return a template under templates/ rendered with `values`; an unknown variable raises RenderError."""
    try:
        return _templates().get_template(name).render(**values)
    except jinja2.TemplateError as error:
        raise RenderError(f"cannot render template {name}: {error.message}") from error


@cache
def _templates() -> jinja2.Environment:
    # A wheel carries the templates inside the package, a checkout beside it.
    inside = Path(__file__).parent / "templates"
    root = inside if inside.is_dir() else Path(__file__).parent.parent / "templates"
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(root),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - unit files are not HTML; every value went through the inventory's checks
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _units(site: Site, host: Host, state: SiteState, credentials: Sequence[OwnedFile] = ()) -> tuple[OwnedFile, ...]:
    names = dict.fromkeys(name for role in roles(host) for name in modes.role_units(role, host.way).files)
    if host.firewall is not None:
        names[ports.FIREWALL_UNIT] = None
    values = {
        "host": host,
        "ports": ports,
        "worker_bridge": worker_bridge,
        "deploys": places.HOME,
        "client_tls": site.client_endpoint != "plain-http",
        "models_hidden": _is_hidden(host.models_dir),
        "hidden_caches": [path for path in host.store.hf_caches if _is_hidden(path)],
        "model_credentials": list(site.model_credentials(host)),
        "external_keys": KEYS if site.external_keys else "",
        "container_engine": host.container_engine,
        "worker_memory_percent": worker_limits.MEMORY_PERCENT,
        "worker_rules": worker_rules,
    }

    def housed(name: str) -> dict[str, Any]:
        if host.way.housed is None or name not in housing.ROLE_OF:
            return {}
        service = modes.role_units(housing.ROLE_OF[name]).service
        mine = [PurePosixPath(file.path).name for file in credentials if service in file.affects]
        return housing.values(site, host, name, state.images, mine, state.podman)

    units = tuple(_unit(name, host.way, {**values, **housed(name)}) for name in names)
    if not host.hive or host.container_engine is not None:
        return units
    rule = template_text("polkit/50-rbee-hive.rules.j2", ports=ports)
    return (*units, OwnedFile(modes.POLKIT_RULES, rule))


def _unit(name: str, way: Way, values: Mapping[str, Any]) -> OwnedFile:
    affects = {
        # systemd refuses to restart a socket under a running service, so a new port restarts both.
        ports.QUEEN_SOCKET_UNIT: {ports.QUEEN_SOCKET_UNIT, ports.QUEEN_UNIT},
        ports.QUEEN_UNIT: {ports.QUEEN_UNIT},
        ports.QUEEN_QUADLET: {ports.QUEEN_UNIT},
        ports.HIVE_UNIT: {ports.HIVE_UNIT},
        ports.HIVE_QUADLET: {ports.HIVE_UNIT},
        ports.FIREWALL_UNIT: {ports.FIREWALL_UNIT},
        # As the queen's: what listens is restarted with what answers.
        ports.GUARD_SOCKET_UNIT: {ports.GUARD_SOCKET_UNIT, ports.GUARD_UNIT},
        ports.GUARD_UNIT: {ports.GUARD_UNIT},
        ports.NETWORK_UNIT: {ports.NETWORK_UNIT},
        ports.PODMAN_UNIT: {ports.PODMAN_UNIT},
        ports.WORKERS_UNIT: set(),
    }.get(name, set())
    text = template_text(housing.template(name, way), **values)
    return OwnedFile(modes.unit_path(name), text, affects=frozenset(affects), is_unit=True)


def _is_hidden(path: str) -> bool:
    return any(PurePosixPath(path).is_relative_to(hidden) for hidden in HIDDEN_BY_PROTECT_HOME)


def _credentials(site: Site, host: Host, state: SiteState) -> tuple[OwnedFile, ...]:
    services = frozenset(modes.role_units(role).service for role in roles(host))
    files = [_credential("ca.pem", Secret(state.ca), services)]
    for role, service in _certificate_roles(site, host):
        certificate = state.certificates.get((role, host.name))
        if certificate is None:
            raise RenderError(f"host {host.name!r} has no {role} certificate; the fleet authority must issue it first")
        restarts = frozenset({service} if service else ())
        files.append(_credential(f"{role}.pem", Secret(certificate.pem, version=certificate.version), restarts))
        files.append(
            _credential(f"{role}.key", Secret(certificate.key.reveal(), version=certificate.version), restarts)
        )
    if host.queen:
        files.append(_credential("bootstrap-key", Secret(state.bootstrap_key + "\n"), frozenset({ports.QUEEN_UNIT})))
        files += _external_keys(site, state)
    return (*files, *_model_credentials(site, host, state))


def _external_keys(site: Site, state: SiteState) -> Iterator[OwnedFile]:
    if site.external_keys:
        if state.external_keys is None:
            raise RenderError(f"fleet {site.name!r} has no credential {KEYS}; it must be read first")
        yield _credential(KEYS, state.external_keys, frozenset({ports.QUEEN_UNIT}))


def _model_credentials(site: Site, host: Host, state: SiteState) -> Iterator[OwnedFile]:
    for name in site.model_credentials(host):
        if name not in state.model_credentials:
            raise RenderError(f"host {host.name!r} has no credential {name}; it must be read first")
        yield _credential(name, state.model_credentials[name], frozenset({ports.HIVE_UNIT}))


def _certificate_roles(site: Site, host: Host) -> tuple[tuple[str, str], ...]:
    client = (("client", ports.QUEEN_UNIT),) if site.client_endpoint != "plain-http" else ()
    queen = (("queen", ports.QUEEN_UNIT), *client) if host.queen else ()
    # A running worker keeps the certificate that it started with, so a new one restarts nothing; but a hive that hands
    # it to containers has it from its own unit.
    hands_out = ports.HIVE_UNIT if host.container_engine is not None else ""
    hive = (("hive", ports.HIVE_UNIT), ("worker", hands_out)) if host.hive else ()
    return (*queen, *hive)


def _credential(name: str, content: Secret, affects: frozenset[str]) -> OwnedFile:
    return OwnedFile(str(ports.CREDENTIALS / name), content, mode="0600", affects=affects)


def _configs(site: Site, host: Host, state: SiteState) -> tuple[OwnedFile, ...]:
    files: list[OwnedFile] = []
    if host.queen:
        fleet = configs.fleet_file(site, dict(state.models))
        files.append(_config("queen.yaml", configs.queen_config(site, host), ports.QUEEN_USER, ports.QUEEN_UNIT))
        files.append(_config("fleet.yaml", fleet, ports.QUEEN_USER))
    if host.hive:
        text = configs.hive_config(site, host, state.engines, state.images)
        files.append(_config("hive.yaml", text, ports.HIVE_USER, ports.HIVE_UNIT))
        if host.container_engine is not None:
            guard = configs.guard_config(site, host, state.images, host.container_engine)
            files += [_config(GUARD, guard, "root", ports.GUARD_UNIT), _network_rules()]
        if isinstance(host.devices, Recorded):
            # The hive reads it again when it changes.
            files.append(_config(RECORDING.name, host.devices.text, ports.HIVE_USER))
    return tuple(files)


def _network_rules() -> OwnedFile:
    bridge = worker_bridge.bridge_of(ContainerSettings().network)
    text = template_text("nftables/workers.nft.j2", ports=ports, worker_bridge=worker_bridge, bridge=bridge)
    return OwnedFile(str(ports.NETWORK_RULES), text, affects=frozenset({ports.NETWORK_UNIT}))


def _firewall(site: Site, host: Host) -> Iterator[OwnedFile]:
    wanted = firewall.rules(site, host)
    if wanted is not None:
        yield OwnedFile(str(places.FIREWALL), wanted.text(), affects=frozenset({ports.FIREWALL_UNIT}))


def _fallback(host: Host) -> Iterator[OwnedFile]:
    if host.fallback is not None and host.mode == modes.Mode.BARE:
        yield OwnedFile(FALLBACK, "This host is to run in containers, and could not when it was last deployed.\n")


def _config(name: str, text: str, group: str, *affects: str) -> OwnedFile:
    return OwnedFile(str(ports.ETC / name), text, group=group, mode="0640", affects=frozenset(affects))


def _digest_file(role: str, release: str, files: tuple[OwnedFile, ...]) -> OwnedFile:
    service = modes.role_units(role).service
    digest = desired_digest(role, release, (file for file in files if service in file.affects))
    return OwnedFile(digest_path(role), digest + "\n")
