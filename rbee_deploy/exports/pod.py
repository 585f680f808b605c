"""One pod with the queen and one hive for `podman kube play`, and the Quadlet files that start it at boot; pure."""

from typing import Any

from rbee_deploy.exports import documents, gpus, pods
from rbee_deploy.exports.stack import Part, Places, Stack

NAME = "rbee"
PLACES = Places(link="127.0.0.1", hive="127.0.0.1")
"""Containers of a pod have one network, and reach each other without leaving it."""

MANIFEST, KUBE, NETWORK = f"{NAME}.yaml", f"{NAME}.kube", f"{NAME}.network"


def files(stack: Stack, models_bytes: int) -> dict[str, str]:
    """Return the manifest and the files of Quadlet by name."""
    labels = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": stack.site.name}
    claims = [claim for part in stack.parts for claim in pods.claims(part, labels, models_bytes)]
    names = [claim["metadata"]["name"] for claim in claims]
    settings = [pods.config_map(part, labels) for part in stack.parts]
    return {
        MANIFEST: documents.text([*settings, *claims, _pod(stack, labels)]),
        KUBE: _kube(names, stack),
        NETWORK: f"{documents.HEADER}[Network]\nNetworkName={NAME}\n",
        **{f"{name}.volume": f"{documents.HEADER}[Volume]\nVolumeName={name}\n" for name in names},
    }


def _pod(stack: Stack, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME, "labels": labels},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": _stop_seconds(stack),
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [_container(part) for part in stack.parts],
            "volumes": [volume for part in stack.parts for volume in pods.volumes(part)],
        },
    }


def _container(part: Part) -> dict[str, Any]:
    # Podman has devices by their names in CDI; a pod is all of its machine's rbee, so it gets them all. It asks for
    # nothing else: what Podman makes of that needs control groups that not every machine has.
    made = pods.container(part, {"limits": {f"{gpus.LABEL}=all": 1}} if part.gpus else {})
    for port in made["ports"]:
        if port["name"] == "api":
            port["hostPort"] = port["containerPort"]
    return made


def _stop_seconds(stack: Stack) -> int:
    return max(part.stop_seconds for part in stack.parts)


def _kube(volumes: list[str], stack: Stack) -> str:
    units = " ".join(f"{name}-volume.service" for name in volumes)
    return (
        f"{documents.HEADER}"
        "[Unit]\n"
        "Description=rbee queen and hive\n"
        f"Requires={units}\n"
        f"After={units}\n"
        "\n"
        "[Kube]\n"
        f"Yaml={MANIFEST}\n"
        f"Network={NETWORK}\n"
        "\n"
        "[Service]\n"
        f"TimeoutStopSec={_stop_seconds(stack) + 30}\n"
        "\n"
        "[Install]\n"
        "WantedBy=multi-user.target\n"
    )
