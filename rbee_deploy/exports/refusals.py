"""What of an inventory cannot go to another substrate; each invariant is a function named as its sentence. Pure."""

import ipaddress
from collections.abc import Callable
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from rbee_deploy.devices import Recorded
from rbee_deploy.errors import ExportError
from rbee_deploy.exports import gpus
from rbee_deploy.exports.stack import part_name
from rbee_deploy.housing import is_showable
from rbee_deploy.site import Site

LONGEST_NAME = 50
"""Names of DNS have 63 letters, and volumes and pods add some to that of their hive."""


def check(site: Site) -> None:
    """Raise ExportError unless every invariant holds."""
    invariants: tuple[Callable[[Site], None], ...] = (
        no_model_is_copied_from_here,
        what_lies_on_machines_can_be_shown,
        devices_are_not_recorded,
        gpus_are_numbers,
        names_stay_different,
        servers_elsewhere_have_addresses,
    )
    for invariant in invariants:
        invariant(site)


def no_model_is_copied_from_here(site: Site) -> None:
    """Check that no model is a file of this machine, which nothing would bring to a volume."""
    for model in site.models:
        if model.copied:
            raise ExportError(
                f"model {model.name!r}: {str(model.file)!r} is a file on this machine, and an export copies none: give "
                "a source that hives fetch (hf:, https:, s3:, oci: …), or write preseed=False and have the file under "
                "the same path on each machine that runs its hives"
            )


def what_lies_on_machines_can_be_shown(site: Site) -> None:
    """Check that the folder of a model that lies on machines can be mounted."""
    for model in (model for model in site.models if model.file is not None):
        folder = str(PurePosixPath(str(model.file)).parent)
        if not is_showable(folder):
            raise ExportError(
                f"model {model.name!r}: it lies in {folder!r}, which no container can be shown: move it to a folder "
                "whose path has letters, digits and ._@+- only"
            )


def devices_are_not_recorded(site: Site) -> None:
    """Check that no hive has to read a recording."""
    for host in site.hives:
        if isinstance(host.devices, Recorded):
            raise ExportError(
                f"host {host.name!r}: devices are a recording, which an export does not bring along; "
                "drop the field, or use simulated(…)"
            )


def gpus_are_numbers(site: Site) -> None:
    """Check that labels that stand for GPUs are numbers of them."""
    for host in site.hives:
        gpus.count(host)


def names_stay_different(site: Site) -> None:
    """Check that hosts differ in more than capitals and dots, and that names are short enough for what is added."""
    known: dict[str, str] = {}
    for host in site.hives:
        name = part_name(host)
        if name in known:
            raise ExportError(
                f"hosts {known[name]!r} and {host.name!r} would both be {name} in an export; rename one of them"
            )
        if len(name) > LONGEST_NAME:
            raise ExportError(
                f"host {host.name!r}: it would be {name} in an export, more than {LONGEST_NAME} letters; shorten it"
            )
        known[name] = host.name


def servers_elsewhere_have_addresses(site: Site) -> None:
    """Check that no other server is looked for inside the queen's own container."""
    for server in site.external:
        host = urlsplit(server.url).hostname or ""
        if host == "localhost" or _is_loopback(host):
            raise ExportError(
                f"external {server.name!r}: {host} is the queen's own container in an export; "
                "write an address under which other machines reach the server"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
