"""C4: the service manager hears from the hive only while its supervisor makes progress."""

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from rbee_runtime.hive import main
from rbee_runtime.hive.attached import boot_clock
from tests.unit.hive.waiting import until

UNIT = Path(__file__).resolve().parents[2] / "templates/systemd/rbee-hive.service.j2"


class Ears:
    """What a service manager would hear."""

    def __init__(self, path: Path) -> None:
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.bind(str(path))
        self._channel.setblocking(False)

    def pings(self) -> int:
        """Return how many pings came since the last call."""
        count = 0
        while True:
            try:
                count += "WATCHDOG=1" in self._channel.recv(4096).decode()
            except BlockingIOError:
                return count

    async def listen(self, seconds: float) -> int:
        """Return how many pings come within a time; what nobody reads would block the hive."""
        loop = asyncio.get_running_loop()
        end, count = loop.time() + seconds, 0
        while loop.time() < end:
            count += self.pings()
            await asyncio.sleep(0.01)
        return count

    def close(self) -> None:
        self._channel.close()


async def test_c4_pings_stop_when_the_supervisor_stalls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that turns but whose supervisor stands still pings no more, and pings again once that goes on."""
    monkeypatch.setattr(main, "STATUS_SECONDS", 0.01)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    ears = Ears(tmp_path / "notify")
    supervisor = SimpleNamespace(ticked=boot_clock())
    hive = SimpleNamespace(summary="1 worker ready", supervisor=supervisor, wait_failed=asyncio.Event().wait)
    stop = asyncio.Event()
    attending = asyncio.create_task(main._attend(hive, stop))  # type: ignore[arg-type]
    await until(ears.pings)
    supervisor.ticked = boot_clock() - main.STALLED_SECONDS
    await ears.listen(0.1)
    assert await ears.listen(0.5) == 0
    supervisor.ticked = boot_clock()
    await until(ears.pings)
    stop.set()
    await attending
    ears.close()


def test_c4_the_unit_has_a_watchdog_longer_than_the_stall() -> None:
    """A stall costs its ping before the service manager's patience ends."""
    (line,) = [line for line in UNIT.read_text().splitlines() if line.startswith("WatchdogSec=")]
    assert float(line.partition("=")[2]) > main.STALLED_SECONDS
