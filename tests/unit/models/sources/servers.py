"""A small HTTP server on loopback whose answers are a function; what the fake hub, bucket and registry are made of."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class Asked:
    """A request: `path` is decoded, `headers` have lower-case names."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def ranged(asked: Asked, content: bytes, **headers: str) -> Reply:
    """Return the part of `content` that a Range header asks for, as servers of files do."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    wanted = _RANGE.fullmatch(asked.headers.get("range", ""))
    if wanted is None:
        return Reply(200, content, named)
    first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
    if first >= len(content):
        return Reply(416, b"", {"content-range": f"bytes */{len(content)}"})
    return Reply(206, content[first : last + 1], {**named, "content-range": f"bytes {first}-{last}/{len(content)}"})


class Server:
    """Serves `answer` and remembers what was asked."""

    def __init__(self, answer: Callable[[Asked], Reply], *, address: str = "127.0.0.1") -> None:
        self.asked: list[Asked] = []
        self.address = address
        self._http = ThreadingHTTPServer((address, 0), _handler(answer, self.asked))
        self.port = int(self._http.server_address[1])

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @contextlib.contextmanager
    def running(self) -> Iterator["Server"]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join(5)


def _handler(answer: Callable[[Asked], Reply], log: list[Asked]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, unquote(url.path), dict(parse_qsl(url.query)), headers)
            log.append(asked)
            reply = answer(asked)
            self.send_response(reply.status)
            for name, value in {"content-length": str(len(reply.body)), "connection": "close", **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(reply.body)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

        def log_message(self, *_: Any) -> None:
            """Keep quiet."""

    return Handler
