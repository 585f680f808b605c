"""A hive that runs nothing: it takes the queen's document and reports each worker in it as ready on a mock's port."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rbee_runtime import __version__
from rbee_runtime.hive.heartbeat import Heartbeats
from rbee_runtime.link import Link
from rbee_runtime.protocol import (
    Desired,
    DesiredAck,
    DeviceReport,
    Heartbeat,
    WorkerReport,
    WorkerSpec,
    decode,
    encode,
)
from rbee_runtime.server import HttpServer, bind
from rbee_runtime.states import Observed

NAME = "bench"
PERIOD_SECONDS = 5.0
MEMORY = 1024**4
"""More than all workers could need."""


class Hive:
    """Takes documents and says what a heartbeat says."""

    def __init__(self, ports: Sequence[int], slots: int) -> None:
        self.url = ""
        self.changed = asyncio.Event()
        self._free = list(ports)
        self._slots = slots
        self._document: Desired | None = None
        self._ports: dict[str, int] = {}

    async def desired(self, request: Request) -> Response:
        """Take a document."""
        self._document = document = decode(await request.body(), Desired)
        for spec in document.workers:
            if spec.id not in self._ports:
                self._ports[spec.id] = self._free.pop(0)
        self.changed.set()
        ack = DesiredAck(fleet=document.fleet, epoch=document.epoch, revision=document.revision)
        return Response(encode(ack), media_type="application/json")

    async def compose(self) -> Heartbeat:
        """Return how this host would be."""
        document = self._document
        return Heartbeat(
            hive=NAME,
            incarnation="bench",
            url=self.url,
            epoch=document.epoch if document else 0,
            revision=document.revision if document else 0,
            version=__version__,
            engines=("fake",),
            devices=(DeviceReport(id="bench0", kind="simulated", name="simulated", total=MEMORY, used=0),),
            workers=tuple(self._report(spec) for spec in document.workers) if document else (),
        )

    def _report(self, spec: WorkerSpec) -> WorkerReport:
        return WorkerReport(
            id=spec.id,
            model=spec.model,
            spec=spec.digest(),
            wanted=spec.digest(),
            state=Observed.READY,
            engine=spec.engine,
            address="127.0.0.1",
            port=self._ports[spec.id],
            context=spec.context,
            slots=self._slots,
        )


@contextlib.asynccontextmanager
async def reporting(link: Link, queen_url: str, ports: Sequence[int], slots: int) -> AsyncIterator[None]:
    """Have a hive report to a queen for the block; the queen may start within it."""
    hive = Hive(ports, slots)
    app = Starlette(routes=[Route("/api/v1/desired", hive.desired, methods=["PUT"])])
    listener = bind("127.0.0.1", 0)
    hive.url = f"{link.scheme}://127.0.0.1:{listener.getsockname()[1]}"
    server = HttpServer(app, tls=link.server_context(), drain_seconds=1)
    beats = Heartbeats(link, queen_url, hive.compose, period=PERIOD_SECONDS, answered=lambda _: None)
    tasks = [asyncio.create_task(each) for each in (server.serve(sockets=[listener]), _follow(hive, beats))]
    tasks.append(asyncio.create_task(beats.run()))
    try:
        yield
    finally:
        server.should_exit = True
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(hive: Hive, beats: Heartbeats) -> None:
    while True:
        await hive.changed.wait()
        hive.changed.clear()
        beats.changed()
