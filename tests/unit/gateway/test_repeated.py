"""Requests whose head came before: each is what a parser would have made of it."""

import random

import pytest

from rbee_runtime.gateway import front
from rbee_runtime.gateway.repeated import head_of
from tests.unit.gateway.gateway import Gate, gateway
from tests.unit.gateway.test_front import raw
from tests.unit.gateway.upstream import answer_json, worker
from tests.unit.wire import TURNS, heard

ASK = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX: y\r\n\r\nabc"


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (ASK, (b"3", 54)),
        (ASK.replace(b"3\r", b"12\r")[:-3] + b"a" * 12, (b"12", 55)),
        (ASK.replace(b"3\r", b"0\r")[:-3], (b"0", 54)),
        (ASK[:-3], (b"3", 54)),
        (ASK + ASK, (b"3", 54)),
        (ASK[:-4], None),
        (ASK.replace(b"3\r", b"+3\r"), None),
        (ASK.replace(b"3\r", b" 3\r"), None),
        (ASK.replace(b"3\r", b"3 \r"), None),
        (ASK.replace(b"3\r", b"\xd9\xa3\r"), None),
        (ASK.replace(b"3\r", b"9999999999\r"), None),
        (ASK.replace(b"3\r", b"\r"), None),
        (ASK.replace(b": y", b": z"), None),
        (ASK.replace(b"Host", b"host"), None),
        (ASK.replace(b"/x", b"/y"), None),
        (b"", None),
    ],
)
def test_only_the_length_may_differ(data: bytes, found: tuple[bytes, int] | None) -> None:
    """With any other byte it is for the parser."""
    head = head_of(ASK)
    assert head is not None
    assert head.length_of(data) == found


@pytest.mark.parametrize(
    "data",
    [
        b"POST /x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\n\r\ncontent-length: 3\r\n\r\nabc",
        ASK[:-4],
        ASK + b"d",
        ASK + ASK,
    ],
)
def test_what_is_not_one_whole_head_with_a_length_is_not_remembered(data: bytes) -> None:
    """A head is remembered from what was nothing else."""
    assert head_of(data) is None


PARTS = (b"3\r\n", b"X: y\r\n", b"abc", b"/x", b"Host", b"\r\n\r\n", b"Content-Length: 3", b"HTTP/1.1")
OTHERS = (b"", b"4\r\n", b"03\r\n", b"X: z\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"abcd", b"ab")


def _asked(chance: random.Random) -> bytes:
    """Return the usual request, or one that differs from it in one place."""
    if chance.random() < 0.6:
        return ASK
    return ASK.replace(chance.choice(PARTS), chance.choice(OTHERS), 1)


def _pieces(chance: random.Random) -> list[bytes]:
    """Return six requests, each in one piece, in two, or with the beginning of the next one."""
    pieces = [b""]
    for raw_request in (_asked(chance) for _ in range(6)):
        kept = pieces.pop() if chance.random() < 0.1 else b""
        cut = chance.choice((0, 0, 0, raw_request.find(b"\r\n\r\n") + 4, chance.randrange(len(raw_request) + 1)))
        pieces += [kept + raw_request[:cut], raw_request[cut:]] if cut else [kept + raw_request]
    return pieces


@pytest.mark.parametrize("seed", range(500))
async def test_a_connection_hears_the_same_with_and_without(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes after what, in whatever pieces: the same requests, the same bytes back, the same end."""
    pieces = _pieces(random.Random(seed))
    wire, taken = await heard(pieces, hot=True, turns=TURNS)
    monkeypatch.setattr(front, "head_of", lambda _data: None)
    plain, expected = await heard(pieces, hot=True, turns=TURNS)
    assert (taken, wire.sent, wire.closed) == (expected, plain.sent, plain.closed)


async def test_a_head_that_came_before_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that of the first request is, and that of one which differs, after which it is that one's turn."""
    read: list[bytes] = []

    def on_url(self: front.Front, url: bytes) -> None:
        read.append(url)
        self.url = url

    monkeypatch.setattr(front.Front, "on_url", on_url)
    other = ASK.replace(b"/x", b"/y")
    _, taken = await heard([ASK, ASK, ASK[:-2], ASK[-2:], other, other, ASK], hot=True, turns=TURNS)
    assert read == [b"/x", b"/y", b"/x"]
    assert [each.target for each in taken] == [b"/x", b"/x", b"/x", b"/y", b"/y", b"/x"]


async def test_a_connection_whose_heads_all_differ_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a pool of many clients it is not worth keeping what comes; one that comes again in time is."""
    kept: list[bytes] = []
    monkeypatch.setattr(front, "head_of", lambda data: (kept.append(data), head_of(data))[1])  # type: ignore[func-returns-value]
    others = [ASK.replace(b"y", b"%d" % number) for number in range(9)]
    await heard(others, hot=True, turns=TURNS)
    assert len(kept) == front.MOST_UNLIKE
    kept.clear()
    await heard([each for other in others for each in (other, other)], hot=True, turns=TURNS)
    assert len(kept) == len(others)


async def test_each_request_goes_to_a_worker_with_its_own_body() -> None:
    """On one connection, with the same head and another length."""
    bodies = [b'{"model":"m","n":%d}' % (10**number) for number in range(4)]
    async with worker(answer_json) as w, gateway(Gate([w.url])) as g:
        reader, writer = await raw(g, b"")
        for body in bodies:
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r")[0]))
        assert [call.body for call in w.calls] == bodies
        writer.close()
