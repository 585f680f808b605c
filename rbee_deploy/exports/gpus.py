"""How many GPUs a hive's container gets: what the label `nvidia.com/gpu` of its host says; pure."""

from rbee_deploy.errors import ExportError
from rbee_deploy.site import Host

LABEL = "nvidia.com/gpu"
"""The name that Kubernetes knows them by as well."""

MOST = 64
"""More than any machine has; a number beyond it is a slip."""


def count(host: Host) -> int:
    """Return the number of a host, 0 where nothing is said, or raise ExportError."""
    given = host.labels.get(LABEL)
    if given is None:
        return 0
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= MOST:
        raise ExportError(
            f"host {host.name!r}: the label {LABEL!r} is {given!r}: write the number of its GPUs, from '1' to "
            f"'{MOST}', or drop the label"
        )
    return int(given)
