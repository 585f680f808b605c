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

from rbee_runtime import devices
from rbee_runtime.config import HiveConfig
from rbee_runtime.errors import ConfigError, StateError
from rbee_runtime.events import EventLog
from rbee_runtime.hive import app, launchers, reports
from rbee_runtime.hive.facts import Facts
from rbee_runtime.hive.feed import Feed, Snapshot
from rbee_runtime.hive.heartbeat import Heartbeats
from rbee_runtime.hive.launchers import Launcher, identity
from rbee_runtime.hive.launchers.process import STOP_SECONDS
from rbee_runtime.hive.metrics import Meters
from rbee_runtime.hive.obedience import Obedience
from rbee_runtime.hive.scanning import Scanning
from rbee_runtime.hive.supervisor import Supervisor
from rbee_runtime.link import Link
from rbee_runtime.models.chunks import BlobServer
from rbee_runtime.protocol import DeviceReport, Heartbeat
from rbee_runtime.server import HttpServer, bind

LAG_SECONDS = 5.0
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
        self.events = EventLog(secrets.token_hex(8))
        self.meters = Meters(name=config.name, events=self.events.counts)
        self.scanning = Scanning(
            devices.build(config.devices),
            workers=lambda: self.supervisor.pids,
            changed=self._seen_devices,
            clock=boot_clock,
        )
        self.supervisor = Supervisor(
            config, link, launcher, boot=identity.boot_id(), clock=boot_clock, devices=lambda: self.scanning.latest
        )
        self._obedience = Obedience(config.queen_url, check_mark=self.supervisor.desired.check_order)
        self.heartbeats = Heartbeats(
            link,
            config.queen_url,
            self._compose,
            period=config.heartbeat_seconds,
            answered=self._obedience.answered,
        )
        self._obedience.ask = self.heartbeats.changed
        self.feed = Feed(self.events, self.meters, look=self._snapshot)
        self.supervisor.watch(self.feed.changed)
        self.supervisor.watch(self.heartbeats.changed)
        self._facts = self._make_facts(launcher, digest)
        api = app.build(self._facts, link)
        self._server = HttpServer(api, tls=link.server_context(), drain_seconds=API_DRAIN_SECONDS)
        self._tasks: list[asyncio.Task[None]] = []
        self._looked = asyncio.Event()
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
        self._facts.stopping.set()
        supervising, serving, *others = self._tasks
        await _cancel(supervising)
        if stop_workers:
            await self.supervisor.stop_all(within=STOP_SECONDS)
        self._server.should_exit = True
        for task in others:
            await _cancel(task)
        await asyncio.gather(serving, return_exceptions=True)
        os.close(self._lock)

    async def run(self, listener: socket) -> None:
        """Start every part and return once the API listens and the workers were looked at."""
        self._tasks = [
            asyncio.create_task(self._supervise(), name="supervisor"),
            asyncio.create_task(self._server.serve(sockets=[listener]), name="api"),
            asyncio.create_task(self._beat(), name="heartbeats"),
            asyncio.create_task(self._scan(), name="devices"),
            asyncio.create_task(self.feed.run(), name="events"),
            asyncio.create_task(self._measure_lag(), name="lag"),
        ]
        await self._server.wait_started()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.supervisor.reconciled.wait(), FIRST_LOOK_SECONDS)

    def _make_facts(self, launcher: Launcher, digest: str) -> Facts:
        store = self.supervisor.fetching.store
        self.meters.free = self.supervisor.fetching.free
        return Facts(
            config=self.config,
            supervisor=self.supervisor,
            obedience=self._obedience,
            launcher=launcher,
            heartbeat=self._compose,
            devices=self._devices_now,
            events=self.events,
            meters=self.meters,
            store=store,
            blobs=BlobServer(store.layout),
            clock=boot_clock,
            digest=digest,
        )

    async def _scan(self) -> None:
        await self.supervisor.look()
        self._looked.set()
        await self.scanning.run()

    async def _supervise(self) -> None:
        # Without a look at the devices nobody knows what fits, nor who loads where; each probe has its deadline.
        await self._looked.wait()
        await self.scanning.known()
        await self.supervisor.run()

    async def _beat(self) -> None:
        # The first heartbeat tells what really runs; before the first look that would be "nothing".
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.supervisor.reconciled.wait(), FIRST_LOOK_SECONDS)
        await self.heartbeats.run()

    async def _measure_lag(self) -> None:
        """Note how late the event loop is, and what else is cheap to read."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            self.meters.loop_lag = max(0.0, loop.time() - due)
            self.meters.heartbeat_failures = self.heartbeats.failures
            self.meters.tick_seconds = self.supervisor.took

    async def _compose(self) -> Heartbeat:
        await self.scanning.known()
        return self._report()

    def _report(self) -> Heartbeat:
        return reports.heartbeat(
            self.config,
            self._link,
            self.supervisor,
            incarnation=self.events.incarnation,
            scan=self.scanning.latest,
            now=boot_clock(),
        )

    async def _devices_now(self) -> Sequence[DeviceReport]:
        return reports.with_workers(await self.scanning.now(), self.supervisor)

    def _seen_devices(self) -> None:
        before = self._health()
        self.feed.changed()
        if self._health() != before:
            self.heartbeats.changed()

    def _health(self) -> dict[str, bool]:
        return {name: device.healthy for name, device in self.meters.devices.items()}

    def _snapshot(self) -> Snapshot:
        report = self._report()
        return Snapshot(
            workers={worker.id: worker for worker in report.workers},
            models={model.name: model for model in report.models},
            fetches={fetch.name: fetch for fetch in self.supervisor.fetching.fetches},
            devices={device.id: device for device in report.devices},
            ack=self.supervisor.ack,
            draining=self.supervisor.draining,
        )


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
        hive = AttachedHive(local, link, launchers.build(local), lock, digest=digest)
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
    while not task.done():
        # A task that gets what it waits for in the very moment of a cancel may go on (asyncio.wait_for before 3.12).
        task.cancel()
        await asyncio.wait({task}, timeout=5.0)
