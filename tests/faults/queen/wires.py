"""The network between a queen and a hive in a test's hand: cut, either way or both, or slow and lossy."""

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import yaml

from tests.ports import free_port
from tests.unit.queen.hosts import Host

_LOOK_SECONDS = 0.02
Edit = Callable[[bytes], bytes]
Delay = Callable[[], float]


def no_delay() -> float:
    return 0.0


def lossy(delay: float, loss: float, seed: int = 1) -> Delay:
    """Return what a piece of TCP takes where packets are lost: the delay, and a pause that doubles for each repeat."""
    rng = random.Random(seed)

    def sample() -> float:
        took, pause = delay, max(2 * delay, 0.2)
        while rng.random() < loss:
            took, pause = took + pause, pause * 2
        return took

    return sample


@dataclass
class Wire:
    """Connections to one port of this machine; what meets a cut is lost, and its connection with it."""

    target: int
    edit: Edit = bytes
    port: int = field(default_factory=free_port)
    cut: bool = False
    delay: Delay = no_delay

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either end closes it or a cut has taken something from it."""
        ends, ways = [writer], list[asyncio.Task[None]]()
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            ends.append(far_writer)
            ways.append(asyncio.create_task(self._carry(reader, far_writer, self.edit)))
            ways.append(asyncio.create_task(self._carry(far_reader, writer, bytes)))
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for way in ways:
                way.cancel()
            for end in ends:
                end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, edit: Edit) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(self.delay())
                lost = self.cut
                while self.cut:  # noqa: ASYNC110 - set from another thread
                    await asyncio.sleep(_LOOK_SECONDS)
                if lost:
                    return
                writer.write(edit(data))
                await writer.drain()


@dataclass
class Link:
    """Both directions between a hive and its queen: `up` has what the hive asks, `down` what the queen asks."""

    up: Wire
    down: Wire

    @classmethod
    def of(cls, host: Host, *, heartbeat: float) -> "Link":
        """Return the wires of a host whose hive has not started, and put them into its settings.

        The queen learns the hive's address from heartbeats: there the wire's port is put in, as a router does it.
        """
        file = host.folder / "hive.yaml"
        settings = yaml.safe_load(file.read_text())
        down = Wire(settings["port"])
        own, wire = (f"http://127.0.0.1:{port}".encode() for port in (settings["port"], down.port))
        assert len(own) == len(wire)
        up = Wire(host.unit.link_port, edit=lambda data: data.replace(own, wire))
        settings |= {"queen_url": f"http://127.0.0.1:{up.port}", "heartbeat_seconds": heartbeat}
        file.write_text(yaml.safe_dump(settings))
        return cls(up, down)

    def set(self, *, up: bool, down: bool) -> None:
        """Say which direction is open."""
        self.up.cut, self.down.cut = not up, not down

    def slow(self, delay: Delay) -> None:
        """Let all that passes take so long."""
        self.up.delay = self.down.delay = delay


@contextlib.contextmanager
def carried(*links: Link) -> Iterator[None]:
    """Carry these links in the background."""
    loop = asyncio.new_event_loop()
    wires = [wire for link in links for wire in (link.up, link.down)]
    starts = [asyncio.start_server(wire.accept, "127.0.0.1", wire.port) for wire in wires]
    servers = [loop.run_until_complete(start) for start in starts]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(_end(servers), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(servers: list[asyncio.Server]) -> None:
    for server in servers:
        server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    # A connection that was ended is let go of in the next turns of the loop.
    await asyncio.sleep(_LOOK_SECONDS)
