"""Mock workers, cheap enough to leave a core to who asks them: `python -m benchmarks.gateway.mock`.

They speak as far as a gateway needs it what a worker speaks, each on ports of its own, plain or over mutual TLS as
role worker. One more port tells what they were asked.
"""

import argparse
import asyncio
import contextlib
import gc
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import httptools
import uvloop

from benchmarks.gateway.answers import MODELS, Form, body_of, events, wanted
from rbee_runtime import open_files
from rbee_runtime.link import Link, Role

BACKLOG = 4096
SMALL = {
    "/health": {"status": "ok"},
    "/ready": {"ready": True, "state": "ready"},
    "/v1/models": {"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]},
}


@dataclass
class Seen:
    """What came: requests by port, tokens sent, answers that are under way and the most that ever were."""

    requests: Counter[int] = field(default_factory=Counter)
    tokens: int = 0
    open: int = 0
    peak: int = 0

    def begin(self, port: int) -> None:
        """Note a request."""
        self.requests[port] += 1
        self.open += 1
        self.peak = max(self.peak, self.open)

    def end(self) -> None:
        """Note the end of its answer."""
        self.open -= 1

    def told(self) -> bytes:
        """Return it as JSON; the peak begins anew."""
        told = {"requests": self.requests, "tokens": self.tokens, "open": self.open, "peak": self.peak}
        self.peak = self.open
        return json.dumps(told).encode()


class Worker(asyncio.Protocol):
    """One connection; httptools calls the `on_` methods."""

    def __init__(self, port: int, seen: Seen) -> None:
        self._port = port
        self._seen = seen
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse; what is not HTTP closes the connection."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        """Stop what nobody listens to."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._seen.end()

    def on_message_begin(self) -> None:
        """Forget the last request."""
        self._url, self._body = b"", []

    def on_url(self, url: bytes) -> None:
        """Keep the path."""
        self._url += url

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer."""
        if self._parser.get_method() != b"POST":
            self._transport.write(_small(self._url.decode("latin-1")))
            return
        form = wanted(b"".join(self._body))
        if form is None:
            self._transport.write(_framed(400, "application/json", b'{"error": "no mark says how to answer"}'))
            return
        self._seen.begin(self._port)
        if form.gap:
            self._paced(form)
            return
        self._transport.write(_at_once(form))
        self._seen.tokens += form.chunks
        self._seen.end()

    def _paced(self, form: Form) -> None:
        loop = asyncio.get_running_loop()
        pieces = _pieces(form.chunks)
        gap, begun = form.gap / 1000, loop.time()
        self._transport.write(_STREAM_HEAD)

        def send(number: int) -> None:
            self._transport.write(pieces[number])
            if number < form.chunks - 1:
                self._seen.tokens += 1
                # By the clock of the stream, so that what is late once is not late for ever.
                self._timer = loop.call_at(begun + (number + 1) * gap, send, number + 1)
                return
            self._seen.tokens += 1
            self._timer = None
            self._transport.write(b"".join(pieces[form.chunks :]))
            self._seen.end()

        send(0)


_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


@cache
def _pieces(chunks: int) -> tuple[bytes, ...]:
    """Return a stream's events, each in an HTTP chunk of its own, and the end of the body."""
    return (*(b"%x\r\n%s\r\n" % (len(event), event) for event in events(chunks)), b"0\r\n\r\n")


@cache
def _at_once(form: Form) -> bytes:
    if form.stream:
        return _STREAM_HEAD + b"".join(_pieces(form.chunks))
    return _framed(200, "application/json", body_of(form))


@cache
def _small(path: str) -> bytes:
    found = SMALL.get(path)
    return _framed(404 if found is None else 200, "application/json", json.dumps(found or {"error": path}).encode())


def _framed(status: int, kind: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %d OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (
        status,
        kind.encode(),
        len(body),
        body,
    )


async def _tell(seen: Seen, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(seen.told())
    writer.close()


async def serve(plain: Sequence[int], tls: Sequence[int], control: int, link: Link) -> None:
    """Serve until cancelled; `link` has the certificate for the ports with TLS."""
    loop = asyncio.get_running_loop()
    seen = Seen()
    async with contextlib.AsyncExitStack() as stack:
        for ports, context in ((plain, None), (tls, link.server_context() if tls else None)):
            for port in ports:
                worker = partial(Worker, port, seen)
                server = await loop.create_server(worker, "127.0.0.1", port, ssl=context, backlog=BACKLOG)
                await stack.enter_async_context(server)
        teller = await asyncio.start_server(partial(_tell, seen), "127.0.0.1", control)
        await teller.serve_forever()


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until ended by a signal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway.mock", description=__doc__)
    for name in ("plain", "tls"):
        parser.add_argument(f"--{name}", type=int, nargs="*", default=[], metavar="PORT")
    parser.add_argument("--control", type=int, required=True, metavar="PORT")
    parser.add_argument("--fleet", default="bench")
    parser.add_argument("--link-dir", type=Path)
    options = parser.parse_args(argv)
    open_files.allow_many()
    link = Link(Role.WORKER, options.fleet, options.link_dir)
    # Connections are cycles that live long; looking for more of them is a pause in somebody's figure.
    gc.disable()
    uvloop.run(serve(options.plain, options.tls, options.control, link))


if __name__ == "__main__":
    main()
