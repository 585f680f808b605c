"""Servers on loopback, and what a source gives when it is asked."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest

from rbee_runtime.config import StoreSettings
from rbee_runtime.models.sources import RemoteFile, Source
from tests.unit.models.sources.servers import Asked, Reply, Server

LOOPBACK = StoreSettings(plain_http_hosts=("127.0.0.1", "localhost"))


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Asked], Reply]], Server]]:
    with ExitStack() as servers:
        yield lambda answer: servers.enter_context(Server(answer).running())


@pytest.fixture(autouse=True)
def _hub_client_closed() -> Iterator[None]:
    from huggingface_hub import close_session  # noqa: PLC0415 - only the tests of the hub need its client

    yield
    close_session()


async def content(source: Source, file: RemoteFile, *, offset: int = 0) -> bytes:
    blocks: AsyncIterator[bytes] = source.read(file, offset=offset)
    return b"".join([block async for block in blocks])
