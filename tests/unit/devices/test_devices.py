"""The inventory: deadlines, failing alone, foreign memory, and what is not asked twice."""

import threading
from collections.abc import Mapping

import pytest

from rbee_runtime import devices
from rbee_runtime.config import DeviceSettings, SimulatedDevice
from rbee_runtime.devices import MOST_PROCESSES, Inventory, Reading, Scan, with_foreign
from rbee_runtime.devices.reading import Workers
from rbee_runtime.protocol import DeviceReport
from tests.unit.hive.waiting import until


def device(name: str, *, used: int = 0, foreign: int = 0) -> DeviceReport:
    return DeviceReport(id=name, kind=name, name=name, total=100, used=used, foreign=foreign)


class Probe:
    def __init__(self, kind: str, *, fail: bool = False, release: threading.Event | None = None) -> None:
        self.kind = kind
        self.calls = 0
        self.asked_while_it_hung = 0
        self.reading = Reading((device(kind),))
        self._fail = fail
        self._release = release

    def read(self, workers: Workers) -> Reading:
        self.calls += 1
        if self._release is not None:
            self.asked_while_it_hung += not self._release.is_set()
            self._release.wait(120)
        if self._fail:
            raise OSError("driver gone")
        return self.reading


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_failing_probe_fails_alone() -> None:
    """The others' devices are there, and the failure is one sentence."""
    scan = await Inventory([Probe("a", fail=True), Probe("b")]).scan()
    assert [device.id for device in scan.devices] == ["b"]
    assert scan.problems == (("a", "the a devices cannot be read: driver gone"),)


async def test_a_hanging_probe_is_not_waited_for_nor_asked_twice() -> None:
    """A scan ends at its deadline, later scans do not pile up threads, and the late answer is used."""
    release = threading.Event()
    hanging = Probe("a", release=release)
    inventory = Inventory([hanging, Probe("b")], deadline=1.0)
    scans = [await inventory.scan() for _ in range(2)]
    release.set()

    async def both() -> bool:
        return len((await inventory.scan()).devices) == 2

    await until(both)
    assert [len(scan.devices) for scan in scans] == [1, 1]
    assert scans[0].problems == (("a", "the a devices did not answer within 1 s"),)
    assert hanging.asked_while_it_hung == 1


async def test_a_driver_has_ten_seconds_for_its_first_answer() -> None:
    """For so long it is late, which says nothing about its devices; later it is silent."""
    clock, release = Clock(), threading.Event()
    inventory = Inventory([Probe("a", release=release)], deadline=0.05, clock=clock)
    late = []
    for clock.now in (0, 9, 10):
        late.append((await inventory.scan()).late)
    assert late == [{"a"}, {"a"}, set()]
    release.set()


async def test_a_driver_that_answered_once_is_not_late() -> None:
    """One that hangs afterwards is silent at once."""
    clock, release = Clock(), threading.Event()
    release.set()
    probe = Probe("a", release=release)
    inventory = Inventory([probe], deadline=1.0, clock=clock)
    await until(lambda: _seen(inventory))
    release.clear()
    scan = await inventory.scan()
    release.set()
    assert (len(scan.problems), len(scan.late)) == (1, 0)


async def _seen(inventory: Inventory) -> bool:
    return not (await inventory.scan()).problems


async def test_a_kind_that_is_absent_is_asked_for_once_a_minute() -> None:
    """A host without such devices pays for looking once, and a card that is plugged in is found."""
    clock, probe = Clock(), Probe("a")
    inventory = Inventory([probe], clock=clock)
    probe.reading = Reading(absent=True)
    for clock.now in (0, 5, 59):
        await inventory.scan()
    assert probe.calls == 1
    probe.reading = Reading((device("a"),))
    clock.now = 60
    assert len((await inventory.scan()).devices) == 1


async def test_a_device_that_was_here_is_looked_for_at_each_scan() -> None:
    """A driver that went away is unhealthy at once and back after two looks, not after a minute."""
    clock, probe = Clock(), Probe("a")
    inventory = Inventory([probe], clock=clock)
    states = []
    for clock.now, reading in ((0, probe.reading), (5, Reading(absent=True)), (10, probe.reading), (15, probe.reading)):
        probe.reading = reading
        states.append([device.healthy for device in (await inventory.scan()).devices])
    assert states == [[True], [False], [False], [True]]


async def test_a_problem_of_the_kind_is_why_its_device_is_gone() -> None:
    """The driver's complaint stands with the device, not only in the log."""
    clock, probe = Clock(), Probe("a")
    inventory = Inventory([probe], clock=clock)
    await inventory.scan()
    probe.reading = Reading(problems=("reboot the host",))
    scan = await inventory.scan()
    assert scan.devices[0].detail == "a has vanished: reboot the host"
    assert scan.problems == (("a", "reboot the host"),)


@pytest.mark.parametrize(
    ("processes", "foreign"),
    [
        (None, 7),
        ({}, 60),
        ({1: 40, 9: 15}, 20),
        ({1: 25, 2: 25, 9: 10}, 10),
        ({1: 70}, 0),
        ({1: None, 9: 15}, 15),
        ({1: None, 9: None}, 0),
        ({9: None}, 60),
    ],
)
def test_foreign_is_what_is_used_less_what_ours_take(processes: Mapping[int, int | None] | None, foreign: int) -> None:
    """Children count as ours; where ours are unknown the known memory of others is foreign."""
    reading = Reading(processes={} if processes is None else {"a": processes})
    found = with_foreign(device("a", used=60, foreign=7), reading, frozenset((1, 2)))
    assert found.foreign == foreign


async def test_processes_of_a_device_are_listed_as_far_as_they_are_many() -> None:
    """The largest come first, what is not known of one comes last, and a device that is gone has none."""
    probe = Probe("a")
    inventory = Inventory([probe])
    few, many = {5: None, 6: 10, 7: 20}, dict.fromkeys(range(100), 1)
    listed = []
    for readings in (Reading((device("a"),), {"a": few}), Reading((device("a"),), {"a": many}), Reading()):
        probe.reading = readings
        listed.append([(each.pid, each.memory) for each in (await inventory.scan()).devices[0].processes])
    assert listed == [[(7, 20), (6, 10), (5, None)], [(pid, 1) for pid in range(MOST_PROCESSES)], []]


def test_a_worker_takes_what_its_processes_take() -> None:
    """By device, with children, and nothing where it is not."""
    scan = Scan(processes={"a": {1: 5, 2: 6, 9: 7}, "b": {9: 7}, "c": {1: 0}}, workers={1: frozenset((1, 2))})
    assert (scan.taken(1), scan.taken(9), scan.taken(3)) == ({"a": 11}, {"a": 7, "b": 7}, {})


async def test_simulated_devices_stand_beside_the_processor() -> None:
    """They are reported as declared, and workers that need none still have the processor."""
    settings = DeviceSettings(simulate=(SimulatedDevice(id="GPU-sim", kind="nvidia", total=10, used=4),))
    scan = await devices.build(settings).scan()
    simulated, processor = scan.devices
    assert (simulated.id, simulated.kind, simulated.total, simulated.foreign) == ("GPU-sim", "nvidia", 10, 4)
    assert simulated.attributes == {"simulated": "yes"}
    assert processor.id == "cpu"


async def test_this_host_is_scanned() -> None:
    """Without settings the real probes run, and the processor is always there."""
    scan = await devices.build(DeviceSettings()).scan()
    assert scan.devices[-1].id == "cpu"
