"""Reading NVML: what is not supported is left out, and one bad GPU stays one."""

from types import SimpleNamespace
from typing import Any

import pytest

from rbee_runtime.devices.nvml import REOPEN_SECONDS, Nvml
from rbee_runtime.devices.tree import RecordedTree
from tests.unit.devices.fake_nvml import FakeNvml, gpu, process

LOADED = RecordedTree({"/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 550.54.15"}, {})
WSL = RecordedTree({"/dev/dxg": ""}, {})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def read(*gpus: dict[str, Any], init: int = 0) -> Any:
    library = FakeNvml(*gpus, init=init)
    return Nvml(lambda: library, tree=LOADED).read()


def bus(*cards: tuple[int, int, str]) -> RecordedTree:
    """Return the PCI bus of a host whose cards are (vendor, class, driver)."""
    texts: dict[str, str] = {}
    links: dict[str, str] = {}
    for slot, (vendor, kind, driver) in enumerate(cards):
        at = f"/sys/bus/pci/devices/0000:0{slot}:00.0"
        texts |= {f"{at}/vendor": f"{vendor:#06x}", f"{at}/class": f"{kind:#08x}"}
        links |= {f"{at}/driver": driver} if driver else {}
    return RecordedTree(texts, links)


FULL = gpu(
    PciInfo=SimpleNamespace(busId="00000000:01:00.0"),
    CudaComputeCapability=(9, 0),
    Temperature=40,
    PowerUsage=100_000,
    EnforcedPowerLimit=700_000,
    UtilizationRates=SimpleNamespace(gpu=12, memory=3),
    TotalEccErrors=0,
    RemappedRows=(0, 0, 0, 0),
    PersistenceMode=1,
    GraphicsRunningProcesses=[],
    MigMode=[0, 0],
)


def test_all_fields_are_read() -> None:
    """A GPU that supports everything has every field, in NVML's units."""
    (found,) = read(FULL)["gpus"]
    assert found == {
        "index": 0,
        "uuid": "GPU-1",
        "name": "NVIDIA Test",
        "pci": "00000000:01:00.0",
        "memory": {"total": 1000, "used": 300},
        "compute_capability": [9, 0],
        "mig_mode": [0, 0],
        "temperature": 40,
        "power": 100_000,
        "power_limit": 700_000,
        "utilisation": 12,
        "ecc_uncorrected": 0,
        "remapped_rows": [0, 0, 0, 0],
        "persistence": 1,
        "processes": [],
    }


@pytest.mark.parametrize("code", [2, 3, 4, 7, 13, 21, 25, 999])
@pytest.mark.parametrize("call", ["Temperature", "MigMode", "ComputeRunningProcesses", "TotalEccErrors", "PciInfo"])
def test_a_field_that_fails_is_left_out(call: str, code: int) -> None:
    """Whatever a call says is unsupported, forbidden or unknown leaves the other fields."""
    (found,) = read(FULL | {"errors": {call: code}})["gpus"]
    assert "error" not in found
    assert len(found) == 14
    assert found["memory"]["total"] == 1000


@pytest.mark.parametrize("code", [4, 15, 16, 28, 999])
def test_a_lost_gpu_does_not_hide_the_others(code: int) -> None:
    """The GPU that fails altogether has the code and its place, the others are whole."""
    first, lost, last = read(gpu("GPU-1"), gpu("GPU-2", all_fail=code), gpu("GPU-3"))["gpus"]
    assert lost == {"index": 1, "error": code, "said": f"code {code}"}
    assert [first["uuid"], last["uuid"]] == ["GPU-1", "GPU-3"]


@pytest.mark.parametrize(
    ("call", "code"), [("MemoryInfo", 15), ("MemoryInfo", 999), ("GraphicsRunningProcesses", 15), ("PowerUsage", 16)]
)
def test_a_gpu_that_is_lost_half_way_keeps_what_was_read(call: str, code: int) -> None:
    """Its id is known when it goes between two calls, so that the right device is fenced."""
    (found,) = read(gpu(errors={call: code}))["gpus"]
    assert (found["uuid"], found["error"]) == ("GPU-1", code)


def test_a_process_in_both_lists_is_one_process() -> None:
    """Computing and drawing at once takes the memory once; what is not known of one list is taken from the other."""
    compute = [process(1, 500), process(2, None), process(3, None)]
    graphics = [process(1, 500), process(2, 70)]
    (found,) = read(gpu(ComputeRunningProcesses=compute, GraphicsRunningProcesses=graphics))["gpus"]
    assert found["processes"] == [[1, 500], [2, 70], [3, None]]


