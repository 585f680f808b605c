import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rbee_runtime.guard.config import EngineKind, GuardConfig
from rbee_runtime.guard.guard import Guard
from rbee_runtime.guard.serving import Serving
from tests.unit.guard.places import ACCOUNT, IMAGE, Places, furnish
from tests.unit.guard.recording_engine import RecordingEngine, running, shut


@pytest.fixture(params=list(EngineKind))
def kind(request: pytest.FixtureRequest) -> EngineKind:
    return EngineKind(request.param)


@pytest.fixture
def places() -> Iterator[Places]:
    """Return the folders of a host; a path of a socket must be short, so not those that pytest makes."""
    with tempfile.TemporaryDirectory(prefix="guard-") as root:
        yield furnish(Path(root).resolve())


@pytest.fixture
def config(places: Places, kind: EngineKind) -> GuardConfig:
    return places.config(kind)


@pytest.fixture
def engine(config: GuardConfig) -> Iterator[RecordingEngine]:
    """Give an engine that has the worker's image, and the network of workers as a hive has it made."""
    with running(RecordingEngine(config.engine, config.engine_socket, IMAGE)) as started:
        started.networks.append(shut(config))
        yield started


@contextlib.asynccontextmanager
async def guarding(config: GuardConfig) -> AsyncIterator[Path]:
    """Give the socket of a guard that runs in this test's loop."""
    path = config.engine_socket.with_name("guard.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    serving = Serving(Guard(config, ACCOUNT))
    await serving.start(listener)
    try:
        yield path
    finally:
        await serving.stop()
        path.unlink()


@pytest.fixture
async def guarded(config: GuardConfig, engine: RecordingEngine) -> AsyncIterator[Path]:
    async with guarding(config) as path:
        yield path
