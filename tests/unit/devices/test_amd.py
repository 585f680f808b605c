"""AMD GPUs from the kernel's files, with and without AMD's library."""

from types import SimpleNamespace
from typing import Any

import pytest

from rbee_runtime.devices import amd_library
from rbee_runtime.devices.amd import AmdProbe, gfx
from rbee_runtime.devices.tree import HostTree, RecordedTree
from tests.unit.devices.recordings import played, raw

GIB = 1024**3
MIB = 1024**2


def test_an_mi300x_is_read_from_the_kernels_files() -> None:
    """Id, name, memory and processes; the processor's own small graphics are not offered."""
    found = played("synthetic_mi300x")
    (device,) = found.devices
    assert (device.id, device.name, device.index) == ("4c21a0de0b51f3e7", "AMD Instinct MI300X OAM", 1)
    assert (device.total, device.used, device.healthy) == (192 * GIB - 16 * MIB, 70 * GIB, True)
    assert found.processes == {device.id: {4100: 60 * GIB, 6000: 8 * GIB}}
    assert {
        "arch": "gfx942",
        "compute_units": "304",
        "driver": "6.8.5",
        "power": "312",
    }.items() <= device.attributes.items()
    assert {"temperature": "47", "utilisation": "0.64", "partition": "SPX"}.items() <= device.attributes.items()


def test_cards_without_an_id_of_their_own_have_their_address() -> None:
    """Consumer boards say 0 or nothing; short numbers are filled up to the one form."""
    assert [device.id for device in played("synthetic_radeon_trio").devices] == ["0000:03:00.0", "0000000000001f3a"]


def test_trouble_of_one_card_is_told_and_leaves_the_others() -> None:
    """A card under another driver and one with broken memory are problems; the good one stays good."""
    found = played("synthetic_radeon_trio")
    assert [device.healthy for device in found.devices] == [True, False]
    other, broken = found.problems
    assert "0000:08:00.0 has the driver vfio-pci" in other
    assert "4 uncorrectable memory errors" in broken


@pytest.mark.parametrize(
    ("version", "name"), [(90010, "gfx90a"), (90402, "gfx942"), (110000, "gfx1100"), (100300, "gfx1030"), (0, "")]
)
def test_the_chips_name_is_made_of_kfds_number(version: int, name: str) -> None:
    """Major in decimal, minor and stepping in hexadecimal digits."""
    assert gfx(version) == name


def test_a_host_without_amd_is_absent(tmp_path: Any) -> None:
    """An empty /sys and cards of others are no problem."""
    assert AmdProbe(HostTree(str(tmp_path))).read({}).absent
    assert AmdProbe(RecordedTree({"/sys/class/drm/card0/device/vendor": "0x10de"}, {})).read({}).absent


class AmdSmiError(Exception):
    pass


def library(**more: Any) -> Any:
    def fails(*_: object) -> None:
        raise AmdSmiError

    calls = {
        "amdsmi_init": lambda: None,
        "amdsmi_shut_down": lambda: None,
        "amdsmi_get_processor_handles": lambda: ["handle"],
        "amdsmi_get_gpu_device_bdf": lambda _: "0000:05:00.0",
        "amdsmi_get_gpu_asic_info": lambda _: {"market_name": "MI300X by library"},
        "amdsmi_get_gpu_memory_total": lambda *_: 200 * GIB,
        "amdsmi_get_gpu_process_list": lambda _: [{"pid": 7, "memory_usage": {"vram_mem": 5}}, {"pid": 8}],
        "amdsmi_get_gpu_total_ecc_count": lambda _: {"uncorrectable_count": 1},
    }
    rest = dict.fromkeys(("amdsmi_get_gpu_driver_info", "amdsmi_get_gpu_memory_usage"), fails)
    names = {"AmdSmiException": AmdSmiError, "AmdSmiMemoryType": SimpleNamespace(VRAM=0)}
    return SimpleNamespace(**(rest | calls | names | more), fails=fails)


def with_library(loaded: Any) -> Any:
    tree = RecordedTree(raw("synthetic_mi300x")["texts"], raw("synthetic_mi300x")["links"])
    return AmdProbe(tree, library=lambda: amd_library.read(lambda: loaded)).read({})


def test_amds_library_adds_what_it_knows() -> None:
    """Its name, total, errors and processes go before the kernel's; the id stays the same."""
    found = with_library(library())
    (device,) = found.devices
    assert (device.id, device.name, device.total) == ("4c21a0de0b51f3e7", "MI300X by library", 200 * GIB)
    assert (device.used, device.healthy, device.attributes["driver"]) == (70 * GIB, False, "6.8.5")
    assert found.processes == {device.id: {7: 5, 8: None}}


@pytest.mark.parametrize("broken", ["amdsmi_init", "amdsmi_get_processor_handles", "amdsmi_get_gpu_device_bdf"])
def test_amds_library_that_fails_changes_nothing(broken: str) -> None:
    """The kernel's files are enough."""
    assert with_library(library(**{broken: library().fails})) == played("synthetic_mi300x")
    assert with_library(None) == played("synthetic_mi300x")


@pytest.mark.parametrize("answer", ["N/A", None, 3, ["N/A"], [{"pid": 7, "memory_usage": "N/A"}]])
@pytest.mark.parametrize(
    "call", ["amdsmi_get_gpu_asic_info", "amdsmi_get_gpu_total_ecc_count", "amdsmi_get_gpu_process_list"]
)
def test_an_answer_of_another_form_is_no_answer(call: str, answer: object) -> None:
    """A release of the library that answers otherwise does not take the cards away."""
    (device,) = with_library(library(**{call: lambda _: answer})).devices
    assert (device.id, device.total) == ("4c21a0de0b51f3e7", 200 * GIB)
