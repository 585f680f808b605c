"""The configuration files of queen and hive, made from the same schema that the processes read them with."""

import ipaddress
from collections.abc import Sequence
from typing import Any

import yaml

from rbee_deploy import devices
from rbee_deploy.externals import KEYS, External
from rbee_deploy.modes import credentials_directory
from rbee_deploy.site import Host, Model, Site
from rbee_runtime import ports
from rbee_runtime.config import (
    FleetExternal,
    FleetFile,
    FleetHive,
    FleetModel,
    HiveConfig,
    QueenConfig,
    Section,
    TlsFiles,
)
from rbee_runtime.protocol import ModelFile

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
            **({"client_tls": _client_tls(credentials)} if site.client_endpoint != "plain-http" else {}),
        }
    )
    return _text(given)


def hive_config(site: Site, host: Host, engines: Sequence[str] = ()) -> str:
    """Return /etc/rbee/hive.yaml; `engines` are the builds to use, whatever else still lies on the host."""
    given = HiveConfig.model_validate(
        {
            "fleet": site.name,
            "name": host.name,
            "port": host.hive_port,
            "advertise": host.reach,
            "queen_url": queen_link_url(site, host),
            "models_dir": host.models_dir,
            "link_dir": credentials_directory(ports.HIVE_UNIT),
            "launcher": "systemd",
            "worker_ports": host.worker_ports,
            **{name: given for name, given in _store_and_devices(host).items() if given},
            **({"engine_builds": list(engines)} if engines else {}),
        }
    )
    return _text(given)


def _store_and_devices(host: Host) -> dict[str, dict[str, Any]]:
    return {"store": host.store.settings(), "devices": devices.settings(host.devices)}


def fleet_file(site: Site, files: dict[str, tuple[ModelFile, ...]]) -> str:
    """Return /etc/rbee/fleet.yaml; `files` are those that the deployer puts on the hosts, by model name."""
    hives = tuple(FleetHive(name=host.name, labels=dict(host.labels)) for host in site.hives)
    models = tuple(_fleet_model(model, files.get(model.name, ())) for model in site.models)
    external = tuple(_fleet_external(server) for server in site.external)
    return _text(FleetFile(hives=hives, models=models, **({"external": external} if external else {})))


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
        }
    )


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
