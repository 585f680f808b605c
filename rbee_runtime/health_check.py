"""`rbee-health ROLE`: whether the queen, hive or worker of this container or host answers; 0 if so, else 1 and why.

It is asked every half minute and therefore imports little: no schema is checked here, the process itself has done that.
"""

import http.client
import json
import os
import ssl
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbee_runtime import ports

SECONDS = 4.0
"""Below the five after which an engine of containers counts a check as failed."""

PLACES = {
    "queen": ports.ETC / "queen.yaml",
    "hive": ports.ETC / "hive.yaml",
    "worker": Path("/run/rbee/launch.json"),
}
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True)
class Door:
    """Where a process answers; `certificates` is where those lie that it demands, None where it demands none."""

    host: str
    port: int
    tls: bool = False
    certificates: Path | None = None
    role: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask the process that the command line names, and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) not in {1, 2} or words[0] not in PLACES:
        return _said(f"give {', '.join(PLACES)}, and its settings file if that is another one: rbee-health queen")
    role, path = words[0], Path(words[1]) if len(words) == 2 else PLACES[words[0]]
    try:
        door = door_of(role, _read(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _said(f"cannot read {path}: {error}")
    try:
        status = ask(door)
    except (OSError, http.client.HTTPException) as error:
        return _said(f"the {role} does not answer on port {door.port}: {error}")
    # A worker lets queen and hive in, and nobody else; that it says so is an answer.
    alive = status == 200 or (role == "worker" and status == 403)
    return 0 if alive else _said(f"the {role} answers {status} on port {door.port}")


def door_of(role: str, settings: Mapping[str, Any]) -> Door:
    """Return where a role answers by its settings; KeyError or TypeError where they are none."""
    if role == "queen":
        listens = str(settings.get("address", "0.0.0.0"))  # noqa: S104 - what it listens on
        port = int(settings.get("port", ports.QUEEN_PORT))
        return Door(_WILDCARDS.get(listens, listens), port, tls=bool(settings.get("client_tls")))
    if role == "hive":
        listens, folder = str(settings.get("address", "0.0.0.0")), settings.get("link_dir")  # noqa: S104 - as above
        port = int(settings.get("port", ports.HIVE_PORT))
    else:
        listens, folder, port = str(settings["host"]), settings.get("tls_dir"), int(settings["port"])
    certificates = Path(os.path.expandvars(folder)) if folder else None
    return Door(_WILDCARDS.get(listens, listens), port, certificates is not None, certificates, role)


def ask(door: Door) -> int:
    """Return the status of the answer to `GET /health`; OSError or HTTPException without one."""
    if door.tls:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            door.host, door.port, timeout=SECONDS, context=_context(door)
        )
    else:
        connection = http.client.HTTPConnection(door.host, door.port, timeout=SECONDS)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    finally:
        connection.close()


def _context(door: Door) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is told to the other end and nothing of its answer believed but that it came.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if door.certificates is not None:
        context.load_cert_chain(door.certificates / f"{door.role}.pem", door.certificates / f"{door.role}.key")
    return context


def _read(path: Path) -> Mapping[str, Any]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        found = json.loads(text)
    else:
        import yaml  # noqa: PLC0415 - workers do without

        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from error
    if not isinstance(found, dict):
        raise TypeError("it does not hold a mapping of settings")
    return found


def _said(sentence: str) -> int:
    sys.stderr.write(f"rbee-health: {sentence}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
