"""What was found on a host, and the lines of an inventory that make it part of the fleet. Pure."""

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbee_deploy.adoption import search
from rbee_deploy.configs import bracketed
from rbee_deploy.site import Host, Site
from rbee_runtime.brief import cut
from rbee_runtime.errors import ReferenceFormError
from rbee_runtime.models.references import check_name

OWNERS = {"llamacpp": "llama-server", "vllm": "vllm", "library": "ollama"}
"""Who a list of models says that they belong to, by server."""

ANY_SERVER = "openai"
"""What speaks OpenAI's API and is none of the known servers."""

_WIDER = {
    "ollama": "set OLLAMA_HOST=0.0.0.0 for it (systemctl edit ollama) and restart it",
    "llama-server": "start it with --host 0.0.0.0",
    "vllm": "start it with --host 0.0.0.0",
}
_FOREIGN = re.compile(r"[^A-Za-z0-9._-]+|[.]{2,}")
MOST_LETTERS = 56
"""Of a name that was made up; there is room for a number behind it."""


@dataclass(frozen=True)
class Server:
    """One server on a host. `status` is what it answered when it was asked for its models."""

    server: str
    port: int
    addresses: tuple[str, ...]
    models: tuple[str, ...]
    status: int = 200

    @property
    def loopback(self) -> bool:
        """Say whether only its own host reaches it."""
        return all(ipaddress.ip_address(address).is_loopback for address in self.addresses)

    @property
    def wants_key(self) -> bool:
        """Say whether it asks for an API key."""
        return self.status in {401, 403}


def parse(rows: Sequence[Mapping[str, Any]]) -> list[Server]:
    """Return what the search on a host printed."""
    return [
        Server(
            row["server"] or next((OWNERS[owner] for _, owner in row["models"] if owner in OWNERS), ANY_SERVER),
            int(row["port"]),
            tuple(map(str, row["addresses"])),
            tuple(str(name) for name, _ in row["models"]),
            int(row["status"]),
        )
        for row in rows
    ]


def url(server: Server, site: Site, host: Host) -> str:
    """Return where the queen reaches it, or would if it listened for other hosts."""
    bound = [address for address in server.addresses if not ipaddress.ip_address(address).is_unspecified]
    everywhere = len(bound) < len(server.addresses)
    if host.name == site.queen.name:
        place = "127.0.0.1" if everywhere else bound[0]
    else:
        beyond = [address for address in bound if not ipaddress.ip_address(address).is_loopback]
        place = host.reach if everywhere or host.reach in beyond or not beyond else beyond[0]
    return f"http://{bracketed(place)}:{server.port}"


def remarks(server: Server, site: Site, host: Host) -> list[str]:
    """Return what a person has to do or know before its line is of use."""
    said = []
    if server.loopback and host.name != site.queen.name:
        wider = _WIDER.get(server.server, "have it listen on an address of the network")
        said.append(f"it listens on loopback only, so the queen on {site.queen.name} cannot reach it: {wider}")
    if server.wants_key:
        said.append("it tells its models only with its API key: write their names into the line")
    elif server.status != 200:
        said.append(f"it answered {server.status}, perhaps because it still loads: run this again, or name its models")
    elif not server.models:
        said.append("it has no model yet")
    return said


def line(server: Server, name: str, address: str) -> str:
    """Return the line of an inventory that declares it."""
    names = served(server.models)
    plain = all(name == own for name, own in names.items())
    pairs = (_literal(name) if plain else f"{_literal(name)}: {_literal(own)}" for name, own in names.items())
    models = f"[{', '.join(pairs)}]" if plain else f"{{{', '.join(pairs)}}}"
    variable = re.sub(r"[^A-Z0-9]+", "_", f"{name}_key".upper())
    key = f', key=secret_env("{variable}")' if server.wants_key else ""
    return f'external("{name}", url="{address}", models={models}{key}),'


def _literal(text: str) -> str:
    """Return text as Python has it, without anything that a screen would obey: the server is somebody else's."""
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else ascii(text)


def served(models: Sequence[str]) -> dict[str, str]:
    """Return a server's names of its models by names that clients of the fleet may ask for."""
    names: dict[str, str] = {}
    for own in models:
        name = wanted = _name(own)
        number = 2
        while name in names:
            name, number = f"{wanted}-{number}", number + 1
        names[name] = own
    return names


def _name(own: str) -> str:
    """Return the server's name if it is fit, else what is left of it: a path's last part, a reference's last two."""
    parts = [part for part in own.removesuffix(".gguf").split("/") if part]
    whole = () if own.endswith(".gguf") or own.startswith("/") else (own, "/".join(parts[-2:]))
    for candidate in (*whole, *parts[-1:]):
        try:
            return check_name(candidate)
        except ReferenceFormError:
            continue
    return _FOREIGN.sub("-", parts[-1] if parts else own)[:MOST_LETTERS].strip("-._") or "model"


def report(servers: Sequence[Server], site: Site, host: Host) -> list[dict[str, Any]]:
    """Return each server as data: what it is, where, what to do about it, and its line."""
    rows: list[dict[str, Any]] = []
    declared = {item.url: item.name for item in site.external}
    taken = {item.name for item in site.external}
    for server in servers:
        address = url(server, site, host)
        name = declared.get(address) or _unused(f"{host.name}-{server.server}", server.port, taken)
        taken.add(name)
        rows.append(
            {
                "server": server.server,
                "port": server.port,
                "models": list(server.models),
                "loopback": server.loopback,
                "wants_key": server.wants_key,
                "declared": name if address in declared else None,
                "remarks": remarks(server, site, host),
                "line": line(server, name, address),
            }
        )
    return rows


def _unused(name: str, port: int, taken: set[str]) -> str:
    return f"{name}-{port}" if name in taken else name


def program() -> list[str]:
    """Return the lines of the program that searches."""
    return Path(search.__file__).read_text(encoding="utf-8").splitlines()


def _shown(name: str) -> str:
    return cut(name if name.isprintable() else ascii(name), MOST_LETTERS)


def lines(host: str, rows: list[dict[str, Any]], inventory: str) -> list[str]:
    """Return what a person reads: each server, what to do about it, its line, and what to do with the lines."""
    said = []
    for row in rows:
        models = ", ".join(map(_shown, row["models"])) or "no models told"
        said.append(f"{host}: {row['server']} on port {row['port']}: {models}")
        said += [f"  {remark}" for remark in row["remarks"]]
        said.append(f"  {row['line']}" if row["declared"] is None else f"  is external {row['declared']!r} already")
    if any(row["declared"] is None for row in rows):
        said.append(f"put each line into fleet(external=[…]) of {inventory}, then: rbee-deploy apply -i {inventory}")
    return said
