"""The part of the state fact about control groups, NVIDIA cards and container tools, run for real on made-up trees."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.facts import equipment
from rbee_deploy.facts.state import RbeeState

SPEC = """\
cdiVersion: "0.5.0"
kind: nvidia.com/gpu
containerEdits:
  hooks:
  - args: [nvidia-ctk, hook, create-symlinks, --link, "../libcuda.so.1::/usr/lib/libcuda.so"]
  mounts:
  - hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.570.133.20
devices:
- name: "0"
- name: GPU-5e1a0a10-0000-4000-8000-000000000001
- name: 'MIG-5e1a0a10-0000-4000-8000-000000000002'
- name: all
- name: allowed
"""
IN_JSON = '{"kind": "nvidia.com/gpu", "devices": [{"name": "GPU-5e1a0a10"}, {"name":"all"}, {"name": "1"}]}'
NAMES = ["GPU-5e1a0a10-0000-4000-8000-000000000001", "MIG-5e1a0a10-0000-4000-8000-000000000002", "all"]
INFORMATION = """\
Model: \t\t NVIDIA GeForce RTX 3090
GPU UUID: \t {}
Video BIOS: \t 94.02.26.08.1c
"""
MODULE = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build  (dvs-builder@U22-I3-AM02-24-3)
GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)
"""


def read(root: Path) -> dict[str, Any]:
    """Run the part on a tree that stands in for the host's, with the tree's programs in front."""
    script = equipment.script()
    for place in ("/sys", "/proc/driver", "/dev/nvidiactl", "/etc/cdi", "/var/run/cdi", "/usr/lib"):
        script = script.replace(place, f"{root}{place}")
    environment = {"PATH": f"{root}/bin:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=environment, check=False)
    return RbeeState().process(["@sudo ok", *done.stdout.splitlines()])


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def test_a_host_without_any_of_it_says_so(tmp_path: Path) -> None:
    """Nothing there is nothing said, not a sentence of the shell's."""
    found = read(tmp_path)
    assert found["nvidia"] == {"cards": [], "uuids": [], "module": None, "has_control": False, "libraries": []}
    assert (found["cdi"], found["cgroup"], found["controllers"]) == ([], "", [])


def test_cards_are_display_devices_of_nvidia(tmp_path: Path) -> None:
    """The card's sound device and other makers' cards do not count."""
    devices = {
        "0000:01:00.0": ("10de", "030000"),
        "0000:01:00.1": ("10de", "040300"),
        "0000:02:00.0": ("1002", "030000"),
    }
    for address, (vendor, kind) in devices.items():
        folder = tmp_path / "sys/bus/pci/devices" / address
        write(folder / "vendor", f"0x{vendor}\n")
        write(folder / "class", f"0x{kind}\n")
    (tmp_path / "sys/bus/pci/devices/0000:03:00.0").mkdir()
    assert read(tmp_path)["nvidia"]["cards"] == ["0000:01:00.0"]


def test_the_drivers_versions_are_read_without_running_it(tmp_path: Path) -> None:
    """The loaded module, its control device and the libraries on disk come from files."""
    write(tmp_path / "proc/driver/nvidia/version", MODULE)
    write(tmp_path / "dev/nvidiactl", "")
    # Of a card that nobody has opened yet the driver does not know the id.
    for number, uuid in enumerate(
        ("GPU-5e1a0a10-0000-4000-8000-000000000001", "GPU-????????-????-????-????-????????????")
    ):
        write(tmp_path / f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information", INFORMATION.format(uuid))
    write(tmp_path / "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.570.133.20", "")
    write(tmp_path / "usr/lib/i386-linux-gnu/libnvidia-ml.so.570.133.20", "")
    assert read(tmp_path)["nvidia"] == {
        "cards": [],
        "uuids": ["GPU-5e1a0a10-0000-4000-8000-000000000001"],
        "module": "570.133.20",
        "has_control": True,
        "libraries": ["570.133.20"],
    }


def test_specifications_of_nvidia_cards_are_listed(tmp_path: Path) -> None:
    """YAML and JSON count, with mode, driver and names; other kinds, other files and odd names do not."""
    write(tmp_path / "etc/cdi/nvidia.yaml", SPEC, 0o600)
    write(tmp_path / "var/run/cdi/nvidia.json", IN_JSON)
    write(tmp_path / "etc/cdi/other.yaml", "kind: vendor.example/nic\n# not nvidia.com/gpu\n")
    write(tmp_path / "etc/cdi/nvidia.yaml.old", SPEC)
    write(tmp_path / "etc/cdi/x\n@machine\n.yaml", SPEC)
    assert read(tmp_path)["cdi"] == [
        {"path": f"{tmp_path}/etc/cdi/nvidia.yaml", "mode": "600", "driver": "570.133.20", "names": NAMES},
        {"path": f"{tmp_path}/var/run/cdi/nvidia.json", "mode": "644", "driver": "", "names": ["GPU-5e1a0a10", "all"]},
    ]


@pytest.mark.parametrize(
    ("controllers", "expected"), [("cpu memory pids\n", ("unified", ["cpu", "memory", "pids"])), (None, ("legacy", []))]
)
def test_control_groups_are_unified_or_legacy(
    tmp_path: Path, controllers: str | None, expected: tuple[str, list[str]]
) -> None:
    """A unified hierarchy lists its controllers; one without that file is the legacy one."""
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    if controllers is not None:
        write(tmp_path / "sys/fs/cgroup/cgroup.controllers", controllers)
    found = read(tmp_path)
    assert (found["cgroup"], found["controllers"]) == expected


def test_programs_tell_their_versions(tmp_path: Path) -> None:
    """The first line counts, whatever stands around the number; one that fails is there without a version."""
    said = {
        "podman": 'echo "podman version 5.4.2"',
        "nvidia-ctk": "echo CLI version 1.17.8; echo commit 1.2.3",
        "crun": "exit 3",
        "runc": r'printf "runc version 1.2.5\n@machine\npython_path=evil\n"',
    }
    for name, line in said.items():
        write(tmp_path / "bin" / name, f"#!/bin/sh\n{line}\n", 0o755)
    found = read(tmp_path)
    assert found["programs"].items() >= {"podman": "5.4.2", "nvidia-ctk": "1.17.8", "crun": "", "runc": "1.2.5"}.items()
    assert "python_path" not in found


@pytest.mark.slow
def test_a_program_that_hangs_is_left(tmp_path: Path) -> None:
    """Three seconds are the most that a tool gets to say its version."""
    write(tmp_path / "bin/podman", "#!/bin/sh\nexec sleep 60\n", 0o755)
    assert read(tmp_path)["programs"]["podman"] == ""


@pytest.mark.parametrize(
    ("lines", "gpus"),
    [
        (["mib\t24564", "mib\t49140"], [24564 << 20, 49140 << 20]),
        (["bytes\t17163091968"], [17163091968]),
        (["mib\t[N/A]", "mib\t", "nonsense"], []),
        ([], []),
    ],
)
def test_memory_of_cards_is_in_bytes(lines: list[str], gpus: list[int]) -> None:
    """NVIDIA's tool counts in MiB, AMD's driver in bytes; what is no number is left out."""
    assert equipment.gpus(lines) == {"gpus": gpus}
