"""Where one request ends and the next begins: no client can make us see it otherwise than the next server does."""

from collections.abc import Callable

import pytest

from tests.unit.framing_cases import CASES, CHUNKED, HEAD, Case
from tests.unit.wire import heard

Cut = Callable[[bytes], list[bytes]]


def _whole(raw: bytes) -> list[bytes]:
    return [raw]


def _bytes(raw: bytes) -> list[bytes]:
    return [raw[at : at + 1] for at in range(len(raw))]


def _lines(raw: bytes) -> list[bytes]:
    return raw.splitlines(keepends=True)


BOTH = pytest.mark.parametrize("hot", [False, True], ids=["application", "relay"])


@BOTH
@pytest.mark.parametrize("cut", [_whole, _bytes, _lines], ids=["whole", "bytes", "lines"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_request_is_taken_or_refused_however_it_comes(case: Case, cut: Cut, *, hot: bool) -> None:
    """What is refused reaches nobody and ends its connection; what is taken arrives whole, in whichever pieces."""
    wire, taken = await heard(cut(case.raw), hot=hot)
    assert tuple(wire.statuses) == case.statuses
    assert tuple(each.body for each in taken) == case.bodies
    assert wire.closed is not case.open


@BOTH
@pytest.mark.parametrize("raw", [HEAD + b"content-length: 3\r\n\r\nabc", CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"])
async def test_a_request_that_breaks_off_reaches_nobody(raw: bytes, *, hot: bool) -> None:
    """Closed at any byte before its last one, a request is none."""
    for length in range(len(raw)):
        wire, taken = await heard([raw[:length]], hot=hot)
        assert (taken, wire.statuses) == ([], [])


@BOTH
async def test_trailers_are_no_headers(*, hot: bool) -> None:
    """Nobody can add a header behind the body, where no check has seen it."""
    _, taken = await heard([CHUNKED + b"0\r\nauthorization: Bearer x\r\nhost: b\r\n\r\n"], hot=hot)
    assert taken[0].headers == ((b"host", b"a"), (b"transfer-encoding", b"chunked"))


async def test_a_refusal_is_a_sentence() -> None:
    """A person who speaks to us by hand reads what is wrong."""
    wire, _ = await heard([b"POST /x HTTP/1.1\r\n\r\n"])
    assert b'"message":"a request names its host in exactly one Host header"' in wire.sent
    assert b"connection: close\r\n" in wire.sent
