"""Requests to many servers: each server has connections of its own, and none that idle for long."""

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from rbee_runtime import origins
from rbee_runtime.origins import PerOrigin
from tests.unit.hive.waiting import until


class Parts(httpx.AsyncByteStream):
    """A body of two parts; it knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    async def aclose(self) -> None:
        self.closed = True


class Transport(httpx.AsyncBaseTransport):
    """Answers each request, or fails; it knows what it was asked and whether it was closed."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.bodies: list[Parts] = []
        self.closed = False
        self.error: Exception | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        if self.error is not None:
            raise self.error
        self.bodies.append(Parts())
        return httpx.Response(200, stream=self.bodies[-1])

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture
def made() -> list[Transport]:
    return []


@pytest.fixture
def make(made: list[Transport]) -> Callable[[], Transport]:
    def one() -> Transport:
        made.append(Transport())
        return made[-1]

    return one


async def test_each_server_has_a_pool_of_its_own(made: list[Transport], make: Callable[[], Transport]) -> None:
    """Another port or scheme is another server; another path is not."""
    urls = ["http://a:1/x", "http://a:1/y", "http://a:2/x", "https://a:1/x", "http://b:1/x"]
    async with httpx.AsyncClient(transport=PerOrigin(make)) as client:
        for url in urls:
            assert (await client.get(url)).text == "ab"
    assert [each.asked for each in made] == [urls[:2], *([url] for url in urls[2:])]
    assert all(each.closed for each in made)
    assert all(body.closed for each in made for body in each.bodies)


async def test_pools_that_idle_are_closed_a_few_at_a_time(
    made: list[Transport], make: Callable[[], Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose answer is still open stays, however long that takes, and so does one that was just used."""
    monkeypatch.setattr(origins, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(origins, "MOST_AT_ONCE", 2)
    transport = PerOrigin(make, idle_seconds=0.2)
    async with httpx.AsyncClient(transport=transport) as client:
        async with client.stream("GET", "http://open:1/"):
            for number in range(5):
                await client.get(f"http://idle{number}:1/")
            sizes: list[int] = []
            while transport.servers > 1:
                sizes.append(transport.servers)
                await asyncio.sleep(0.01)
            assert set(sizes) <= {6, 4, 2}
            await until(lambda: all(each.closed for each in made[1:]))
            assert not made[0].closed
        await client.get("http://open:1/again")
        assert len(made) == 6
        await until(lambda: made[0].closed)
        await client.get("http://open:1/later")
        assert len(made) == 7


async def test_a_request_that_fails_leaves_nothing_open(
    made: list[Transport], make: Callable[[], Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool of a server that is not there goes as any other does."""
    monkeypatch.setattr(origins, "SWEEP_SECONDS", 0.02)
    transport = PerOrigin(make, idle_seconds=0.05)
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get("http://a:1/")
        made[0].error = httpx.ConnectError("nobody is there")
        with pytest.raises(httpx.ConnectError):
            await client.get("http://a:1/")
        await until(lambda: transport.servers == 0)
    assert made[0].closed
