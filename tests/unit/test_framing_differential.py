"""The same bytes, read by our server and by h11, which shares no code with it."""

import random
import re

import h11
import pytest

from tests.unit.wire import Taken, heard

EACH = 1000
"""Requests of one seed; five seeds for each of two ways are ten thousand."""

METHODS = (b"POST", b"POST", b"POST", b"GET", b"PUT", b"DELETE", b"post", b"BREW", b"")
TARGETS = (
    b"/x",
    b"/x",
    b"/x?y=1",
    b"/",
    b"//x",
    b"/%2e%2e/x",
    b"http://b/x",
    b"*",
    b"x",
    b"/x y",
    b"/\xc3\xa9",
    b"/x#y",
)
VERSIONS = (b"HTTP/1.1",) * 8 + (b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/1", b"")
ENDS = (b"\r\n",) * 30 + (b"\n", b"\r", b"\r\r\n", b"\r\n ", b" \r\n")
NAMES = (b"content-length", b"Content-Length", b"transfer-encoding", b"Transfer-Encoding", b"host", b"connection", b"x")
ODD_NAMES = (b"content-length ", b" content-length", b"transfer_encoding", b"content\x00length", b"expect", b"")
VALUES = (b"3", b"3", b"5", b"0", b"03", b"+3", b"3,3", b"3 ", b"0x3", b"", b"chunked", b"chunked", b"Chunked")
ODD_VALUES = (
    b"chunked, chunked",
    b"gzip, chunked",
    b"identity",
    b"close",
    b"keep-alive",
    b"a",
    b"\x0bchunked",
    b"\xff",
)
BODIES = (b"", b"abc", b"abcde", b"3\r\nabc\r\n0\r\n\r\n", b"3;x\r\nabc\r\n0\r\n\r\n", b"0\r\n\r\n", b"3\nabc\n0\n\n")
ODD_BODIES = (
    b"3\r\nabcd\r\n0\r\n\r\n",
    b"-3\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabc\r\n0\r\nx: y\r\n\r\n",
    b"zz\r\n",
    b"3 \r\nabc\r\n0\r\n\r\n",
)


HARMLESS = re.compile(rb"[\r\n]+|[^\r\n]* (?= )")
"""What h11 refuses and llhttp overlooks: empty lines before a request, and more than one space between the parts of its
line. Neither says anything about where a request ends, and what goes on to a worker is written anew."""

SPLICED = (b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b"\x0b", b":", b";", b",", b"0", b"3", b"-", b"+", b"\xff", b"")
SOUND = (
    b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
    b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET /x?y HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n",
    b"POST /x HTTP/1.0\r\ncontent-length: 3\r\n\r\nabc",
)


def _damaged(chance: random.Random) -> bytes:
    """Return a sound request with up to two bytes replaced, or something put between them."""
    raw = chance.choice(SOUND)
    for _ in range(chance.choice((0, 1, 1, 2))):
        at = chance.randrange(len(raw))
        raw = raw[:at] + chance.choice(SPLICED) + raw[at + chance.choice((0, 1)) :]
    return raw


def _one(chance: random.Random) -> bytes:
    return _damaged(chance) if chance.random() < 0.5 else _composed(chance)


def _composed(chance: random.Random) -> bytes:
    """Return a request of parts about which servers disagree."""
    line = b" ".join((chance.choice(METHODS), chance.choice(TARGETS), chance.choice(VERSIONS)))
    lines = [line + chance.choice(ENDS), *([b"host: a\r\n"] if chance.random() < 0.9 else [])]
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        name = chance.choice(NAMES if chance.random() < 0.9 else ODD_NAMES)
        value = chance.choice(VALUES if chance.random() < 0.85 else ODD_VALUES)
        lines.append(name + chance.choice((b": ", b":", b": \t")) + value + chance.choice(ENDS))
    lines.append(chance.choice(ENDS))
    return b"".join(lines) + chance.choice(BODIES if chance.random() < 0.8 else ODD_BODIES)


def _h11(raw: bytes) -> list[Taken]:
    """Return the requests that h11 sees in a client's bytes, up to its first complaint."""
    server, found, body = h11.Connection(h11.SERVER), [], b""
    request: h11.Request | None = None
    try:
        server.receive_data(raw)
        while True:
            event = server.next_event()
            if event is h11.PAUSED and server.their_state is h11.DONE and server.our_state is h11.DONE:
                server.start_next_cycle()
            elif isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                found.append(Taken(request.method.decode(), request.target, body))
                server.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                server.send(h11.EndOfMessage())
            else:
                return found
    except h11.ProtocolError:
        return found


@pytest.mark.parametrize("hot", [False, True], ids=["application", "relay"])
@pytest.mark.parametrize("seed", range(5))
async def test_what_we_take_another_server_reads_alike(seed: int, *, hot: bool) -> None:
    """Of each request that reaches our application h11 sees the same method, target and body, and as many in a row."""
    chance = random.Random(2 * seed + hot)
    accepted = 0
    for _ in range(EACH):
        raw = _one(chance) + (_one(chance) if chance.random() < 0.3 else b"")
        _, ours = await heard([raw], hot=hot)
        theirs = _h11(raw)
        accepted += len(ours)
        if theirs or not HARMLESS.match(raw):
            assert [_told(each) for each in ours] == [_told(each) for each in theirs[: len(ours)]], raw
    # A server that refused everything would agree with any other.
    assert accepted > EACH / 8


def _told(taken: Taken) -> tuple[str, bytes, bytes]:
    path = taken.target.partition(b"?")[0].removeprefix(b"http://b")
    return taken.method, path, taken.body
