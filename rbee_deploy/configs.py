"""The configuration files of queen and hive, made from the same schema that the processes read them with."""

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import yaml

from rbee_deploy import devices
from rbee_deploy.accounts import DEVICE_GROUPS
from rbee_deploy.errors import RenderError
from rbee_deploy.externals import KEYS, External
from rbee_deploy.images.kinds import ENGINES_INSIDE, served_by
from rbee_deploy.images.manifest import Image
from rbee_deploy.modes import ContainerEngine, Mode, WorkerRuntime, credentials_directory
from rbee_deploy.site import BUILT_IN_ENGINE, Host, Model, Site
from rbee_runtime import ports
from rbee_runtime.config import (
    ContainerSettings,
    FleetExternal,
    FleetFile,
    FleetHive,
    FleetModel,
    HiveConfig,
    Preference,
    QueenConfig,
    Section,
    TlsFiles,
)
from rbee_runtime.guard import config as guard
from rbee_runtime.protocol import ModelFile

ENGINE_SOCKETS = {
    ContainerEngine.PODMAN: str(ports.PODMAN_SOCKET),
    ContainerEngine.DOCKER: "/run/docker.sock",
    # Of the same name: one that serves no root's Podman is root's alone just the same.
    ContainerEngine.ROOTLESS: str(ports.PODMAN_SOCKET),
}
HEADER = "# Written by rbee-deploy from the inventory; a change made here is undone by the next deploy.\n"


def queen_config(site: Site, host: Host) -> str:
    """Return /etc/rbee/queen.yaml."""
    credentials = credentials_directory(ports.QUEEN_UNIT)
    given = QueenConfig.model_validate(
        {
            "fleet": site.name,
            "name": host.name,
            "port": host.queen_port,
            "link_port": host.link_port,
            "link_dir": credentials,
            "bootstrap_key_file": f"{credentials}/bootstrap-key",
            "drain_seconds": site.drain_seconds,
            "cors_origins": site.web_pages,
            **_unusual(site, "queue_wait_seconds", "first_byte_seconds", "silence_seconds", "log_format"),
            **({"client_tls": _client_tls(credentials)} if site.client_endpoint != "plain-http" else {}),
        }
    )
    return _text(given)


def hive_config(site: Site, host: Host, engines: Sequence[str] = (), images: Sequence[Image] = ()) -> str:
    """Return /etc/rbee/hive.yaml; `engines` and `images` are those to use, whatever else still lies on the host."""
    return _text(_hive(site, host, engines, images))


def hive_alone_config(site: Site, host: Host, *, queen: str, advertise: str) -> str:
    """Return /etc/rbee/hive.yaml for a hive with its workers in one container, where there is no deployer and no host.

    `queen` is the name that it finds the queen by, `advertise` the one that she finds it by.
    """
    here = replace(host, models_dir=str(ports.MODELS), mode=Mode.BARE.value, worker_runtime=WorkerRuntime.PROCESS.value)
    url = f"https://{bracketed(queen)}:{site.queen.link_port}"
    return _text(
        _hive(site, here, (), ()).model_copy(update={"queen_url": url, "advertise": advertise, "launcher": "process"})
    )


def _hive(site: Site, host: Host, engines: Sequence[str], images: Sequence[Image]) -> HiveConfig:
    return HiveConfig.model_validate(
        {
            "fleet": site.name,
            "name": host.name,
            "port": host.hive_port,
            "advertise": host.reach,
            "queen_url": queen_link_url(site, host),
            "models_dir": host.models_dir,
            "link_dir": credentials_directory(ports.HIVE_UNIT),
            **_launcher(host, images),
            "worker_ports": host.worker_ports,
            **{name: given for name, given in _store_and_devices(host).items() if given},
            **({"engine_builds": list(engines)} if engines else {}),
            **_unusual(site, "log_format"),
        }
    )


def _unusual(site: Site, *names: str) -> dict[str, object]:
    """Return settings that are not as they are where nobody says anything: an older release may not know them."""
    usual = {each.name: each.default for each in fields(Site)}
    return {name: getattr(site, name) for name in names if getattr(site, name) != usual[name]}


def _launcher(host: Host, images: Sequence[Image]) -> dict[str, Any]:
    """Return what the hive starts workers with."""
    engine = host.container_engine
    if engine is None:
        return {"launcher": "systemd"}
    return {
        "launcher": engine.program,
        "containers": {
            "images": _by_model_engine(host, images),
            "socket": str(ports.GUARD_SOCKET),
            **({} if host.worker_memory is None else {"memory_limit": host.worker_memory}),
        },
    }


def _by_model_engine(host: Host, images: Sequence[Image]) -> dict[str, dict[str, str]]:
    return {
        name: {
            "image": image.id,
            **({"engine_dir": str(ENGINES_INSIDE / image.engine)} if name == image.name.engine else {}),
        }
        for image in images
        for name in served_by(image.name)
        if name in {BUILT_IN_ENGINE, *host.engines}
    }


