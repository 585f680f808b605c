"""Note on the operator's machine how a host that was deployed is reached."""

from collections.abc import Iterator

from pyinfra import host
from pyinfra.api import StringCommand, operation

from rbee_deploy import remembered
from rbee_deploy.errors import DeployError
from rbee_deploy.operations.root import refused
from rbee_deploy.site import Host, Site


@operation()
def noted(site: Site, declared: Host) -> Iterator[StringCommand]:
    """Keep it for when the inventory has lost the host; nothing is sent to the host, and nothing counts as changed."""
    if host.state.is_executing:
        try:
            remembered.remember(site, declared)
        except DeployError as error:
            yield from refused([str(error)])
            return
    host.noop("it is noted")
