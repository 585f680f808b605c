"""Why hosts could not be reached over SSH: a second look, because pyinfra only prints what it met."""

import logging
import socket
from collections.abc import Iterable
from typing import Any

from gevent.pool import Pool
from pyinfra.api.exceptions import PyinfraError

from rbee_deploy.inventory import Placement
from rbee_deploy.preflight import unreachable

SECONDS = 5.0
"""For a host that pyinfra has waited for already."""

AES_BYTES = 16 << 32
"""What one AES key may encrypt: 2**32 blocks (RFC 4344 §3.2), which is OpenSSH's own limit too."""


def calm() -> None:
    """Keep the SSH library's tracebacks off the screen: what it met is said in the report, in one sentence."""
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)


def keep_keys(host: Any) -> None:
    """Let a connection that is to carry something large keep its keys for as long as their cipher allows.

    The SSH library agrees on new ones after half a gigabyte, and if the host closes a channel meanwhile, both wait
    until the connection is given up (paramiko's issue 822). The eighth piece of an upload ends just there. A host whose
    own RekeyLimit is low asks for new ones still.
    """
    client = getattr(host.connector, "client", None)
    transport = client.get_transport() if client is not None else None
    if transport is not None and transport.local_cipher.startswith("aes"):
        transport.packetizer.REKEY_BYTES = AES_BYTES


def sentences(hosts: Iterable[Any]) -> dict[str, str]:
    """Return, by host name, what stands in the way of a connection and how to put it right."""
    unreached = list(hosts)
    reasons = Pool(max(1, len(unreached))).map(_reason, unreached)
    return {host.name: _sentence(host, reason) for host, reason in zip(unreached, reasons, strict=True)}


def _reason(host: Any) -> str:
    address = (host.data.get("ssh_hostname") or host.name, int(host.data.get("ssh_port") or 22))
    try:
        # Behind a jump host there is no straight way, and the name may be known to the configuration alone.
        if not host.data.get("ssh_config_file"):
            socket.create_connection(address, timeout=SECONDS).close()
        host.connector.connect()
    except socket.gaierror:
        return "its name does not resolve"
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except PyinfraError as error:
        return str(error)
    return "it failed once and works now: run the same command again"


def _sentence(host: Any, reason: str) -> str:
    placed = host.data.get("rbee")
    if not isinstance(placed, Placement):
        return reason
    problem = unreachable(placed.host, reason)
    return f"{problem.cause}; {problem.fix}"