def guard_config(site: Site, host: Host, images: Sequence[Image], engine: ContainerEngine) -> str:
    """Return /etc/rbee/guard.json: what a hive may ask of the host's container engine."""
    settings = ContainerSettings()
    # Loads what speaks to engines, which fleets without containers do without.
    from rbee_runtime.hive.launchers.around import callers  # noqa: PLC0415

    given = {
        "engine": engine.program,
        "engine_socket": ENGINE_SOCKETS[engine],
        "fleet": site.name,
        "hive": host.name,
        "images": [image.id for image in images if image.name.engine],
        "models": [host.models_dir, *host.store.hf_caches],
        "handover": str(ports.HIVE_STATE / "containers"),
        "handed": str(ports.HANDED),
        "callers": list(callers(_hive(site, host, (), images))),
        "network": settings.network,
        "ports": list(host.worker_ports),
        "user": ports.WORKER_USER,
        "groups": [ports.MODELS_GROUP, *DEVICE_GROUPS],
        "memory_limit": host.worker_memory,
        "pids_limit": settings.pids_limit,
        "rules": str(ports.NETWORK_MARK),
        **({"engine_user": ports.ENGINE_USER} if engine is ContainerEngine.ROOTLESS else {}),
    }
    text = json.dumps(given, indent=1, sort_keys=True) + "\n"
    try:
        guard.parse(text.encode())
    except ValueError as error:
        raise RenderError(f"host {host.name!r}: no guard starts with these settings: {error}") from error
    return text


def _store_and_devices(host: Host) -> dict[str, dict[str, Any]]:
    return {"store": host.store.settings(), "devices": devices.settings(host.devices)}


def fleet_file(site: Site, files: dict[str, tuple[ModelFile, ...]]) -> str:
    """Return /etc/rbee/fleet.yaml; `files` are those that the deployer puts on the hosts, by model name."""
    hives = tuple(FleetHive(name=host.name, labels=dict(host.labels)) for host in site.hives)
    models = tuple(_fleet_model(model, files.get(model.name, ())) for model in site.models)
    external = tuple(_fleet_external(server) for server in site.external)
    given = FleetFile(hives=hives, models=models, **({"external": external} if external else {}))
    return _text(given.model_copy(update={"aliases": dict(site.aliases)}) if site.aliases else given)


def queen_link_url(site: Site, host: Host) -> str:
    """Return where a host's hive finds the queen; on the queen's own host that is loopback, whatever its address."""
    name = "127.0.0.1" if host.queen else bracketed(site.queen.reach)
    return f"https://{name}:{site.queen.link_port}"


def bracketed(address: str) -> str:
    """Return an address as it stands in a URL."""
    try:
        return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    except ValueError:
        return address


def _client_tls(credentials: str) -> TlsFiles:
    return TlsFiles.model_validate({"certificate": f"{credentials}/client.pem", "key": f"{credentials}/client.key"})


def _fleet_model(model: Model, files: tuple[ModelFile, ...]) -> FleetModel:
    return FleetModel.model_validate(
        {
            "name": model.name,
            "source": model.source,
            "engine": model.engine_name,
            "files": files,
            "replicas_min": model.replicas.minimum,
            "replicas_max": model.replicas.maximum,
            "each_host": model.replicas.each_host,
            "context": model.context,
            "slots": model.slots,
            "hosts": model.hosts,
            "labels": dict(model.labels),
            "load_wait": model.load_wait,
            "options": dict(model.options),
            **({"pin": True} if model.pin else {}),
            **_lifecycle(model),
        }
    )


def _lifecycle(model: Model) -> dict[str, Any]:
    """Return what a model says of placement beside its bounds; releases from before that read a file without it."""
    given = {
        "keep_loaded": model.keep_loaded,
        "gpus": model.gpus,
        "cpu": model.cpu,
        "placement": "" if model.placement == Preference.SPREAD else model.placement,
        "apart_from": model.apart_from,
        "continues": model.continues,
    }
    idle = {} if model.idle_ttl is None else {"idle_ttl": model.idle_ttl}
    return idle | {name: value for name, value in given.items() if value}


def _fleet_external(server: External) -> FleetExternal:
    keys = f"{credentials_directory(ports.QUEEN_UNIT)}/{KEYS}"
    return FleetExternal.model_validate(
        {
            "name": server.name,
            "url": server.url,
            "models": dict(server.models),
            "slots": server.slots,
            **({"key_file": keys} if server.key is not None else {}),
            **({"ca": server.authority} if server.ca_file is not None else {}),
        }
    )


def _text(section: Section) -> str:
    # Only what the inventory decides is written, so that an older release can read a newer deployer's file.
    values = section.model_dump(mode="json", exclude_unset=True)
    return HEADER + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
