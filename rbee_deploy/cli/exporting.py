"""export: the same fleet for Compose, Kubernetes or one pod of Podman."""

import argparse
import ipaddress
import re
from pathlib import Path

from rbee_deploy import _fields
from rbee_deploy.cli import documents
from rbee_deploy.cli.arguments import Commands, command
from rbee_deploy.errors import ExportError
from rbee_deploy.exports import folder, write
from rbee_deploy.exports.write import Substrate, Wanted
from rbee_deploy.site import Site

HELP = "write the fleet as a Compose project, as Kubernetes manifests, or as one pod for `podman kube play`"
_REGISTRY = re.compile(r"[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]*)*/?")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}$)(\*\.)?({_LABEL}\.)*(?![0-9]+$){_LABEL}")
"""With digits alone at its end it would be taken for an address, and is none."""


def register(commands: Commands) -> None:
    """Add the command."""
    added = command(commands, "export", _export, HELP, limits=False, hosts=False)
    add = added.add_argument
    add("substrate", choices=[kind.value for kind in Substrate], help="what it is to run on")
    add("-o", "--out", required=True, type=Path, metavar="FOLDER", help="where it goes: a new folder, or one of before")
    add("--registry", default="", metavar="PREFIX", help="where images are pulled from, such as registry.example/rbee")
    add(
        "--models-size",
        default="100 GiB",
        metavar="SIZE",
        help="of a hive's volume whose host has no quota; 100 GiB if left out",
    )
    add("--hive", metavar="HOST", help="pod: the one hive in it")
    add("--secrets", action="store_true", help="also FOLDER/secrets, which holds the fleet's keys and is for you alone")
    add(
        "--client-name",
        action="append",
        default=[],
        metavar="NAME",
        help="with --secrets: a further name or address by which clients reach the queen, for her certificate",
    )


def _export(options: argparse.Namespace) -> int:
    wanted, where = _wanted(options), options.out.expanduser().absolute()
    client_names, made = _client_names(options), write.stack_of(options.site, wanted)
    files, held = write.files(made, wanted), write.held(made, wanted)
    # Before certificates are issued for it.
    folder.check(where, files, held, anew=options.secrets)
    secrets = write.secrets(made, wanted, client_names) if options.secrets else {}
    folder.write(where, files, secrets, held)
    advice = _open_to_all(options.site, wanted)
    lines = [f"{part.name}  {part.image}  {_named(part.secrets)}" for part in made.parts]
    documents.tell(
        options,
        *(str(where / name) for name in files),
        *(str(where / folder.SECRETS / name) for name in secrets),
        *lines,
        *([advice] if advice else []),
        advice=advice,
        folder=str(where),
        files=list(files),
        secrets=[f"{folder.SECRETS}/{name}" for name in secrets],
        parts=[{"name": part.name, "image": part.image, "secrets": list(part.secrets)} for part in made.parts],
    )
    return 0


def _open_to_all(site: Site, wanted: Wanted) -> str:
    """Return what to do where nothing holds clients to their networks, "" where a policy does or nobody asked."""
    if site.clients is None or wanted.substrate is Substrate.KUBERNETES:
        return ""
    return (
        f"{wanted.substrate} does not keep clients of other networks out: close port {site.queen.queen_port} of its "
        f"machine to all but {', '.join(site.clients)}"
    )


def _named(secrets: tuple[str, ...]) -> str:
    return f"needs a secret with {', '.join(secrets)}"


def _wanted(options: argparse.Namespace) -> Wanted:
    if options.registry and not _REGISTRY.fullmatch(options.registry):
        raise ExportError(
            f"--registry {options.registry!r} is no registry with a path: write it as in registry.example/rbee"
        )
    try:
        size = _fields.size(1)(options.models_size)
    except _fields.UnfitError as error:
        raise ExportError(f"--models-size {options.models_size!r}: {error}") from error
    return Wanted(
        substrate=Substrate(options.substrate), registry=options.registry, models_bytes=size, hive=options.hive
    )


def _client_names(options: argparse.Namespace) -> list[str]:
    names: list[str] = options.client_name
    wrong = next((name for name in names if not _is_address(name) and not _DNS_NAME.fullmatch(name)), None)
    if wrong is not None:
        raise ExportError(
            f"--client-name {wrong!r} is neither an address nor a name that a certificate can be for; write it as in "
            "chat.example, *.example or 192.0.2.1, without https:// and port"
        )
    return names


def _is_address(text: str) -> bool:
    try:
        # A certificate has no place for the interface of a link-local one.
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return False
