"""Manifests for Kubernetes: a Deployment for the queen and one for each hive, and what keeps others out; pure.

Kinds are those of every cluster, and what Podman knows of them runs by `podman kube play` as it stands.
"""

from typing import Any

from rbee_deploy.exports import documents, gpus, pods
from rbee_deploy.exports.stack import QUEEN, Part, Places, Stack
from rbee_deploy.images.kinds import USER

LINK = f"{QUEEN}-link"
"""The service for hives alone, so that the one for clients may be opened to the world."""

PLACES = Places(link=LINK)
HIVES_FILE = "hives.yaml"
_NAME, _COMPONENT, _INSTANCE = (f"app.kubernetes.io/{word}" for word in ("name", "component", "instance"))


def files(stack: Stack, models_bytes: int) -> dict[str, str]:
    """Return every manifest by the name of its file."""
    parts = {"queen.yaml": _queen(stack), **{_file(part): _hive(stack, part, models_bytes) for part in stack.hives}}
    return {
        **{name: documents.text(found) for name, found in parts.items()},
        HIVES_FILE: documents.text([_disruptions(stack)]),
    }


def _file(part: Part) -> str:
    return f"{part.name.removeprefix('rbee-')}.yaml"


def _queen(stack: Stack) -> list[dict[str, Any]]:
    part, labels = stack.queen, _labels(stack, stack.queen)
    api, link = part.host.queen_port, part.host.link_port
    return [
        pods.config_map(part, labels),
        *pods.claims(part, labels, 0),
        _deployment(part, labels),
        _service(QUEEN, labels, "api", api),
        # Hives are what a queen waits for to be of use, so they find her before that.
        _service(LINK, labels, "link", link, publishNotReadyAddresses=True),
        _policy(
            part,
            labels,
            [
                _rule(_clients(stack), api),
                *([_rule([_pods("hive")], link)] if stack.hives else []),
            ],
        ),
    ]


def _hive(stack: Stack, part: Part, models_bytes: int) -> list[dict[str, Any]]:
    labels, host = _labels(stack, part), part.host
    first, last = host.worker_ports
    return [
        pods.config_map(part, labels),
        *pods.claims(part, labels, models_bytes),
        _deployment(part, labels),
        # Without an address of its own: the queen asks the pod itself, at a hundred ports of workers.
        _service(part.name, labels, "hive", host.hive_port, clusterIP="None", publishNotReadyAddresses=True),
        _policy(
            part,
            labels,
            [
                # Hives copy models from each other.
                _rule([_pods("queen"), _pods("hive")], host.hive_port),
                _rule([_pods("queen")], first, last),
            ],
        ),
    ]


def _labels(stack: Stack, part: Part) -> dict[str, str]:
    return {
        _NAME: "rbee",
        _COMPONENT: part.role,
        _INSTANCE: part.name,
        "app.kubernetes.io/part-of": stack.site.name,
        "app.kubernetes.io/managed-by": "rbee-deploy",
    }


def _selected(part: Part) -> dict[str, str]:
    return {_NAME: "rbee", _INSTANCE: part.name}


def _deployment(part: Part, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": part.name, "labels": labels},
        "spec": {
            "replicas": 1,
            # One writer for each volume: the old pod has to be gone before the new one begins.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": _selected(part)},
            "template": {
                "metadata": {"labels": labels, "annotations": {"rbee/settings": pods.fingerprint(part)}},
                "spec": _pod(part),
            },
        },
    }


def _pod(part: Part) -> dict[str, Any]:
    # A model that lies on machines lies on the one that the inventory means.
    node = {"nodeSelector": {"kubernetes.io/hostname": part.host.name}} if part.folders else {}
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": part.stop_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **node,
        **({"affinity": _apart()} if part.role == "hive" else {}),
        "containers": [pods.container(part, _resources(part))],
        "volumes": pods.volumes(part),
    }


def _resources(part: Part) -> dict[str, Any]:
    asked = {"queen": {"cpu": "100m", "memory": "256Mi"}, "hive": {"cpu": "1", "memory": "1Gi"}}[part.role]
    # What a model takes is the hive's to judge, which knows the devices: a limit of memory would kill what fits.
    return {"requests": asked, **({"limits": {gpus.LABEL: part.gpus}} if part.gpus else {})}


def _apart() -> dict[str, Any]:
    """Return the wish that each hive has a node of its own, as it has a host in the inventory."""
    others = {
        "labelSelector": {"matchLabels": {_NAME: "rbee", _COMPONENT: "hive"}},
        "topologyKey": "kubernetes.io/hostname",
    }
    return {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": others}]
        }
    }


def _service(name: str, labels: dict[str, str], port_name: str, port: int, **more: Any) -> dict[str, Any]:
    chosen = {_NAME: "rbee", _INSTANCE: labels[_INSTANCE]}
    ports = [{"name": port_name, "port": port, "targetPort": port_name}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {"selector": chosen, **more, "ports": ports},
    }


def _policy(part: Part, labels: dict[str, str], ingress: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": part.name, "labels": labels},
        "spec": {
            "podSelector": {"matchLabels": _selected(part)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def _rule(sources: list[dict[str, Any]] | None, first: int, last: int | None = None) -> dict[str, Any]:
    end = {} if last is None or last == first else {"endPort": last}
    given = {} if sources is None else {"from": sources}
    return {**given, "ports": [{"protocol": "TCP", "port": first, **end}]}


def _pods(role: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {_NAME: "rbee", _COMPONENT: role}}}


def _clients(stack: Stack) -> list[dict[str, Any]] | None:
    """Return where clients may be; None means everywhere."""
    networks = stack.site.clients
    return None if networks is None else [{"ipBlock": {"cidr": network}} for network in networks]


def _disruptions(stack: Stack) -> dict[str, Any]:
    """Return the bound on what a cluster takes away at a time: one hive. Of queens there is one, who has to move."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "rbee-hives", "labels": {_NAME: "rbee", "app.kubernetes.io/part-of": stack.site.name}},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {_NAME: "rbee", _COMPONENT: "hive"}}},
    }
