"""One life of a serving queen: start every part, serve, let go, finish."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from rbee_runtime import logs, open_files
from rbee_runtime.config import HiveConfig, QueenConfig
from rbee_runtime.errors import RbeeError
from rbee_runtime.gateway.exchange import Outcome
from rbee_runtime.gateway.front import Front
from rbee_runtime.gateway.peers import Peers
from rbee_runtime.gateway.relay import Relay
from rbee_runtime.gateway.seam import Limits
from rbee_runtime.gateway.upstream import fleet_pool
from rbee_runtime.link import Link, Role
from rbee_runtime.queen import admin, garbage, laptop, laptop_routes, link_app
from rbee_runtime.queen.app import ClientApp
from rbee_runtime.queen.commands import Commands, cancel
from rbee_runtime.queen.control import Order, Word
from rbee_runtime.queen.controller import Controller
from rbee_runtime.queen.cors import Origins
from rbee_runtime.queen.desired import PUSH_TIMEOUT, Documents
from rbee_runtime.queen.desk import ClientDesk, Journal
from rbee_runtime.queen.external import Externals
from rbee_runtime.queen.figures import Figures
from rbee_runtime.queen.fleet import FleetSource
from rbee_runtime.queen.hive_calls import HiveCalls
from rbee_runtime.queen.keys import Keys
from rbee_runtime.queen.limits import Limiter
from rbee_runtime.queen.lines import Lines
from rbee_runtime.queen.metrics import Meters
from rbee_runtime.queen.probes import PROBE_LIMITS, PROBE_TIMEOUT, Probes
from rbee_runtime.queen.status import Phase, Status
from rbee_runtime.queen.store import Store
from rbee_runtime.queen.usage import Usage
from rbee_runtime.queen.writes import Writes
from rbee_runtime.server import HttpServer

if TYPE_CHECKING:
    from rbee_runtime.hive.attached import AttachedHive

GRACE_SECONDS = 6.0
"""While it leaves, idle connections stay open for a while and their next answer says `connection: close`: a client that
sends just then is answered instead of cut off. httpx, and with it the official clients, uses no connection again that
was idle for 5 s, so that none is left by then which a request may be on its way over."""

_POLL_SECONDS = 0.05
LINK_DRAIN_SECONDS = 1.0
_CUT_SECONDS = 5.0
"""How long a cut answer may take to reach its client."""


class Serving:
    """The parts of one queen, from an open store to the last byte."""

    def __init__(self, settings: QueenConfig, store: Store, link: Link, *, digest: str) -> None:
        self._settings = settings
        self._store = store
        self._link = link
        self._status = Status(store.start_epoch(settings.fleet), digest)
        self._to_workers = fleet_pool(link, Role.WORKER)
        self._to_probe = link.client(timeout=PROBE_TIMEOUT, peer=Role.WORKER, limits=PROBE_LIMITS)
        self._to_hives = link.client(timeout=PUSH_TIMEOUT, peer=Role.HIVE)
        self.keys = Keys(store)
        if settings.bootstrap_key_file is not None and self.keys.import_bootstrap(settings.bootstrap_key_file):
            logs.info("bootstrap key imported")
        self._writes = Writes(store)
        self._documents = Documents(settings.fleet, self._status.epoch, self._to_hives, written=self._writes.settled)
        self.controller = Controller(
            store=store,
            writes=self._writes,
            fleet=FleetSource(settings.fleet_file, store),
            keys=self.keys,
            documents=self._documents,
            scheme=link.scheme,
            clock=time.monotonic,
        )
        self._usage = Usage(store, self.keys, settings.state_dir, self._status.epoch)
        self._lines = Lines(
            self.controller,
            self.controller.roster,
            queue_wait=settings.queue_wait_seconds,
            clock=time.monotonic,
            limiter=Limiter(self.keys.find, time.monotonic),
        )
        self._lines.count = self._usage.count
        self.controller.on_change = self._lines.changed
        self.controller.waiting = self._lines.waiting
        self._lines.doubt = self.controller.doubt
        self._lines.wanted = self.controller.want
        self._calls = HiveCalls(self.controller, self._to_hives, signature=self._documents.signature)
        self._journal = Journal(asyncio.get_running_loop().call_later)
        self._figures = Figures(self.controller.fleet)
        bounds = Limits(first_byte=settings.first_byte_seconds, idle=settings.silence_seconds)
        self._relay = Relay(self._lines, self._to_workers, limits=bounds, over=self._over)
        self._owners: list[asyncio.Task[None]] = []
        self._hive: AttachedHive | None = None

    async def run(
        self,
        client: socket.socket,
        link: socket.socket,
        commands: Commands,
        *,
        tls: ssl.SSLContext | None,
        hive: HiveConfig | None,
        on_ready: Callable[[], None],
        on_release: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve until the supervisor orders otherwise or is gone."""
        origins = Origins(self._settings.cors_origins)
        meters = Meters(self.controller, self._figures, lambda: self._relay.open)
        own = admin.build(self.controller, self._calls, self._usage, meters)
        if hive is not None:
            laptop_routes.register(own, self.controller, self._settings.fleet_file, hive.engines_dir)
        app = ClientApp(self.controller, own, self._status, origins, self._figures.asked)
        desk = ClientDesk(self.keys, self._relay, self._status, origins, self._lines.ratelimit_headers)
        patience = self._settings.drain_seconds + _CUT_SECONDS
        # A request may take a second one, to its worker, and there are others than this peer's.
        peers = Peers(open_files.allowed() // 3, time.monotonic)
        clients = HttpServer(app, tls=tls, drain_seconds=patience, connection=partial(Front, desk=desk, peers=peers))
        links = HttpServer(
            link_app.build(self.controller, self._link, self._status),
            tls=self._link.server_context(),
            drain_seconds=LINK_DRAIN_SECONDS,
        )
        port, link_port = client.getsockname()[1], link.getsockname()[1]
        serving = {
            asyncio.create_task(clients.serve(sockets=[client])),
            asyncio.create_task(links.serve(sockets=[link])),
        }
        self._owners = [asyncio.create_task(part.run()) for part in self._parts()]
        order = commands.order
        try:
            await _first(asyncio.create_task(_both_started(clients, links)), [*serving, *self._owners])
            await self._start_hive(hive, port, link_port)
            self._status.phase = Phase.READY
            self._owners.append(asyncio.create_task(garbage.looking()))
            on_ready()
            logs.info("serving", port=port, link_port=link_port, epoch=self._status.epoch)
            commands.say(Word.READY)
            await _first(order, [*serving, *self._owners])
            await self._let_go(order.result(), clients, links, on_release)
            commands.say(Word.RELEASED)
            await self._finish(order.result(), clients)
            await asyncio.gather(*serving)
        finally:
            await self._close([*serving, *self._owners, order])

    def _over(self, outcome: Outcome) -> None:
        self._journal.over(outcome)
        self._figures.over(outcome)

    def _parts(self) -> tuple[Lines, Usage, Controller, Documents, Probes, Externals, Writes]:
        """Return what runs until the end, the first two while open answers end; the last writes what others decide."""
        probes, externals = Probes(self.controller, self._to_probe), self.controller.externals
        return self._lines, self._usage, self.controller, self._documents, probes, externals, self._writes

    async def _start_hive(self, settings: HiveConfig | None, port: int, link_port: int) -> None:
        if settings is None:
            return
        # A queen of a fleet never needs this code.
        from rbee_runtime.hive import attached  # noqa: PLC0415 - see above

        local = settings.model_copy(update={"queen_url": f"http://{laptop.LOOPBACK}:{link_port}"})
        link = Link(Role.HIVE, self._link.fleet, token=self._link.token)
        self._hive = await attached.start(local, link)
        self._owners.append(asyncio.create_task(self._hive.wait_failed()))
        key = laptop.first_key(self.keys, self._settings.state_dir)
        models = [model.name for model in self.controller.fleet.current.models]
        print(laptop.banner(port, key, self._settings.state_dir, models), flush=True)  # noqa: T201 - for a person

    async def _let_go(
        self, order: Order, clients: HttpServer, links: HttpServer, on_release: Callable[[], None]
    ) -> None:
        """Stop accepting and hand sockets and state to whoever comes next."""
        logs.info("leaving", order=order, open=self._relay.open)
        self._status.phase = Phase.DRAINING
        # At once: when the supervisor is gone, systemd may open the ports anew, and must not find them in use.
        for server in (*clients.servers, *links.servers):
            server.close()
        links.should_exit = True
        self._calls.stopping.set()
        for task in self._owners[2:]:
            await cancel(task)
        self._lines.leave()
        if order is Order.STOP:
            self._relay.cut()
        if self._hive is not None:
            await self._hive.stop(stop_workers=order is Order.STOP)
        # Before the next one can have the state, and say what it runs itself.
        on_release()
        self._usage.leave()
        self._store.close()

    async def _finish(self, order: Order, clients: HttpServer) -> None:
        """Let open answers end, for a bounded time."""
        loop = asyncio.get_running_loop()
        last = loop.time() + self._settings.drain_seconds
        grace = 0.0 if order is Order.STOP else min(GRACE_SECONDS, self._settings.drain_seconds)
        for _ in range(round(grace / _POLL_SECONDS)):
            if not clients.server_state.connections:
                break
            await asyncio.sleep(_POLL_SECONDS)
        clients.should_exit = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(last):
                await self._relay.wait_idle()
        self._relay.cut()

    async def _close(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        for task in tasks:
            await cancel(task)
        self._usage.leave()
        self._journal.flush()
        self._to_workers.close()
        await self._to_probe.aclose()
        await self._to_hives.aclose()
        await self.controller.externals.aclose()


async def _both_started(clients: HttpServer, links: HttpServer) -> None:
    await clients.wait_started()
    await links.wait_started()


async def _first(awaited: asyncio.Task[Any], others: Iterable[asyncio.Task[Any]]) -> None:
    """Return when `awaited` is done; raise if it, or a part that should never end, failed before."""
    parts = set(others)
    await asyncio.wait({awaited, *parts}, return_when=asyncio.FIRST_COMPLETED)
    for task in parts:
        if task.done():
            task.result()
            raise RbeeError("a part of the queen ended by itself; see the log lines before this one")
    awaited.result()
