"""Certificates outside their time: refused, and the clock and the skew are named."""

import asyncio
import contextlib
import re
from pathlib import Path

import httpx
import pytest

from rbee_runtime.link import Link, Role
from tests.unit.certificates import Odd, issue_fleet

HIVE, QUEEN = (f"rbee://t/{role}/{role}" for role in ("hive", "queen"))
EARLY, LATE = {"since": 1.5, "until": 24}, {"since": -24, "until": -1.5}


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        await writer.drain()
    writer.transport.abort()


async def refusal(pki: Path) -> str:
    """Return what a hive says about clocks when it asks a queen with the certificates of this folder."""
    link = Link(Role.HIVE, "t", pki)
    context = Link(Role.QUEEN, "t", pki).server_context()
    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    async with server, link.client(timeout=httpx.Timeout(5.0), peer=Role.QUEEN) as client:
        try:
            await client.get(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        except httpx.HTTPError as error:
            return link.doubt(error)
    return "answered"


@pytest.mark.parametrize(
    ("times", "said"),
    [(EARLY, r"clock says .* UTC, 1:(29|30):\d\d before its own"), (LATE, r"UTC, 1:30:\d\d after its own")],
    ids=["behind", "ahead"],
)
async def test_m5_a_certificate_outside_its_time_names_the_clock(
    tmp_path: Path, times: dict[str, float], said: str
) -> None:
    """A host whose clock is off by more than the fleet's certificates allow reads by how much, and what to do."""
    pki = issue_fleet(tmp_path, "t", odd={"hive": Odd(HIVE, **times), "queen": Odd(QUEEN, **times)})
    assert re.search(said, await refusal(pki))


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({}, "answered"),
        ({"queen": Odd(QUEEN, **EARLY)}, "the other end's certificate is outside its time; this host's clock says"),
        ({"queen": Odd(QUEEN, **LATE)}, "the other end's certificate is outside its time; this host's clock says"),
        ({"hive": Odd(HIVE, **LATE)}, "after its own certificate ended"),
        ({"hive": Odd(HIVE, **EARLY)}, "before its own certificate begins"),
    ],
    ids=["in time", "queen early", "queen late", "hive late", "hive early"],
)
async def test_m5_a_refused_certificate_names_the_clock(tmp_path: Path, odd: dict[str, Odd], said: str) -> None:
    """Whichever end refuses the other one's certificate, the hive's sentence is about clocks."""
    assert said in await refusal(issue_fleet(tmp_path, "t", odd=odd))
