"""A project for Docker's Compose: the queen and every hive of the inventory on one machine; pure."""

import itertools
from collections.abc import Iterator
from typing import Any

from rbee_deploy.exports import documents
from rbee_deploy.exports.stack import STARTS_WITHIN_SECONDS, Part, Places, Stack, dashed
from rbee_deploy.images.kinds import USER
from rbee_runtime import ports

PLACES = Places()
FILE = "compose.yaml"
SETTINGS, SECRETS = "settings", "secrets"
"""Folders beside the file, with one for each service; what is in the second comes on its own."""

NETWORK = "rbee"


def files(stack: Stack) -> dict[str, str]:
    """Return the project's file and the settings that services read, by name."""
    numbers = itertools.count()
    services = {part.name: _service(part, numbers) for part in stack.parts}
    project = {
        "name": f"rbee-{dashed(stack.site.name)}",
        "services": services,
        "networks": {NETWORK: {}},
        "volumes": {f"{part.name}-{end}": {} for part in stack.parts for end in part.volumes},
        "secrets": {
            f"{part.name}-{name}": {"file": f"./{SECRETS}/{part.name}/{name}"}
            for part in stack.parts
            for name in part.secrets
        },
    }
    settings = {f"{SETTINGS}/{part.name}/{name}": text for part in stack.parts for name, text in part.configs.items()}
    return {FILE: documents.text([project]), **settings}


def _service(part: Part, numbers: Iterator[int]) -> dict[str, Any]:
    program, *arguments = part.command
    return {
        "image": part.image,
        "entrypoint": [program],
        "command": arguments,
        "user": f"{USER}:{USER}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "unless-stopped",
        "stop_grace_period": f"{part.stop_seconds}s",
        "networks": [NETWORK],
        **({"ports": [f"{part.host.queen_port}:{part.host.queen_port}"]} if part.role == "queen" else {}),
        "volumes": _volumes(part),
        "tmpfs": [f"{path}:uid={USER},gid={USER},mode=0700" for path in part.scratch.values()],
        "secrets": [{"source": f"{part.name}-{name}", "target": f"{part.credentials}/{name}"} for name in part.secrets],
        "healthcheck": {
            "test": ["CMD", *part.health],
            "interval": "30s",
            "timeout": "5s",
            "start_period": f"{STARTS_WITHIN_SECONDS}s",
        },
        **({"deploy": _gpus(part, numbers)} if part.gpus else {}),
    }


def _volumes(part: Part) -> list[dict[str, Any]]:
    # A folder and no single files: what a new export writes in their places would not be seen.
    shown = {f"./{SETTINGS}/{part.name}": str(ports.ETC), **{folder: folder for folder in part.folders}}
    own = {f"{part.name}-{end}": str(path) for end, path in part.volumes.items()}
    return [
        *({"type": "volume", "source": name, "target": path} for name, path in own.items()),
        *(
            {"type": "bind", "source": source, "target": path, "read_only": True, "bind": {"create_host_path": False}}
            for source, path in shown.items()
        ),
    ]


def _gpus(part: Part, numbers: Iterator[int]) -> dict[str, Any]:
    """Return a claim to the next devices of the machine; by a mere count, two hives would get the same ones."""
    mine = [str(number) for number in itertools.islice(numbers, part.gpus)]
    device = {"driver": "nvidia", "device_ids": mine, "capabilities": ["gpu"]}
    return {"resources": {"reservations": {"devices": [device]}}}
