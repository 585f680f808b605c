"""What an export consists of, compared literally with tests/golden/exports, and what must hold of all of it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbee_deploy.exports import write
from rbee_deploy.exports.stack import image
from rbee_deploy.exports.write import Substrate
from rbee_deploy.images import context
from rbee_deploy.images.kinds import USER, Kind
from rbee_deploy.wheels import tool_environment, toolbox
from rbee_runtime import config
from rbee_runtime.config import FleetFile, HiveConfig, QueenConfig, Section
from tests.unit.exports.sites import SITES, three_hosts, wanted

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "exports"
REWRITE = "RBEE_REWRITE_GOLDEN"
KUBERNETES = ("1.37", "1.30")
"""The newest that the validator knows, and an old one that is still about."""

SECTIONS: dict[str, type[Section]] = {"queen.yaml": QueenConfig, "fleet.yaml": FleetFile, "hive.yaml": HiveConfig}


def files(substrate: Substrate, **fields: Any) -> dict[str, str]:
    asked = wanted(substrate, **fields)
    return write.files(write.stack_of(SITES[substrate](), asked), asked)


def documents(substrate: Substrate) -> Iterator[dict[str, Any]]:
    for name, text in files(substrate).items():
        if name.endswith(".yaml") and "/" not in name:
            yield from yaml.safe_load_all(text)


def of_kind(substrate: Substrate, kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in documents(substrate) if each.get("kind") == kind}


def pods(substrate: Substrate) -> dict[str, dict[str, Any]]:
    found = {name: each["spec"]["template"]["spec"] for name, each in of_kind(substrate, "Deployment").items()}
    return found | {name: each["spec"] for name, each in of_kind(substrate, "Pod").items()}


@pytest.mark.parametrize("substrate", Substrate)
def test_files_are_the_golden_ones(substrate: Substrate) -> None:
    """Every manifest, unit and settings file is the one that was reviewed, letter by letter."""
    folder, found = GOLDEN / substrate, files(substrate)
    if os.environ.get(REWRITE):
        for old in (path for path in folder.rglob("*") if path.is_file()):
            old.unlink()
        for name, text in found.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        pytest.fail(f"golden files written to {folder}: read them, then run without {REWRITE}")
    there = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert found == there


@pytest.mark.slow
@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("substrate", [Substrate.KUBERNETES, Substrate.POD])
def test_manifests_are_valid(substrate: Substrate, version: str, tmp_path: Path) -> None:
    """Each document is what Kubernetes' own schema says of its kind, without a field that it does not know."""
    tools = toolbox("lint-kubernetes.txt")
    manifests = {name: text for name, text in files(substrate).items() if name.endswith(".yaml")}
    for name, text in manifests.items():
        (tmp_path / name).write_text(text)
    command = [str(tools / "bin" / "kubernetes-validate"), "--strict", "--kubernetes-version", version]
    said = subprocess.run(
        [*command, *(str(tmp_path / name) for name in manifests)],
        env=os.environ | tool_environment(tools),
        capture_output=True,
        text=True,
        check=False,
    )
    passed = said.stdout.count("passed for resource") + said.stderr.count("passed for resource")
    assert (said.returncode, passed) == (0, len(list(documents(substrate)))), said.stdout + said.stderr


@pytest.mark.parametrize("substrate", Substrate)
def test_the_processes_accept_their_settings(substrate: Substrate) -> None:
    """Queen and hives read what they are given with their own schema, and hives start workers themselves."""
    for part in write.stack_of(SITES[substrate](), wanted(substrate)).parts:
        for name, text in part.configs.items():
            read = config.parse(yaml.safe_load(text), SECTIONS[name], where=name)
            if isinstance(read, HiveConfig):
                assert (read.launcher, str(read.link_dir)) == ("process", part.credentials)


@pytest.mark.parametrize("substrate", [Substrate.KUBERNETES, Substrate.POD])
def test_every_container_of_a_pod_is_locked_down(substrate: Substrate) -> None:
    """None is root, gets a right, or writes to its image; each says whether it answers, and mounts what there is."""
    for pod in pods(substrate).values():
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & pod.keys()
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            security = container["securityContext"]
            assert (security["runAsNonRoot"], security["runAsUser"], security["readOnlyRootFilesystem"]) == (
                True,
                USER,
                True,
            )
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["allowPrivilegeEscalation"] is False
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
            assert {mount["name"] for mount in container["volumeMounts"]} <= {
                volume["name"] for volume in pod["volumes"]
            }


