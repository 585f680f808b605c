"""What a step does on the operator's machine: note how a host is reached, replace the fleet's certificates."""

from collections.abc import Callable, Iterator
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, operation

from rbee_deploy import remembered
from rbee_deploy.errors import DeployError
from rbee_deploy.operations.root import refused
from rbee_deploy.site import Host, Site


@operation()
def noted(site: Site, declared: Host, *, activated: bool) -> Iterator[StringCommand]:
    """Keep it for when the inventory has lost the host; nothing is sent to the host, and nothing counts as changed."""
    if host.state.is_executing:
        try:
            remembered.remember(site, declared, activated=activated)
        except DeployError as error:
            yield from refused([str(error)])
            return
    host.noop("it is noted")


@operation()
def renewed(renew: Callable[[], Any]) -> Iterator[StringCommand]:
    """Replace what the deployer keeps for hosts, now that nothing stands in the way; nothing is sent to the host."""
    if host.state.is_executing:
        try:
            renew()
        except DeployError as error:
            yield from refused([str(error)])
            return
    host.noop("it is replaced")
