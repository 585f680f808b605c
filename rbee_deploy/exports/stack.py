"""What every substrate runs: a queen, and for each GPU host of the inventory one container with hive and workers; pure.

A hive in such a container can ask nobody for further ones, so it starts workers as processes beside itself, from the
image that holds the model engine. Where it can be reached is the substrate's to say.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rbee_deploy import configs, housing, modes
from rbee_deploy.exports import gpus, secret_files
from rbee_deploy.images.kinds import Kind
from rbee_deploy.site import Host, Model, Site
from rbee_runtime import ports

QUEEN = "rbee-queen"
HIVE = "rbee-hive-"
STARTS_WITHIN_SECONDS = 300
"""A hive looks for devices first, and a queen may have to wait for her volume."""

HIVE_STOP_SECONDS = 230
"""Workers finish what they have in hand, for at most 200 s; then the hive ends."""

QUEEN_STOP_MORE_SECONDS = 30
"""Beyond the seconds that open streams may go on."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Under which names parts of a stack reach each other; `link` is where hives find the queen.

    `hive` is where the queen finds a hive, None for the name of its part.
    """

    link: str = QUEEN
    hive: str | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """One container of queen or hive.

    `configs` are the files of /etc/rbee by name, `secrets` the names of those in its folder of credentials. `folders`
    are folders of the machine that it reads models from. `gpus` are devices of NVIDIA. `stop_seconds` is how long it
    may take to end.
    """

    role: str
    name: str
    host: Host
    image: str
    configs: Mapping[str, str]
    secrets: tuple[str, ...]
    folders: tuple[str, ...] = ()
    gpus: int = 0
    stop_seconds: int

    @property
    def command(self) -> list[str]:
        """Return what runs in the container."""
        return [f"rbee-{self.role}", "--config", str(ports.ETC / f"{self.role}.yaml")]

    @property
    def health(self) -> list[str]:
        """Return the command that says whether it answers."""
        return ["rbee-health", self.role]

    @property
    def credentials(self) -> str:
        """Return the folder of its secrets."""
        return modes.credentials_directory(modes.role_units(self.role).service)

    @property
    def volumes(self) -> dict[str, Path]:
        """Return what lasts, by the end of the volume's name."""
        if self.role == "queen":
            return {"state": ports.QUEEN_STATE}
        return {"state": ports.HIVE_STATE, "models": ports.MODELS}

    @property
    def scratch(self) -> dict[str, Path]:
        """Return what is empty at each start and may be written to."""
        return {"run": ports.QUEEN_RUN if self.role == "queen" else ports.HIVE_RUN, "tmp": Path("/tmp")}  # noqa: S108


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A queen and her hives, of an inventory whose names were checked."""

    site: Site
    queen: Part
    hives: tuple[Part, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Return all of them."""
        return (self.queen, *self.hives)


def of(site: Site, places: Places = Places(), registry: str = "") -> Stack:
    """Return the stack of a fleet that `refusals.check` let pass; images are in a registry, or local without one."""
    return Stack(
        site=site, queen=_queen(site, registry), hives=tuple(_hive(site, h, places, registry) for h in site.hives)
    )


def only(site: Site, host: Host) -> Site:
    """Return the fleet with one hive, its queen, and the models that this hive may serve."""
    hosts = tuple(replace(each, hive=each == host) for each in site.hosts if each.queen or each == host)
    models = (
        replace(model, hosts=(host.name,) if model.hosts else ()) for model in site.models if _serves(site, host, model)
    )
    return replace(site, hosts=hosts, models=tuple(models))


def _serves(site: Site, host: Host, model: Model) -> bool:
    return host in site.hives_for(model)


def part_name(host: Host) -> str:
    """Return the name of a hive's part: letters in lower case, digits and dashes, as all three substrates take it."""
    return f"{HIVE}{dashed(host.name)}"


def dashed(name: str) -> str:
    """Return a name of the inventory as names of DNS are written."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def image(kind: Kind, version: str, registry: str) -> str:
    """Return the name of an image: that of a registry, or the one that `rbee-deploy images` gave it."""
    return f"{registry.rstrip('/')}/rbee-{kind.value}:{version}" if registry else kind.tag(version)


def folders(site: Site, hosts: Iterable[Host]) -> tuple[str, ...]:
    """Return the folders of machines that hives read models from."""
    return tuple(dict.fromkeys(folder for host in hosts for folder in housing.read_only(site, host)))


def _queen(site: Site, registry: str) -> Part:
    return Part(
        role="queen",
        name=QUEEN,
        host=site.queen,
        image=image(Kind.QUEEN, site.version, registry),
        configs={"queen.yaml": configs.queen_config(site, site.queen), "fleet.yaml": configs.fleet_file(site, {})},
        secrets=secret_files.names(site, site.queen, "queen"),
        stop_seconds=int(site.drain_seconds) + QUEEN_STOP_MORE_SECONDS,
    )


def _hive(site: Site, host: Host, places: Places, registry: str) -> Part:
    name = part_name(host)
    text = configs.hive_alone_config(site, host, queen=places.link, advertise=places.hive or name)
    return Part(
        role="hive",
        name=name,
        host=host,
        image=image(Kind.WORKER_LLAMA_CPP, site.version, registry),
        configs={"hive.yaml": text},
        secrets=secret_files.names(site, host, "hive"),
        folders=folders(site, [host]),
        gpus=gpus.count(host),
        stop_seconds=HIVE_STOP_SECONDS,
    )