def test_every_service_of_compose_is_locked_down() -> None:
    """None is root, gets a right, writes to its image or is in a namespace of the machine; one port is published."""
    (project,) = documents(Substrate.COMPOSE)
    for service in project["services"].values():
        assert (service["user"], service["read_only"], service["cap_drop"]) == (f"{USER}:{USER}", True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "network_mode", "pid", "ipc", "cap_add", "devices"} & service.keys()
        assert service["healthcheck"]["test"][:2] == ["CMD", "rbee-health"]
    published = {name: service.get("ports", []) for name, service in project["services"].items()}
    assert published == {"rbee-queen": ["8443:8443"], "rbee-hive-gpu-one": [], "rbee-hive-gpu2": []}


def test_gpus_are_those_that_the_labels_say() -> None:
    """A hive asks its node for as many as its host has; on one machine no two hives get the same."""
    limits = {
        name: pod["containers"][0]["resources"].get("limits", {}) for name, pod in pods(Substrate.KUBERNETES).items()
    }
    assert limits == {
        "rbee-queen": {},
        "rbee-hive-gpu-one": {"nvidia.com/gpu": 2},
        "rbee-hive-gpu2": {"nvidia.com/gpu": 1},
    }
    (project,) = documents(Substrate.COMPOSE)
    claims = {
        name: service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for name, service in project["services"].items()
        if "deploy" in service
    }
    assert claims == {"rbee-hive-gpu-one": ["0", "1"], "rbee-hive-gpu2": ["2"]}


def test_only_the_queen_reaches_workers() -> None:
    """Clients reach one port of the queen, from their networks, and hives her link and each other."""
    allowed = {
        (name, port["port"]): [next(iter(source)) + str(_who(source)) for source in rule.get("from", ["anybody"])]
        for name, policy in of_kind(Substrate.KUBERNETES, "NetworkPolicy").items()
        for rule in policy["spec"]["ingress"]
        for port in rule["ports"]
    }
    queen, hive = "podSelectorqueen", "podSelectorhive"
    assert allowed == {
        ("rbee-queen", 8443): ["ipBlock10.0.0.0/8", "ipBlockfd00::/8"],
        ("rbee-queen", 8501): [hive],
        ("rbee-hive-gpu-one", 8600): [queen, hive],
        ("rbee-hive-gpu-one", 9100): [queen],
        ("rbee-hive-gpu2", 8600): [queen, hive],
        ("rbee-hive-gpu2", 9000): [queen],
    }


def _who(source: dict[str, Any]) -> str:
    if "ipBlock" in source:
        return str(source["ipBlock"]["cidr"])
    return str(source["podSelector"]["matchLabels"]["app.kubernetes.io/component"])


def test_a_quota_is_the_size_of_its_volume() -> None:
    """Where the inventory bounds a host's models, the volume has room for them and for what stays free."""
    sizes = {
        name: claim["spec"]["resources"]["requests"]["storage"]
        for name, claim in of_kind(Substrate.KUBERNETES, "PersistentVolumeClaim").items()
    }
    assert sizes["rbee-hive-gpu-one-models"] == "205Gi"
    assert sizes["rbee-hive-gpu2-models"] == "100Gi"


def test_a_new_model_restarts_no_queen() -> None:
    """The template of her pod changes with settings that she reads at her start, and not with the fleet's file."""
    asked = wanted(Substrate.KUBERNETES)

    def note(**fields: Any) -> str:
        text = write.files(write.stack_of(three_hosts(**fields), asked), asked)["queen.yaml"]
        (deployment,) = (each for each in yaml.safe_load_all(text) if each["kind"] == "Deployment")
        return str(deployment["spec"]["template"]["metadata"]["annotations"])

    assert note() == note(external=[])
    assert note() != note(drain_seconds=61)


@pytest.mark.parametrize(
    ("registry", "name"),
    [
        ("", "localhost/rbee-queen:0.1.0"),
        ("registry.example/rbee", "registry.example/rbee/rbee-queen:0.1.0"),
        ("registry.example:5000/", "registry.example:5000/rbee-queen:0.1.0"),
    ],
)
def test_images_are_local_or_of_a_registry(registry: str, name: str) -> None:
    """An image is named as the build names it, below the registry that is given."""
    assert image(Kind.QUEEN, "0.1.0", registry) == name


def test_the_user_is_that_of_the_images() -> None:
    """What exports say of the user is what the Containerfile says."""
    text = context.containerfile().read_text()
    assert f"USER {USER}:{USER}\n" in text
    assert f"--chown={USER}:{USER} /var/lib/rbee /var/lib/rbee\n" in text
