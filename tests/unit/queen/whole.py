"""A whole queen in this process, as on a laptop: every part, real sockets, a hive inside, real workers."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from rbee_runtime import config
from rbee_runtime.config import FleetFile, FleetHive, HiveConfig
from rbee_runtime.queen import laptop
from rbee_runtime.queen.commands import Commands
from rbee_runtime.queen.control import Order
from rbee_runtime.queen.serve import link_of
from rbee_runtime.queen.serving import Serving
from rbee_runtime.queen.store import Store
from rbee_runtime.server import bind
from tests.ports import free_ports
from tests.unit.queen.states import model

FLEET = FleetFile(
    hives=(FleetHive(name=laptop.HIVE_NAME),),
    models=(model("m", source="fake:tokens=3"), model("org/cold:q4", source="fake:tokens=3", replicas_min=0)),
    aliases={"alias": "m"},
)


@dataclass
class Whole:
    """Where it answers, what opens everything, and its parts."""

    url: str
    key: str
    serving: Serving

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}


@asynccontextmanager
async def whole(folder: Path, fleet: FleetFile = FLEET) -> AsyncIterator[Whole]:
    """Start a queen and yield it once it serves; end it with its workers."""
    setup = laptop.prepare(folder, folder / "engines", 0, [])
    setup.config.fleet_file.write_text(yaml.safe_dump(fleet.model_dump(mode="json")))
    hive = config.load(setup.hive_file, HiveConfig).model_copy(
        update={"worker_ports": free_ports(8), "heartbeat_seconds": 0.5}
    )
    store = Store(setup.config.state_dir)
    serving = Serving(setup.config, store, link_of(setup.config), digest="d")
    listeners = bind("127.0.0.1", 0), bind("127.0.0.1", 0)
    ours, theirs = socket.socketpair()
    ready = asyncio.Event()
    running = asyncio.create_task(serving.run(*listeners, Commands(ours), tls=None, hive=hive, on_ready=ready.set))
    try:
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        port = listeners[0].getsockname()[1]
        key = (setup.config.state_dir / laptop.KEY_FILE).read_text().strip()
        yield Whole(f"http://127.0.0.1:{port}", key, serving)
    finally:
        theirs.send(f"{Order.STOP}\n".encode())
        await running
        store.close()
        for end in (ours, theirs, *listeners):
            end.close()
