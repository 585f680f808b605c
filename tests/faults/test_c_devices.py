"""C5: a device disappears from discovery and comes back. Time is injected."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rbee_runtime.devices import Inventory
from rbee_runtime.devices.reading import Reading
from rbee_runtime.hive.health import Health
from rbee_runtime.protocol import DeviceReport
from rbee_runtime.states import ExitReason, Observed
from tests.faults.rig import Clock, Rig, ScriptedLauncher, document, rig, settings, worker
from tests.faults.rows import row
from tests.ports import free_ports

CARDS = tuple(DeviceReport(id=f"G{n}", kind="nvidia", name="card", total=100, used=0) for n in (1, 2))
SCAN_SECONDS = 3.0


class Cards:
    """Two cards, one of which can be pulled out."""

    kind = "nvidia"
    gone = False

    def read(self, workers: object) -> Reading:
        return Reading(CARDS[1:] if self.gone else CARDS)


async def test_c5_a_lost_device_fences_its_workers_only(tmp_path: Path) -> None:
    """Its worker is out within 10 s and back only after good looks; the neighbour stays ready; nobody is restarted."""
    clock, cards = Clock(), Cards()
    made = rig(settings(tmp_path, free_ports(4)), ScriptedLauncher(clock), clock)
    inventory = Inventory([cards], clock=clock)
    await look(made, inventory)
    await made.follow(document(1, worker("a", "G1"), worker("b", "G2")))
    await settle(made, inventory, "aREADY bREADY")
    cards.gone = True
    with within(made, row("C5").figure("fenced_seconds")):
        await settle(made, inventory, "aSTARTING bREADY")
    fenced = made.report("a")
    assert fenced is not None
    assert (fenced.last_exit, "vanished" in fenced.detail) == (ExitReason.DEVICE_LOST, True)
    cards.gone = False
    await look(made, inventory)
    await made.tick()
    assert states(made) == "aSTARTING bREADY"
    with within(made, SCAN_SECONDS * row("C5").figure("good_looks")):
        await settle(made, inventory, "aREADY bREADY")
    await made.close()
    assert len(made.launcher.starts) == 2  # type: ignore[attr-defined]


async def look(made: Rig, inventory: Inventory) -> None:
    made.scan = await inventory.scan()


async def settle(made: Rig, inventory: Inventory, wanted: str) -> None:
    """Scan and tick on their periods until the workers are as wanted; whoever runs answers its probes."""
    for _ in range(20):
        for name in made.supervisor.views:
            made.supervisor.prober.health[name] = Health(since=made.clock.now, ready=True)
        await made.simulate(SCAN_SECONDS)
        await look(made, inventory)
        await made.tick()
        if states(made) == wanted:
            return
    raise AssertionError(states(made))


def states(made: Rig) -> str:
    found = (report for name in ("a", "b") if (report := made.report(name)))
    return " ".join(f"{report.id}{Observed(report.state).name}" for report in found)


@contextmanager
def within(made: Rig, seconds: float) -> Iterator[None]:
    """Fail unless what happens here takes at most so many seconds of the injected clock, a look included."""
    begun = made.clock.now
    yield
    assert made.clock.now - begun <= seconds + 2.0
