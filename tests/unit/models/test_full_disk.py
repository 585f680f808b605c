"""A model disk that is really full: a small file system of its own, never the machine's."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee_runtime.errors import DiskFullError
from rbee_runtime.models.store import ModelStore

from .faulty_server import faulty_server
from .pulling import CONTENT, DIGEST, Pulling, spec

pytestmark = pytest.mark.lab


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


async def test_d5_a_disk_that_fills_mid_way_is_told_at_once_and_gone_on_with(small: Path) -> None:
    """Filled by somebody else, it ends at once, serves what is there, and fetches the rest once there is room."""
    pulling = Pulling(small / "models")
    ballast = small / "ballast"
    ballast.write_bytes(bytes(8 * 1024 * 1024))
    async with faulty_server(CONTENT) as server:
        pulling.store.layout.prepare()
        puller = pulling.puller()
        puller._store.layout.free = lambda: 2**40  # type: ignore[method-assign]
        with pytest.raises(DiskFullError, match="the model disk is full"):
            await puller.pull(spec(server))
        assert (pulling.visible(), pulling.pauses, server.gets) == ([], [], 1)
        await asyncio.to_thread(ballast.unlink)
        sent = server.sent
        report = await pulling.puller().pull(spec(server))
    assert server.sent - sent < len(CONTENT)
    assert ModelStore(small / "models").path_of(report.files[0]).read_bytes() == CONTENT
    assert report.files[0].sha256 == DIGEST