def test_mig_instances_are_read_and_empty_slots_are_not() -> None:
    """Slots without an instance answer "not found", which is no failure."""
    slots = [gpu("MIG-1", ComputeRunningProcesses=[process(9, 50)]), None, gpu("MIG-2")]
    (found,) = read(gpu(MigMode=[1, 1], slots=slots))["gpus"]
    assert [(part["index"], part["uuid"], part["processes"]) for part in found["mig"]] == [
        (0, "MIG-1", [[9, 50]]),
        (2, "MIG-2", []),
    ]


def test_memory_that_is_the_hosts_is_said_so() -> None:
    """A GPU without memory of its own has the host's."""
    (found,) = read(gpu(MemoryInfo=None))["gpus"]
    assert 0 < found["shared_memory"]["used"] < found["shared_memory"]["total"]


@pytest.mark.parametrize("code", [1, 2, 4, 10])
def test_memory_that_is_not_told_is_not_the_hosts(code: int) -> None:
    """Only a GPU without memory of its own has the host's; one that refuses to tell is not placed on, its parts are."""
    errors = {"MemoryInfo": code}
    whole, divided = read(gpu(errors=errors), gpu(errors=errors, MigMode=[1, 1], slots=[gpu("MIG-1")]))["gpus"]
    assert not {"memory", "shared_memory"} & (whole.keys() | divided.keys())
    assert (whole["uuid"], whole["error"]) == ("GPU-1", code)
    assert (divided["mig"][0]["memory"]["total"], divided.get("error")) == (1000, None)


@pytest.mark.parametrize("code", [4, 18])
def test_nvml_that_refuses_is_an_error(code: int) -> None:
    """What NVML says is kept with the version that is loaded."""
    assert read(init=code) == {"error": code, "said": f"code {code}", "kernel": "550.54.15"}


@pytest.mark.parametrize("code", [9, 12])
def test_missing_driver_or_library_is_an_error_where_a_driver_was(code: int) -> None:
    """A sign of a driver is a card that somebody expects; WSL's graphics alone are none."""
    assert read(init=code) == {"error": code, "said": f"code {code}", "kernel": "550.54.15", "cards": []}
    assert Nvml(lambda: FakeNvml(init=code), tree=WSL).read() == {"absent": True}


def test_missing_bindings_are_an_error_where_a_driver_was() -> None:
    """The import's own words are kept; without a sign of a driver there is nothing to complain of."""

    def load() -> None:
        raise ImportError("No module named 'pynvml'")

    assert Nvml(load, tree=LOADED).read()["said"] == "No module named 'pynvml'"
    assert Nvml(load, tree=WSL).read() == {"absent": True}


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ((0x10DE, 0x030000, ""), [["0000:00:00.0", ""]]),
        ((0x10DE, 0x030200, "nouveau"), [["0000:00:00.0", "nouveau"]]),
        ((0x10DE, 0x030200, "vfio-pci"), None),
        ((0x10DE, 0x040300, "snd_hda_intel"), None),
        ((0x1002, 0x030000, ""), None),
    ],
    ids=["no driver", "another driver", "given to a guest", "its sound", "another maker"],
)
def test_a_card_without_its_driver_is_an_error(card: tuple[int, int, str], found: object) -> None:
    """The card on the bus is named with what has it; a host without one is silent, and NVML is loaded on neither."""
    raw = Nvml(lambda: pytest.fail("loaded NVML, which takes 0.3 s"), tree=bus(card)).read()
    assert raw.get("cards") == found
    assert raw.get("error") == (9 if found else None)
    assert raw.get("absent", False) is (found is None)


def test_nvml_is_opened_once_and_anew_after_an_error() -> None:
    """A good session is kept, one with a lost GPU is renewed after a while and not at each reading."""
    clock, library = Clock(), FakeNvml(gpu())
    nvml = Nvml(lambda: library, clock=clock, tree=LOADED)
    for _ in range(3):
        nvml.read()
    assert (library.opened, library.closed) == (1, 0)
    library.gpus[0]["all_fail"] = 15
    for clock.now in (10, 20, 10 + REOPEN_SECONDS - 1):
        nvml.read()
    assert (library.opened, library.closed) == (1, 0)
    clock.now = 10 + REOPEN_SECONDS
    nvml.read()
    assert (library.opened, library.closed) == (2, 1)


def test_a_session_that_breaks_altogether_is_opened_at_the_next_reading() -> None:
    """After a reload of the driver NVML is uninitialised, once."""
    library = FakeNvml(gpu())
    nvml = Nvml(lambda: library, tree=LOADED)
    nvml.read()
    library.init = 18
    library.nvmlDeviceGetCount = lambda: (_ for _ in ()).throw(library.NVMLError(1))  # type: ignore[method-assign]
    assert nvml.read()["error"] == 1
    assert nvml.read()["error"] == 18
    del library.nvmlDeviceGetCount
    library.init = 0
    assert nvml.read()["gpus"][0]["uuid"] == "GPU-1"
