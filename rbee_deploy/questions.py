"""What a host is asked about in the one fact that is read of it."""

from pathlib import PurePosixPath

from rbee_deploy import accounts, modes
from rbee_deploy.facts.state import Asked
from rbee_deploy.preflight.room import IMAGES
from rbee_deploy.render import roles
from rbee_deploy.site import Host, Site
from rbee_runtime import ports

WORKERS = f"{ports.WORKER_TEMPLATE.removesuffix('.service')}*.service"


def about(site: Site, host: Host, paths: tuple[str, ...], *, password: bool) -> Asked:
    """Return what a host is asked about; `paths` are those of its files."""
    directories = tuple(item.path for item in accounts.directories(host))
    users, engine = accounts.users(host), host.container_engine
    optional = {name for user in users for name in (*user.groups, *user.groups_if_present)}
    return Asked(
        paths=(*paths, *_parents(host.models_dir), *directories),
        units=(*units(host), *elsewhere(host), WORKERS),
        users=tuple(user.name for user in users),
        groups=tuple(sorted({*optional, *(group.name for group in accounts.groups(host))})),
        models_dir=host.models_dir,
        password=password,
        queen=None if host.queen else (site.queen.reach, site.queen.link_port),
        firewall=host.firewall,
        container_engine=engine,
        image_stores=(IMAGES[engine],) if engine is not None else (),
        caches=host.store.hf_caches,
    )


def units(host: Host) -> tuple[str, ...]:
    """Return the units that a host starts at boot."""
    return modes.enabled_units(roles(host), host.way, firewall=host.firewall is not None)


def elsewhere(host: Host) -> tuple[str, ...]:
    """Return the units that it has not, perhaps not any more."""
    return modes.units_elsewhere(roles(host), host.way)


def _parents(path: str) -> tuple[str, ...]:
    return tuple(str(parent) for parent in PurePosixPath(path).parents[:-1])
