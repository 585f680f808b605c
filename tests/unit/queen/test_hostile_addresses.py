"""Forty addresses that mean a host inside: whatever a client does with them, nobody goes there."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from rbee_runtime.config import FleetExternal
from rbee_runtime.errors import ReferenceFormError, RequestError
from rbee_runtime.models.references import check_name
from rbee_runtime.queen import link_app
from rbee_runtime.worker.surface import pictures
from tests.hostile import ADDRESSES
from tests.unit.queen.states import Fixture, fleet, model
from tests.unit.queen.whole import Whole, whole

CHAT = "/v1/chat/completions"


@asynccontextmanager
async def canary() -> AsyncIterator[tuple[int, list[int]]]:
    """Listen on loopback; give the port and who connected to it."""
    seen: list[int] = []

    async def heard(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(1)
        writer.close()

    server = await asyncio.start_server(heard, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


def test_there_are_forty() -> None:
    """As many as are promised, no two alike."""
    assert len(set(ADDRESSES)) == len(ADDRESSES) == 40


@pytest.mark.parametrize("address", ADDRESSES)
def test_t14_an_address_is_no_picture_and_no_model(address: str) -> None:
    """None is fetched for a conversation, and none is the name of a model."""
    with pytest.raises(RequestError, match="none is fetched") as caught:
        pictures.from_url(address.format(port=1), "messages")
    assert caught.value.status == 400
    with pytest.raises(ReferenceFormError):
        check_name(address.format(port=1))


def plain(address: str) -> bool:
    """Say whether it is what it looks like: an address or name, a port, and no more."""
    try:
        FleetExternal(name="x", url=address.format(port=1), models={"m": "m"})
    except ValidationError:
        return False
    return True


def test_t14_a_server_is_named_without_tricks() -> None:
    """An operator may name any host, also one inside; nothing that one reader takes for another host than the next."""
    taken = [address for address in ADDRESSES if plain(address)]
    tricks = ("@", "\\", "#", " ", "\r", "\u3002", "\u2460", "gopher", "ftp", "file", "unix", "http:1")
    assert [address for address in taken if any(trick in address for trick in tricks)] == []
    assert "http://127.0.0.1:{port}/x" in taken
    assert not {each for each in ADDRESSES if "//2130706433" in each or "//127.1:" in each or "//0:" in each} & {*taken}


@pytest.mark.parametrize("address", ADDRESSES)
def test_t14_a_hive_gives_an_address_of_its_own_or_none(queen: Any, address: str) -> None:
    """What it says of itself is scheme, host and port of the fleet's own kind; a path or a trick is refused."""
    q: Fixture = queen(fleet(model(), hives=("a",)))
    report = q.report("a", url=address.format(port=1))
    with pytest.raises(RequestError, match="is not of the form https://ADDRESS:PORT"):
        link_app._check_addresses(report, "https")


def orders(port: int) -> Iterator[tuple[str, dict[str, str], dict[str, Any]]]:
    """Yield requests of a client that would like the queen, or a worker, to go there: path, headers and body."""
    for address in ADDRESSES:
        there = address.format(port=port)
        part = [{"type": "image_url", "image_url": {"url": there}}, {"type": "text", "text": "x"}]
        yield CHAT, {}, {"model": "m", "messages": [{"role": "user", "content": part}]}
        said = {"messages": [{"role": "user", "content": "x"}]}
        yield CHAT, {}, {"model": there, **said}
        yield CHAT, {}, {"model": "m", "base_url": there, "api_base": there, **said}
        if there.isascii() and "\r" not in there:
            names = ("x-rbee-worker", "x-forwarded-host", "x-original-url", "referer", "x-rbee-url")
            yield CHAT, dict.fromkeys(names, there.strip()), {"model": "m", **said}


async def absolute(queen: Whole, target: str) -> bytes:
    """Return the status line of the answer to a request whose target names another server."""
    host, port = httpx.URL(queen.url).host, httpx.URL(queen.url).port
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {queen.key}\r\n\r\n".encode("latin-1"))
    line = await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    return line


@pytest.mark.slow
async def test_t14_no_client_sends_anybody_anywhere(tmp_path: Path) -> None:
    """As a picture, a model, a field, a header or the target itself: no address is connected to by queen or worker."""
    async with (
        canary() as (port, seen),
        whole(tmp_path) as queen,
        httpx.AsyncClient(base_url=queen.url, headers=queen.headers, timeout=30) as c,
    ):
        answers = [await c.post(path, headers=headers, json=body) for path, headers, body in orders(port)]
        targets = [address.format(port=port) for address in ADDRESSES]
        lines = [await absolute(queen, each) for each in targets if each.isascii() and not {" ", "\r"} & set(each)]
    assert seen == []
    assert {answer.status_code for answer in answers} <= {200, 400, 404}
    assert not [line for line in lines if not line.startswith((b"HTTP/1.1 4",))]
    assert len(answers) > 150
