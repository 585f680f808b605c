"""What a host computes with: one probe per kind of device, each with a deadline, each failing alone."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from rbee_runtime import logs
from rbee_runtime.config import DeviceSettings
from rbee_runtime.devices import families, presence, recorded
from rbee_runtime.devices.amd import AmdProbe
from rbee_runtime.devices.cpu import DEVICE_ID, CpuProbe
from rbee_runtime.devices.intel import IntelProbe
from rbee_runtime.devices.nvidia import NvidiaProbe
from rbee_runtime.devices.reading import DeviceProbe, Reading, Workers
from rbee_runtime.devices.simulated import SimulatedProbe
from rbee_runtime.protocol import DeviceProcess, DeviceReport

__all__ = ["DeviceProbe", "Inventory", "Reading", "Scan", "build"]

PROBE_SECONDS = 3.0
"""A healthy probe takes milliseconds; a driver that hangs must not hold up heartbeats (5 s)."""

ABSENT_SECONDS = 60.0
"""A host without devices of a kind is asked for them again after this; cards are not plugged in often."""

MOST_PROCESSES = 32
"""Of one device; heartbeats stay small on a card that hundreds share."""


@dataclass(frozen=True)
class Scan:
    """What all probes found.

    `problems` are (kind, sentence), `late` the kinds among them whose driver still works on its first answer and has
    not had long for it. `processes` is bytes by pid by device id, as far as drivers say; `workers` has
    every worker's own and its descendants' pids by the worker's pid.
    """

    devices: tuple[DeviceReport, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()
    processes: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    workers: Workers = field(default_factory=dict)
    late: frozenset[str] = frozenset()

    def taken(self, worker: int) -> dict[str, int]:
        """Return the bytes by device id that a worker (its main pid) and its children take; known ones only."""
        pids = self.workers.get(worker, frozenset((worker,)))
        found = {
            device: sum(taken for pid, taken in by_pid.items() if pid in pids)
            for device, by_pid in self.processes.items()
            if not pids.isdisjoint(by_pid)
        }
        return {device: taken for device, taken in found.items() if taken}


def build(settings: DeviceSettings) -> "Inventory":
    """Return the probes that the settings ask for; raises ConfigError when a recording cannot be used."""
    if settings.recorded is None and not settings.simulate:
        return Inventory([NvidiaProbe(), AmdProbe(), IntelProbe(), CpuProbe()])
    made_up: list[DeviceProbe] = [] if settings.recorded is None else recorded.probes(settings.recorded)
    if settings.simulate:
        made_up.append(SimulatedProbe(settings.simulate))
    # Workers run on this host's processor whatever else is made up.
    told = {probe.kind for probe in made_up} | {device.id for device in settings.simulate}
    return Inventory(made_up if DEVICE_ID in told else [*made_up, CpuProbe()])


class Inventory:
    """All probes of a host, and which of their devices are to be trusted."""

    def __init__(
        self,
        probes: Sequence[DeviceProbe],
        *,
        deadline: float = PROBE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probes = tuple(probes)
        self._deadline = deadline
        self._clock = clock
        self._running: dict[DeviceProbe, asyncio.Future[Reading]] = {}
        self._absent_until: dict[DeviceProbe, float] = {}
        self._known: dict[str, presence.Seen] = {}
        self._problems: tuple[tuple[str, str], ...] = ()
        self._late_until: dict[DeviceProbe, float] = {}

    async def scan(self, workers: Iterable[int] = ()) -> Scan:
        """Return what the probes see, at the latest after the deadline; `workers` are their main pids."""
        pids = tuple(workers)
        by_worker: Workers = await asyncio.to_thread(families.of, pids) if pids else {}
        ours: frozenset[int] = frozenset().union(*by_worker.values())
        answers = await asyncio.gather(*(self._ask(probe, by_worker) for probe in self._probes))
        readings = [answer for answer in answers if isinstance(answer, Reading)]
        silent = {p.kind: a for p, a in zip(self._probes, answers, strict=True) if isinstance(a, str)}
        said = _said(self._probes, answers)
        seen = [
            with_processes(with_foreign(device, reading, ours), reading)
            for reading in readings
            for device in reading.devices
        ]
        problems = {kind: "; ".join(text for of, text in said if of == kind) for kind, _ in said}
        look = presence.Look(seen, silent, problems)
        self._known = presence.observe(self._known, look, self._clock())
        self._report(said)
        devices = tuple(entry.report for entry in self._known.values())
        return Scan(devices, said, _known_memory(readings), by_worker, self._late())

    async def _ask(self, probe: DeviceProbe, workers: Workers) -> Reading | str:
        """Return the answer, or the sentence that says why there is none."""
        if self._clock() < self._absent_until.get(probe, 0.0):
            return Reading(absent=True)
        # A hung probe keeps its one thread; asking it again would pile up threads. Scans at one time share a reading.
        reading = self._running.get(probe) or _in_thread(probe, workers)
        self._running[probe] = reading
        self._late_until.setdefault(probe, self._clock() + presence.SILENCE_SECONDS)
        done, _ = await asyncio.wait({reading}, timeout=self._deadline)
        if not done:
            return f"the {probe.kind} devices did not answer within {self._deadline:g} s"
        self._running.pop(probe, None)
        self._late_until[probe] = 0.0
        error = reading.exception()
        if error is not None:
            return f"the {probe.kind} devices cannot be read: {error}"
        # What was here before is looked for at each scan, so that it is back as soon as it can be.
        if reading.result().absent and probe.kind not in {seen.report.kind for seen in self._known.values()}:
            self._absent_until[probe] = self._clock() + ABSENT_SECONDS
        return reading.result()

    def _late(self) -> frozenset[str]:
        """Return the kinds whose first answer is not here yet and may still come: drivers load, which takes seconds."""
        now = self._clock()
        return frozenset(probe.kind for probe in self._running if now < self._late_until[probe])

    def _report(self, problems: tuple[tuple[str, str], ...]) -> None:
        for _, said in set(problems) - set(self._problems):
            logs.warning("device_probe_failed", detail=said)
        self._problems = problems


def with_foreign(device: DeviceReport, reading: Reading, ours: frozenset[int]) -> DeviceReport:
    """Return the device with `foreign`: what is used less what our processes take.

    Where the driver does not say what one of ours takes, foreign is what it says that others take.
    """
    by_pid = reading.processes.get(device.id)
    if by_pid is None:
        return device
    mine = [taken for pid, taken in by_pid.items() if pid in ours]
    known = [taken for taken in mine if taken is not None]
    others = sum(taken or 0 for pid, taken in by_pid.items() if pid not in ours)
    foreign = device.used - sum(known) if len(known) == len(mine) else others
    return msgspec.structs.replace(device, foreign=min(max(foreign, 0), device.used))


def with_processes(device: DeviceReport, reading: Reading) -> DeviceReport:
    """Return the device with the processes that have the most of its memory."""
    by_pid = reading.processes.get(device.id, {})
    ranked = sorted(by_pid.items(), key=lambda item: (-(item[1] or 0), item[0]))[:MOST_PROCESSES]
    return msgspec.structs.replace(device, processes=tuple(DeviceProcess(pid=pid, memory=size) for pid, size in ranked))


def _in_thread(probe: DeviceProbe, workers: Workers) -> asyncio.Future[Reading]:
    # Not the loop's pool of threads: Python waits for those at exit, and a thread that hangs in a driver never ends.
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Reading] = loop.create_future()

    def run() -> None:
        try:
            reading, error = probe.read(workers), None
        except Exception as raised:  # noqa: BLE001 - whatever a driver raises, the other probes go on
            reading, error = Reading(), raised
        # The loop may have ended while the driver thought about it.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, future, reading, error)

    threading.Thread(target=run, name=f"devices-{probe.kind}", daemon=True).start()
    return future


def _settle(future: asyncio.Future[Reading], reading: Reading, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(reading)
    else:
        future.set_exception(error)


def _said(probes: Sequence[DeviceProbe], answers: Sequence[Reading | str]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (probe.kind, sentence)
        for probe, answer in zip(probes, answers, strict=True)
        for sentence in ((answer,) if isinstance(answer, str) else answer.problems)
    )


def _known_memory(readings: Sequence[Reading]) -> dict[str, dict[int, int]]:
    return {
        device: {pid: taken for pid, taken in by_pid.items() if taken is not None}
        for reading in readings
        for device, by_pid in reading.processes.items()
    }
