"""When a host with `fallback="bare"` takes it: where it cannot run in containers, or did not get ready in them.

What such a host is to be is settled where a run first looks at it, looked at again once packages are installed, and
once more where it did not get ready in containers. From then on its part of the run is that of a bare host.
"""

from dataclasses import replace
from typing import Any

from rbee_deploy import fallback
from rbee_deploy.errors import DeployError, ProcessorError
from rbee_deploy.here import Here
from rbee_deploy.images import pulling
from rbee_deploy.operations.root import REFUSALS
from rbee_deploy.plan import Workshop
from rbee_deploy.site import Host, Site

_BROUGHT, _ACTIVATED = "rbee_images_brought", "rbee_activated"
_AGAIN = "it did not get ready there when apply last tried; apply tries again"


def choose(here: Here, *, tries: bool) -> None:
    """Have a host take its fallback if it cannot run in containers and can run bare.

    A run that only looks does not try again (`tries`) what failed on the host before.
    """
    if not fallback.is_open(here.declared):
        return
    why = _of_host(here)
    if not why and not tries and fallback.is_taken(here.facts):
        why = _AGAIN
    if why:
        before = here.site, here.declared, here.workshop
        take(here, why)
        if _obstacle(here):
            # What bars both ways is told as for the one that the inventory asks for.
            _become(here, *before)
            del here.host.connector_data[fallback.WHY]


def take(here: Here, why: str) -> None:
    """Make a host a bare one for the rest of the run."""
    site, declared = fallback.bare(here.site, here.declared)
    _become(here, site, declared, replace(here.workshop, site=site))
    here.host.connector_data[fallback.WHY] = why


def brought(here: Here, images: Any) -> None:
    """Note the operation that brings images, which may fail without failing a host that can still run bare."""
    here.host.connector_data.setdefault(_BROUGHT, []).append(images)


def activated(here: Here, activation: Any) -> None:
    """Note an operation that activates, which may fail alike."""
    here.host.connector_data.setdefault(_ACTIVATED, []).append(activation)


def settle(here: Here) -> bool:
    """Have a host take its fallback if it did not get ready in containers in this run, and say whether it did."""
    failed = _failed(here, _ACTIVATED)
    # Whoever was refused was left as it is, because of another host: that is no failure of its way.
    if not failed or not fallback.is_open(here.declared) or here.host.connector_data.get(REFUSALS):
        return False
    # Without its images nothing was activated; why they did not come says more, after what the engine has to say.
    lines = [lines[-1] for lines in _failed(here, _BROUGHT) if lines] + [lines[0] for lines in failed if lines]
    if lines and pulling.is_operators(lines[0]):
        return False
    take(here, lines[0].removesuffix("; its last lines:") if lines else "it did not get ready")
    return True


def unsettled(here: Here) -> list[str]:
    """Return why a host is to fail now, of which a failure was passed over that is no reason for its fallback.

    It was left as it is because of another, lacks an image of what it runs already, or got none by a mistake of the
    operator's.
    """
    refusals: list[str] = here.host.connector_data.pop(REFUSALS, [])
    if refusals or not fallback.is_open(here.declared):
        return refusals
    return [lines[-1] if lines else "its images did not come" for lines in _failed(here, _BROUGHT)]


def _failed(here: Here, key: str) -> list[list[str]]:
    """Return what each operation of a kind said that failed."""
    done = (meta for meta in here.host.connector_data.get(key, ()) if meta.is_complete() and meta.did_error())
    return [[line.strip() for line in (meta.stderr_lines or meta.stdout_lines) if line.strip()] for meta in done]


def _become(here: Here, site: Site, declared: Host, workshop: Workshop) -> None:
    here.site, here.declared, here.workshop = site, declared, workshop
    here.host.connector_data.pop(fallback.PROBLEMS, None)


def _of_host(here: Here) -> str:
    """Return what about a host bars the way that it is to go, "" for nothing of it.

    What the operator has to put right on this machine is no reason to run another way, nor what may be over in a
    minute; the next step fails with it.
    """
    try:
        return next(iter(here.problems(passing=False) or here.room()), "")
    except ProcessorError as error:
        return str(error)
    except DeployError:
        return ""


def _obstacle(here: Here) -> str:
    """Return why a deploy cannot go the way that a host is to go, "" if it can."""
    try:
        return next(iter(here.problems() or here.room()), "")
    except DeployError as error:
        return str(error)
