"""One hive, put together: `rbee-hive` runs it alone, `rbee-queen --attached-hive` inside its own process."""

import asyncio
import contextlib
import fcntl
import ipaddress
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from socket import socket

from rbee_runtime.config import HiveConfig
from rbee_runtime.devices import Inventory
from rbee_runtime.devices.cpu import CpuProbe
from rbee_runtime.errors import ConfigError, StateError
from rbee_runtime.hive import app, reports
from rbee_runtime.hive.heartbeat import Heartbeats
from rbee_runtime.hive.launchers import Launcher, identity
from rbee_runtime.hive.launchers.process import STOP_SECONDS, ProcessLauncher
from rbee_runtime.hive.launchers.systemd import SystemdLauncher
from rbee_runtime.hive.supervisor import Supervisor
from rbee_runtime.link import Link
from rbee_runtime.protocol import DeviceReport, Heartbeat
from rbee_runtime.server import HttpServer, bind

FIRST_LOOK_SECONDS = 20.0
"""A launcher that cannot list workers for so long is reported as it is; the API is up and says so."""

API_DRAIN_SECONDS = 2.0


def boot_clock() -> float:
    """Return seconds since boot, which means the same to every process until the next one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class AttachedHive:
    """A running hive. Its workers outlive it unless `stop` is told otherwise."""

    def __init__(self, config: HiveConfig, link: Link, launcher: Launcher, lock: int, *, digest: str) -> None:
        self.config = config
        self._link = link
        self._lock = lock
        self._incarnation = secrets.token_hex(8)
        self._devices: tuple[DeviceReport, ...] = ()
        self._inventory = Inventory([CpuProbe()])
        self.supervisor = Supervisor(config, link, launcher, boot=identity.boot_id(), clock=boot_clock)
        self.heartbeats = Heartbeats(link, config.queen_url, self._compose, period=config.heartbeat_seconds)
        self.supervisor.watch(self.heartbeats.changed)
        facts = app.Facts(self.supervisor, launcher, self._compose, self._scan, digest)
        self._server = HttpServer(app.build(facts, link), tls=link.server_context(), drain_seconds=API_DRAIN_SECONDS)
        self._tasks: list[asyncio.Task[None]] = []
        self.stopped = False

    @property
    def summary(self) -> str:
        """Return one line about workers and queen."""
        return reports.summary(self.supervisor, queen=self.heartbeats.queen)

    async def wait_failed(self) -> None:
        """Raise when a part of the hive ended by itself; does not return while all is well."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
            raise StateError(f"the {task.get_name()} part of the hive ended by itself")

    async def stop(self, *, stop_workers: bool) -> None:
        """End the hive; with `stop_workers` its workers drain and end first."""
        self.stopped = True
        supervising, *others = self._tasks
        await _cancel(supervising)
        if stop_workers:
            await self.supervisor.stop_all(within=STOP_SECONDS)
        self._server.should_exit = True
        beating, serving = others
        await _cancel(beating)
        await asyncio.gather(serving, return_exceptions=True)
        os.close(self._lock)

    async def run(self, listener: socket) -> None:
        """Start every part and return once the API listens and the workers were looked at."""
        self._tasks = [
            asyncio.create_task(self.supervisor.run(), name="supervisor"),
            asyncio.create_task(self._beat(), name="heartbeats"),
            asyncio.create_task(self._server.serve(sockets=[listener]), name="api"),
        ]
        await self._server.wait_started()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.supervisor.reconciled.wait(), FIRST_LOOK_SECONDS)

    async def _beat(self) -> None:
        # The first heartbeat tells what really runs; before the first look that would be "nothing".
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.supervisor.reconciled.wait(), FIRST_LOOK_SECONDS)
        await self.heartbeats.run()

    async def _compose(self) -> Heartbeat:
        await self._scan()
        return reports.heartbeat(
            self.config,
            self._link,
            self.supervisor,
            incarnation=self._incarnation,
            devices=self._devices,
            now=boot_clock(),
        )

    async def _scan(self) -> Sequence[DeviceReport]:
        pids = [view.status.pid for view in self.supervisor.views.values() if view.status and view.status.pid]
        self._devices = (await self._inventory.scan(pids)).devices
        return self._devices


async def start(config: HiveConfig, link: Link, *, digest: str = "") -> AttachedHive:
    """Return a hive whose API listens and whose workers have been looked at once.

    Port 0 takes any free one; `config` of the result says which. Raises ConfigError, LinkError or StateError with
    nothing left running.
    """
    local = _on_loopback(config) if link.directory is None else config
    with contextlib.ExitStack() as undo:
        lock = _lock(local.state_dir)
        undo.callback(os.close, lock)
        listener = bind(local.address, local.port)
        undo.callback(listener.close)
        local = local.model_copy(update={"port": listener.getsockname()[1]})
        hive = AttachedHive(local, link, _launcher(local), lock, digest=digest)
        undo.pop_all()
    await hive.run(listener)
    return hive


def _on_loopback(config: HiveConfig) -> HiveConfig:
    """Return the settings of a hive without certificates: nothing of it can be reached from elsewhere."""
    if config.launcher == "systemd":
        raise ConfigError("launcher: systemd needs link_dir, because the units' workers get certificates and no token")
    if "address" in config.model_fields_set and not _is_loopback(config.address):
        raise ConfigError(f"address {config.address} needs link_dir: without certificates a hive stays on 127.0.0.1")
    address = config.address if _is_loopback(config.address) else "127.0.0.1"
    return config.model_copy(update={"address": address, "advertise": address})


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _launcher(config: HiveConfig) -> Launcher:
    return SystemdLauncher() if config.launcher == "systemd" else ProcessLauncher(config.state_dir)


def _lock(state_dir: Path) -> int:
    """Return the descriptor that keeps a second hive off this state directory."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(state_dir / "hive.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"cannot use the state directory {state_dir}: {error.strerror}; check its owner") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StateError(f"another hive runs on {state_dir}; stop it or give this one its own state_dir") from None
    return lock


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
