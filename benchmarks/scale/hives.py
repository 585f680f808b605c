"""A thousand hives in one process, each with a certificate, an address and heartbeats of its own, that run nothing.

`python -m benchmarks.scale.hives` follows the queen's documents: a new worker starts for a moment and is ready then.
Each second one worker of the fleet starts over. One more port tells what all hives together have. All workers answer at
one port.
"""

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.scale.beats import Beats
from rbee_runtime import __version__, open_files
from rbee_runtime.link import Link, Role
from rbee_runtime.protocol import (
    Desired,
    DesiredAck,
    DeviceReport,
    Heartbeat,
    ModelReport,
    WorkerReport,
    WorkerSpec,
    decode,
    encode,
)
from rbee_runtime.server import HttpServer, bind
from rbee_runtime.states import Observed

FLEET = "scale"
PERIOD_SECONDS = 5.0
"""The interval of hives."""

START_SECONDS, TURN_SECONDS = 2.0, 1.0
CARDS, CARD_BYTES, WORKER_BYTES = 2, 24 * 1024**3, 1024**3


def name_of(number: int) -> str:
    """Return the name of a hive."""
    return f"h{number:04}"


def address_of(number: int) -> str:
    """Return an address of loopback that only this hive has."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


@dataclass
class Hive:
    """One host: the document that it follows, and since when its workers start (monotonic seconds)."""

    name: str
    url: str
    worker_port: int
    beats: Beats | None = None
    document: Desired | None = None
    started: dict[str, float] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def workers(self) -> tuple[WorkerSpec, ...]:
        """Return what it is to run."""
        return self.document.workers if self.document is not None else ()

    def take(self, document: Desired) -> DesiredAck:
        """Follow a document."""
        self.document = document
        now = time.monotonic()
        self.started = {spec.id: self.started.get(spec.id, now) for spec in document.workers}
        self.digests = {spec.id: spec.digest() for spec in document.workers}
        self.tell()
        asyncio.get_running_loop().call_later(START_SECONDS, self.tell)
        return DesiredAck(fleet=document.fleet, epoch=document.epoch, revision=document.revision)

    def restart(self, worker: str) -> None:
        """Have a worker start over."""
        self.started[worker] = time.monotonic()
        self.tell()
        asyncio.get_running_loop().call_later(START_SECONDS, self.tell)

    def tell(self) -> None:
        """Send a heartbeat at once."""
        if self.beats is not None:
            self.beats.changed()

    def ready(self) -> int:
        """Return how many of its workers are ready."""
        return sum(self._state(spec) is Observed.READY for spec in self.workers)

    def compose(self) -> Heartbeat:
        """Return how this host would be."""
        document, workers = self.document, tuple(self._report(spec) for spec in self.workers)
        return Heartbeat(
            hive=self.name,
            incarnation=self.name,
            url=self.url,
            epoch=document.epoch if document else 0,
            revision=document.revision if document else 0,
            version=__version__,
            engines=("fake",),
            builds={"fake": __version__},
            devices=tuple(self._device(number, workers) for number in range(CARDS)),
            models=tuple(
                ModelReport(name=name, size=WORKER_BYTES) for name in sorted({spec.model for spec in self.workers})
            ),
            workers=workers,
        )

    def _device(self, number: int, workers: Sequence[WorkerReport]) -> DeviceReport:
        used = sum(worker.memory.get(f"GPU-{number}", 0) for worker in workers)
        return DeviceReport(
            id=f"GPU-{number}", kind="cuda", name="simulated", index=number, total=CARD_BYTES, used=used, measured=used
        )

    def _state(self, spec: WorkerSpec) -> Observed:
        return Observed.READY if time.monotonic() - self.started[spec.id] >= START_SECONDS else Observed.STARTING

    def _report(self, spec: WorkerSpec) -> WorkerReport:
        return WorkerReport(
            id=spec.id,
            model=spec.model,
            spec=self.digests[spec.id],
            wanted=self.digests[spec.id],
            state=self._state(spec),
            engine=spec.engine,
            address="127.0.0.1",
            port=self.worker_port,
            context=spec.context,
            slots=spec.slots,
            since=time.monotonic() - self.started[spec.id],
            memory=dict.fromkeys(spec.devices, WORKER_BYTES),
            need=WORKER_BYTES,
            unit=f"rbee-worker@{spec.id}.service",
        )


class Hives:
    """All of them."""

    def __init__(self, count: int, port: int, worker_port: int) -> None:
        self.all = {
            name_of(number): Hive(name_of(number), f"https://{address_of(number)}:{port}", worker_port)
            for number in range(count)
        }

    async def desired(self, request: Request) -> Response:
        """Take the document of the hive that it is for."""
        document = decode(await request.body(), Desired)
        return Response(encode(self.all[document.hive].take(document)), media_type="application/json")

    async def told(self, _: Request) -> Response:
        """Say what they have together."""
        hives = self.all.values()
        beats = [hive.beats for hive in hives if hive.beats is not None]
        return JSONResponse(
            {
                "workers": sum(len(hive.workers) for hive in hives),
                "ready": sum(hive.ready() for hive in hives),
                "failures": sum(each.failures for each in beats),
                "connections": sum(each.connections for each in beats),
            }
        )

    async def report(self, queen_url: str, pki: Path) -> None:
        """Send the heartbeats of all until cancelled, spread over the interval."""
        for hive in self.all.values():
            link = Link(Role.HIVE, FLEET, pki / hive.name)
            hive.beats = Beats(link, queen_url, hive.compose, period=PERIOD_SECONDS)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._turn())
            for hive in self.all.values():
                if hive.beats is not None:
                    group.create_task(hive.beats.run())
                await asyncio.sleep(PERIOD_SECONDS / len(self.all))

    async def _turn(self) -> None:
        """Each second have one ready worker of another hive start over, once all are there."""
        for hive in itertools.cycle(self.all.values()):
            if hive.workers and hive.ready() == len(hive.workers):
                hive.restart(hive.workers[0].id)
            await asyncio.sleep(TURN_SECONDS)


async def answer(request: Request) -> Response:
    """Answer as a worker does."""
    asked = json.loads(await request.body())
    message = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    kind = {"id": "c", "object": "chat.completion", "created": 0, "model": asked["model"]}
    return JSONResponse({**kind, "choices": [message], "usage": usage})


async def serve(options: argparse.Namespace) -> None:
    """Serve and report until cancelled."""
    pki, port, worker_port = options.pki, options.port, options.worker_port
    hives = Hives(options.hives, port, worker_port)
    ready = Route("/ready", lambda _: JSONResponse({"ready": True}))
    apps = (
        ("0.0.0.0", port, Role.HIVE, [Route("/api/v1/desired", hives.desired, methods=["PUT"])]),  # noqa: S104 - TLS
        ("127.0.0.1", worker_port, Role.WORKER, [Route("/v1/chat/completions", answer, methods=["POST"]), ready]),
        ("127.0.0.1", options.control, None, [Route("/", hives.told)]),
    )
    async with asyncio.TaskGroup() as group:
        for address, at, role, routes in apps:
            tls = Link(role, FLEET, pki).server_context() if role is not None else None
            server = HttpServer(Starlette(routes=routes), tls=tls, drain_seconds=1)
            group.create_task(server.serve(sockets=[bind(address, at)]))
        group.create_task(hives.report(options.queen_url, pki))


def main() -> None:
    """Be the hives of a fleet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale.hives", description=__doc__)
    parser.add_argument("--queen-url", required=True)
    parser.add_argument("--pki", type=Path, required=True)
    for name in ("hives", "port", "worker-port", "control"):
        parser.add_argument(f"--{name}", type=int, required=True)
    open_files.allow_many()
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
