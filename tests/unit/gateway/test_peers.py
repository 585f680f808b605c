"""How many connections one client's machine may have."""

import asyncio
from typing import Any

import pytest

from rbee_runtime.gateway.peers import TELL_SECONDS, Peers, peer_of
from tests.unit.gateway.gateway import ASK, Gate, gateway
from tests.unit.gateway.upstream import answer_json, worker

ADDRESSES = {
    "IPv4": (("10.0.0.7", 4711), "10.0.0.7"),
    "IPv4 in IPv6": (("::ffff:10.0.0.7", 4711, 0, 0), "10.0.0.7"),
    "IPv6, one of the addresses of a site": (("2001:db8:1:2ff:3:4:5:6", 4711, 0, 0), "2001:db8:1:200::/56"),
    "IPv6 of a link": (("fe80::1%eth0", 4711, 0, 2), "fe80::/56"),
    "a local socket": ("", ""),
    "none": (None, ""),
}


@pytest.mark.parametrize(("address", "peer"), ADDRESSES.values(), ids=ADDRESSES)
def test_a_peer_is_whoever_has_the_address(address: Any, peer: str) -> None:
    """Whoever has an IPv6 network chooses addresses in it at will, and is one peer."""
    assert peer_of(address) == peer


def test_each_peer_has_as_many_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    """One that has too many takes nothing from others, and the log says so once a minute."""
    now = [100.0]
    peers = Peers(2, lambda: now[0])
    assert [peers.enter("a"), peers.enter("a"), peers.enter("a"), peers.enter("b"), peers.enter("a")] == [
        *(True, True, False),
        *(True, False),
    ]
    peers.leave("a")
    assert [peers.enter("a"), peers.enter("a")] == [True, False]
    assert capsys.readouterr().err.splitlines() == ['warning event="connections refused" peer=a open=2']
    now[0] += TELL_SECONDS
    assert not peers.enter("a")
    assert len(capsys.readouterr().err.splitlines()) == 1


async def test_a_connection_too_many_hears_why_and_those_before_it_go_on() -> None:
    """It is served as soon as another one has ended."""

    async def opened(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = url.split("/")[2].split(":")
        return await asyncio.open_connection(host, int(port))

    async with worker(answer_json) as w, gateway(Gate([w.url]), most=2) as g:
        first, second, third = [await opened(g.url) for _ in range(3)]
        said = await asyncio.wait_for(third[0].read(), 20)
        assert said.startswith(b"HTTP/1.1 429 ")
        assert b"too many connections" in said
        assert b"\r\nretry-after: 1\r\n" in said
        second[1].write(ASK)
        await asyncio.wait_for(second[0].readuntil(b"true}"), 20)
        first[1].close()

        async def served() -> bool:
            reader, writer = await opened(g.url)
            writer.write(ASK)
            answer = await reader.readline()
            writer.close()
            return b" 200 " in answer

        async with asyncio.timeout(20):
            while not await served():  # noqa: ASYNC110 - it asks again, as a client does
                await asyncio.sleep(0.05)
        for _, writer in (second, third):
            writer.close()
        assert len(w.calls) == 2
