"""The queen's admin API as a run of the deployer asks it: on her own host, through the activator that she came with."""

import json
from typing import Any

from paramiko import SSHException
from pyinfra.api import StringCommand

from rbee_deploy.authority import FleetAuthority
from rbee_deploy.here import Here
from rbee_deploy.history import Past
from rbee_deploy.operations.activate import activator
from rbee_deploy.operations.root import as_root_command
from rbee_deploy.operations.workers import Door
from rbee_deploy.secrets import Secret

_REFUSED = "the queen refused"
"""How the activator of any release begins what she answered with an error."""


class UnansweredError(Exception):
    """The queen did not answer, or refused; the text is one sentence."""


class SilentError(UnansweredError):
    """Her host was asked, and she does not answer there."""


def door(here: Here, key: Secret | None = None) -> Door | None:
    """Return how the queen is asked with what her host runs now; None where no queen was deployed."""
    now = Past.of(here.facts.deploy).now
    if not here.declared.queen or now is None:
        return None
    site = here.site
    given = key if key is not None else FleetAuthority.open(site.secrets, site.name).first_api_key()[0]
    tls = site.client_endpoint != "plain-http"
    return Door(now.release, here.declared.queen_port, tls, given, site.rollout.workers_seconds)


def asking(way: Door, method: str, path: str) -> StringCommand:
    """Return the command that asks; it may be sent again and again."""
    script = activator(way.release, "queen", *way.words(), method, path)
    return as_root_command(script, (way.key.reveal(),))


def answer(host: Any, command: StringCommand) -> Any:
    """Return the JSON that she answers, or raise UnansweredError."""
    try:
        succeeded, output = host.connector.run_shell_command(command, **command.connector_arguments)
    except (OSError, EOFError, SSHException) as error:
        raise UnansweredError(f"the connection to her host broke off ({error})") from error
    if succeeded:
        return _parsed(output.stdout)
    said = [line for line in output.stderr.splitlines() if line.strip()]
    sentence = said[-1] if said else "the queen said nothing"
    raise UnansweredError(sentence) if _REFUSED in sentence else SilentError(sentence)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UnansweredError(f"her host answers something else than JSON ({text[:60]!r})") from error
