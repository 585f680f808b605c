"""Hosts with `fallback="bare"`: what they are then, what they are asked about for both ways, what is said. Pure.

When one takes it, `falling_back` says.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rbee_deploy import packages, questions
from rbee_deploy.facts.state import Asked
from rbee_deploy.modes import Mode, WorkerRuntime
from rbee_deploy.observed import Observed
from rbee_deploy.packages import Need
from rbee_deploy.render import FALLBACK
from rbee_deploy.site import Host, Site

if TYPE_CHECKING:
    from rbee_deploy.plan import Workshop

WHY = "rbee_fallback"
"""Key of why a host runs bare; what is not there does not."""

PROBLEMS = "rbee_problems"
"""Key of what was found to forbid the deploy, and of the state that it was found in."""


def is_open(host: Host) -> bool:
    """Say whether a host may still take its fallback."""
    return host.fallback is not None and host.mode == Mode.CONTAINER


def bare(site: Site, host: Host) -> tuple[Site, Host]:
    """Return the fleet and the host as they are once it has taken its fallback."""
    other = replace(host, mode=Mode.BARE.value, worker_runtime=WorkerRuntime.PROCESS.value)
    return replace(site, hosts=tuple(other if item.name == host.name else item for item in site.hosts)), other


def about(site: Site, host: Host, workshop: "Workshop", *, password: bool) -> Asked:
    """Return what a host is asked about: where it has a fallback, what both ways need to know."""
    asked = questions.about(site, host, workshop.paths(host), password=password)
    if not is_open(host):
        return asked
    elsewhere, other = bare(site, host)
    also = questions.about(elsewhere, other, replace(workshop, site=elsewhere).paths(other), password=password)
    both = {name: _both(getattr(asked, name), getattr(also, name)) for name in ("paths", "units", "users", "groups")}
    return replace(asked, **both)


def _both(one: tuple[str, ...], other: tuple[str, ...]) -> Any:
    return tuple(dict.fromkeys((*one, *other)))


def needs(host: Host) -> tuple[Need, ...]:
    """Return what a host needs from its distribution: where it may yet take its fallback, for both ways."""
    own = packages.needed(host.firewall, host.container_engine)
    return tuple(dict.fromkeys((*own, *packages.BARE))) if is_open(host) else own


def is_taken(facts: Observed) -> bool:
    """Say whether a host was left in its fallback by an earlier run."""
    return FALLBACK in facts.paths


def said(item: Any) -> list[str]:
    """Return what there is to say of a host that runs bare, one sentence or none; `item` is pyinfra's host."""
    why = item.connector_data.get(WHY)
    return [f"it runs bare instead of in containers: {why}"] if why else []
