"""What Kubernetes and `podman kube play` have in common: containers, volumes, settings and secrets; pure."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from rbee_deploy.exports.stack import STARTS_WITHIN_SECONDS, Part
from rbee_deploy.images.kinds import USER
from rbee_deploy.secrets import Secret
from rbee_runtime import ports

_GIB = 1 << 30
STATE_BYTES = _GIB
"""Databases, logs of workers and what they are told; kilobytes each."""

READABLE = 0o444
"""In a container with one user; Podman leaves the files of secrets to root, whom no container here has."""

_START_EVERY = 5


def settings_name(part: Part) -> str:
    """Return the name of a part's settings; Podman makes volumes of these and of secrets, so they differ."""
    return f"{part.name}-settings"


def secret_name(part: Part) -> str:
    """Return the name of a part's secret."""
    return f"{part.name}-credentials"


def config_map(part: Part, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of a part."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": settings_name(part), "labels": dict(labels)},
        "data": dict(part.configs),
    }


def claims(part: Part, labels: Mapping[str, str], models_bytes: int) -> list[dict[str, Any]]:
    """Return what a part asks of disks; its host's quota of models goes before `models_bytes`."""
    store = part.host.store
    wanted = {"state": STATE_BYTES, "models": models_bytes if store.quota is None else store.quota + store.spare}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": f"{part.name}-{end}", "labels": dict(labels)},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": f"{math.ceil(wanted[end] / _GIB)}Gi"}},
            },
        }
        for end in part.volumes
    ]


def secret(part: Part, files: Mapping[str, Secret]) -> dict[str, Any]:
    """Return the Secret that a part names, with its content."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret_name(part)},
        "type": "Opaque",
        "stringData": {name: held.reveal() for name, held in files.items()},
    }


def container(part: Part, resources: Mapping[str, Any]) -> dict[str, Any]:
    """Return the container of a part; `resources` are what it asks of its machine."""
    last = {str(ports.ETC), part.credentials, *part.folders}
    return {
        "name": part.role,
        "image": part.image,
        "imagePullPolicy": "IfNotPresent",
        "command": part.command,
        "ports": [{"name": name, "containerPort": port} for name, port in listens(part).items()],
        "resources": dict(resources),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **_probes(part),
        "volumeMounts": [
            {"name": name, "mountPath": path, **({"readOnly": True} if path in last else {})}
            for path, name in mounts(part).items()
        ],
    }


def listens(part: Part) -> dict[str, int]:
    """Return the ports of a part that have names; those of workers are a range, which has none."""
    host = part.host
    return {"api": host.queen_port, "link": host.link_port} if part.role == "queen" else {"hive": host.hive_port}


def mounts(part: Part) -> dict[str, str]:
    """Return which volumes of its pod a part sees, by path; Podman knows them by these names beyond the pod."""
    named = {
        str(ports.ETC): "settings",
        part.credentials: "credentials",
        **{str(path): end for end, path in (part.volumes | part.scratch).items()},
        **{folder: f"folder-{number}" for number, folder in enumerate(part.folders, 1)},
    }
    return {path: f"{part.name}-{end}" for path, end in named.items()}


def volumes(part: Part) -> list[dict[str, Any]]:
    """Return the volumes behind them."""
    sources: dict[str, dict[str, Any]] = {
        str(ports.ETC): {"configMap": {"name": settings_name(part)}},
        part.credentials: {"secret": {"secretName": secret_name(part), "defaultMode": READABLE}},
        **{str(path): {"persistentVolumeClaim": {"claimName": f"{part.name}-{e}"}} for e, path in part.volumes.items()},
        **{str(path): {"emptyDir": {}} for path in part.scratch.values()},
        **{folder: {"hostPath": {"path": folder, "type": "Directory"}} for folder in part.folders},
    }
    return [{"name": name, **sources[path]} for path, name in mounts(part).items()]


def fingerprint(part: Part) -> str:
    """Return what changes with settings that a part reads at its start only; the fleet's file is read hot."""
    read_once = "".join(text for name, text in part.configs.items() if name != "fleet.yaml")
    return hashlib.sha256(read_once.encode()).hexdigest()[:16]


def _probes(part: Part) -> dict[str, Any]:
    asked = {"exec": {"command": part.health}, "timeoutSeconds": 5}
    tries = STARTS_WITHIN_SECONDS // _START_EVERY
    return {
        "startupProbe": {**asked, "periodSeconds": _START_EVERY, "failureThreshold": tries},
        "livenessProbe": {**asked, "periodSeconds": 30, "failureThreshold": 3},
        "readinessProbe": {**asked, "periodSeconds": 10, "failureThreshold": 3},
    }
