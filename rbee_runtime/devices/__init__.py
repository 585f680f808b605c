"""What a host computes with: one probe per kind of device, each with a deadline, each failing alone."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rbee_runtime import logs
from rbee_runtime.protocol import DeviceReport

PROBE_SECONDS = 3.0
"""A healthy probe takes milliseconds; a driver that hangs must not hold up heartbeats (5 s)."""


class DeviceProbe(Protocol):
    """Reads the devices of one kind."""

    @property
    def kind(self) -> str:
        """Return the kind in `DeviceReport.kind`."""

    def read(self, workers: Sequence[int]) -> list[DeviceReport]:
        """Return the devices now; memory of the processes `workers` (pids) is not foreign. Runs in a thread."""


@dataclass(frozen=True)
class Scan:
    """What all probes found, and one sentence for each probe that failed, by kind."""

    devices: tuple[DeviceReport, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()


class Inventory:
    """All probes of a host."""

    def __init__(self, probes: Sequence[DeviceProbe], *, deadline: float = PROBE_SECONDS) -> None:
        self._probes = tuple(probes)
        self._deadline = deadline
        self._hung: dict[str, asyncio.Future[list[DeviceReport]]] = {}
        self._problems: tuple[tuple[str, str], ...] = ()

    async def scan(self, workers: Sequence[int] = ()) -> Scan:
        """Return what the probes see, at the latest after the deadline."""
        results = await asyncio.gather(*(self._read(probe, workers) for probe in self._probes))
        scan = Scan(
            devices=tuple(device for devices, _ in results for device in devices),
            problems=tuple((probe.kind, said) for probe, (_, said) in zip(self._probes, results, strict=True) if said),
        )
        self._report(scan.problems)
        return scan

    async def _read(self, probe: DeviceProbe, workers: Sequence[int]) -> tuple[list[DeviceReport], str]:
        # A hung probe keeps its one thread; asking it again would use up the pool.
        reading = self._hung.pop(probe.kind, None) or asyncio.ensure_future(asyncio.to_thread(probe.read, workers))
        done, _ = await asyncio.wait({reading}, timeout=self._deadline)
        if not done:
            self._hung[probe.kind] = reading
            return [], f"the {probe.kind} devices did not answer within {self._deadline:g} s"
        error = reading.exception()
        if error is not None:
            return [], f"the {probe.kind} devices cannot be read: {error}"
        return reading.result(), ""

    def _report(self, problems: tuple[tuple[str, str], ...]) -> None:
        for _, said in set(problems) - set(self._problems):
            logs.warning("device_probe_failed", detail=said)
        self._problems = problems
