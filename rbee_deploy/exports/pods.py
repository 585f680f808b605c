"""What Kubernetes and `podman kube play` have in common: containers, volumes, settings and secrets; pure."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from rbee_deploy.exports import gpus
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


def config_map(part: Part, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of a part."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": part.name, "labels": dict(labels)},
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
        "metadata": {"name": part.name},
        "type": "Opaque",
        "stringData": {name: held.reveal() for name, held in files.items()},
    }


def container(part: Part, mounts: Mapping[str, str]) -> dict[str, Any]:
    """Return the container of a part; `mounts` are names of its pod's volumes by the path within."""
    last = {str(ports.ETC), part.credentials, *part.folders}
    return {
        "name": part.role,
        "image": part.image,
        "imagePullPolicy": "IfNotPresent",
        "command": part.command,
        "ports": [{"name": name, "containerPort": port} for name, port in listens(part).items()],
        "resources": _resources(part),
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
            for path, name in mounts.items()
        ],
    }


def listens(part: Part) -> dict[str, int]:
    """Return the ports of a part that have names; those of workers are a range, which has none."""
    host = part.host
    return {"api": host.queen_port, "link": host.link_port} if part.role == "queen" else {"hive": host.hive_port}


def mounts(part: Part, prefix: str = "") -> dict[str, str]:
    """Return which volumes of its pod a part sees, by path."""
    named = {
        str(ports.ETC): "settings",
        part.credentials: "credentials",
        **{str(path): end for end, path in part.volumes.items()},
        **{str(path): end for end, path in part.scratch.items()},
    }
    shown = {folder: f"folder-{number}" for number, folder in enumerate(part.folders, 1)}
    return {path: f"{prefix}{name}" for path, name in (named | shown).items()}


def volumes(part: Part, prefix: str = "") -> list[dict[str, Any]]:
    """Return the volumes behind them."""
    lasting = [_volume(end, persistentVolumeClaim={"claimName": f"{part.name}-{end}"}) for end in part.volumes]
    empty = [_volume(end, emptyDir={}) for end in part.scratch]
    shown = [
        _volume(f"folder-{number}", hostPath={"path": folder, "type": "Directory"})
        for number, folder in enumerate(part.folders, 1)
    ]
    found = [
        _volume("settings", configMap={"name": part.name}),
        _volume("credentials", secret={"secretName": part.name, "defaultMode": READABLE}),
        *lasting,
        *empty,
        *shown,
    ]
    return [{**volume, "name": f"{prefix}{volume['name']}"} for volume in found]


def fingerprint(part: Part) -> str:
    """Return what changes with settings that a part reads at its start only; the fleet's file is read hot."""
    read_once = "".join(text for name, text in part.configs.items() if name != "fleet.yaml")
    return hashlib.sha256(read_once.encode()).hexdigest()[:16]


def _volume(name: str, **source: Any) -> dict[str, Any]:
    return {"name": name, **source}


def _resources(part: Part) -> dict[str, Any]:
    asked = {"queen": {"cpu": "100m", "memory": "256Mi"}, "hive": {"cpu": "1", "memory": "1Gi"}}[part.role]
    limits = {"limits": {gpus.LABEL: part.gpus}} if part.gpus else {}
    # What a model takes is the hive's to judge, which knows the devices: a limit of memory would kill what fits.
    return {"requests": asked, **limits}


def _probes(part: Part) -> dict[str, Any]:
    asked = {"exec": {"command": part.health}, "timeoutSeconds": 5}
    tries = STARTS_WITHIN_SECONDS // _START_EVERY
    return {
        "startupProbe": {**asked, "periodSeconds": _START_EVERY, "failureThreshold": tries},
        "livenessProbe": {**asked, "periodSeconds": 30, "failureThreshold": 3},
        "readinessProbe": {**asked, "periodSeconds": 10, "failureThreshold": 3},
    }
