"""What NVML said, as devices."""

from typing import Any

import pytest

from rbee_runtime.devices import nvidia
from rbee_runtime.devices.nvml import Raw
from tests.unit.devices.recordings import played, raw

MIB = 1024**2


def missing(code: int, kernel: str, *cards: list[str]) -> Raw:
    return {"error": code, "said": "said", "kernel": kernel, "cards": list(cards)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("synthetic_h100", [("NVIDIA H100 80GB HBM3", 0, 81559, 41000, True)]),
        (
            "synthetic_mixed_pair",
            [("NVIDIA GeForce RTX 4090", 0, 24564, 900, True), ("Tesla P40", 1, 23040, 300, False)],
        ),
        (
            "synthetic_a100_mig",
            [
                ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 0, 19968, 9500, True),
                ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 0, 4864, 13, True),
            ],
        ),
        (
            "synthetic_lost_gpu",
            [("NVIDIA H100 80GB HBM3", 0, 81559, 41000, True), ("NVIDIA H100 80GB HBM3", 2, 0, 0, False)],
        ),
        ("synthetic_unified_gb10", [("NVIDIA GB10", 0, 119 * 1024, 9 * 1024, True)]),
        ("synthetic_driver_mismatch", []),
    ],
)
def test_each_recording_gives_its_devices(name: str, expected: list[Any]) -> None:
    """Name, index, memory and health are as recorded."""
    found = played(name).devices
    assert [(d.name, d.index, d.total // MIB, d.used // MIB, d.healthy) for d in found] == expected


@pytest.mark.parametrize(
    ("name", "device", "attributes"),
    [
        (
            "synthetic_h100",
            0,
            {
                "driver": "550.54.15",
                "cuda": "12.4",
                "compute_capability": "9.0",
                "power": "251.34",
                "utilisation": "0.87",
            },
        ),
        ("synthetic_mixed_pair", 0, {"persistence": "off", "process_memory": "unknown", "temperature": "33"}),
        ("synthetic_mixed_pair", 1, {"compute_capability": "6.1", "ecc_uncorrected": "3", "power_limit": "250"}),
        ("synthetic_a100_mig", 1, {"parent": "GPU-5e1a0a10-0000-4000-8000-000000000004", "mig_slot": "1"}),
        ("synthetic_unified_gb10", 0, {"memory": "shared with the host", "cuda": "13.0"}),
    ],
)
def test_attributes_say_what_the_gpu_supports(name: str, device: int, attributes: dict[str, str]) -> None:
    """Readings are text in °C, W and fractions."""
    assert attributes.items() <= played(name).devices[device].attributes.items()


def test_what_a_gpu_does_not_support_is_left_out() -> None:
    """A board without ECC has no count of its errors, not a zero."""
    found = played("synthetic_mixed_pair").devices[0].attributes
    assert not {"ecc_uncorrected", "parent", "memory"} & found.keys()


def test_the_parent_of_instances_is_not_offered() -> None:
    """Nothing can be computed on a divided GPU but on its parts."""
    assert {device.id[:4] for device in played("synthetic_a100_mig").devices} == {"MIG-"}


@pytest.mark.parametrize(
    ("name", "problems"),
    [
        ("synthetic_h100", []),
        ("synthetic_a100_mig", [("GPU 1 is in MIG mode", "nvidia-smi -i 1 -mig 0")]),
        (
            "synthetic_lost_gpu",
            [("GPU 1 has fallen off the bus", "reboot"), ("GPU 2 has to be reset", "--gpu-reset -i 2")],
        ),
        ("synthetic_mixed_pair", [("3 uncorrectable memory errors", "--gpu-reset -i 1")]),
        ("synthetic_driver_mismatch", [("(550.54.15) and the installed library", "reboot the host")]),
    ],
)
def test_problems_name_what_and_the_fix(name: str, problems: list[tuple[str, str]]) -> None:
    """One sentence each, with the command or step that mends it."""
    found = played(name).problems
    assert len(found) == len(problems)
    for sentence, (what, fix) in zip(found, problems, strict=True):
        assert what in sentence
        assert fix in sentence


@pytest.mark.parametrize(
    ("refusal", "fix"),
    [
        ({"error": 4, "said": "Insufficient Permissions"}, "groups video and render"),
        ({"error": 17, "said": "Operating System"}, "DeviceAllow="),
        ({"error": 18, "said": "mismatch", "kernel": ""}, "of different versions"),
        ({"error": 2, "said": "Invalid Argument"}, "Invalid Argument; run `nvidia-smi`"),
        (missing(9, "", ["0000:01:00.0", ""]), "at 0000:01:00.0 has no driver; install"),
        (missing(9, "", ["0000:01:00.0", "nouveau"]), "has the driver nouveau; install NVIDIA's driver"),
        (missing(9, "", ["a", ""], ["b", "nouveau"]), "at a has no driver and that at b has the driver nouveau;"),
        (missing(9, ""), "not loaded; load it with `modprobe nvidia`"),
        (
            missing(9, "550.54.15", ["0000:01:00.0", "nvidia"]),
            "driver 550.54.15, which is loaded; make its device files",
        ),
        (missing(12, "550.54.15"), "libnvidia-ml.so.1 of the NVIDIA driver 550.54.15 is missing; install"),
        (missing(-1, "550.54.15"), "bindings of NVML cannot be loaded (said); run the deploy again"),
    ],
)
def test_nvml_that_refuses_is_one_problem_and_no_device(refusal: Raw, fix: str) -> None:
    """The sentence has the fix."""
    found = nvidia.reading(refusal)
    assert (found.devices, found.absent, len(found.problems)) == ((), False, 1)
    assert fix in found.problems[0]


def test_a_host_without_nvidia_is_no_problem() -> None:
    """No sign of a card: no devices and nothing to say."""
    found = nvidia.reading({"absent": True})
    assert (found.absent, found.devices, found.problems) == (True, (), ())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"remapped_rows": [0, 1, 0, 1]}, "replace it"),
        ({"remapped_rows": [0, 1, 1, 0]}, ""),
        ({"ecc_uncorrected": 1}, "1 uncorrectable memory errors"),
        ({"error": 999, "said": "Unknown Error"}, "grep -i xid"),
        ({"error": 2, "said": "odd"}, "stopped answering: odd"),
    ],
)
def test_faults_make_a_gpu_unhealthy(change: Raw, said: str) -> None:
    """Broken memory and calls that fail fence the GPU, with the reason."""
    recording = raw("synthetic_h100")
    recording["gpus"][0] |= change
    (device,) = nvidia.reading(recording).devices
    assert device.healthy is (said == "")
    assert said in device.detail


def test_a_fault_of_the_parent_is_one_of_its_instances() -> None:
    """Instances share the board's memory chips and its bus."""
    recording = raw("synthetic_a100_mig")
    recording["gpus"][0]["ecc_uncorrected"] = 2
    assert [device.healthy for device in nvidia.reading(recording).devices] == [False, False]


def test_memory_of_processes_is_by_device() -> None:
    """Instances have their own processes; what NVML does not say is None."""
    assert played("synthetic_h100").processes == {
        "GPU-5e1a0a10-0000-4000-8000-000000000001": {4100: 39000 * MIB, 5200: 1400 * MIB}
    }
    assert [*played("synthetic_mixed_pair").processes.values()] == [{1800: None, 4100: None}, {}]
    assert [*played("synthetic_a100_mig").processes.values()] == [{4100: 9400 * MIB}, {}]
